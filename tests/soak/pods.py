"""A pod without Kubernetes: a client process that is started again when it ends, and a state that the group is told.

Invariant: each start is an actor of its own for the auditor; whoever does something to a pod has it to himself. Nobody
ends a client's connection before `may_end` has returned.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from partymq.core.membership import PodState
from support.conditions import eventually
from support.group import Group
from support.options import Leave, Library
from support.processes import Client

STARTS_WITHIN = 60.0
RESTART_AFTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What kind of client it is."""

    library: Library = Library.AIO_PIKA
    prefetch: int = 20
    work: float = 0.002
    leave: Leave = Leave.FINISH
    hold_after: int | None = None


def profile(rng: Random) -> Profile:
    """A client as people write them."""
    library = rng.choice([Library.AIO_PIKA, Library.AIO_PIKA, Library.PIKA])
    return Profile(
        library=library,
        prefetch=rng.choice([1, 5, 20, 100]),
        work=rng.choice([0.0, 0.001, 0.004]),
        leave=rng.choice(list(Leave)),
    )


class Pod:
    """One pod: `run`, then what the faults do to it, then `terminate` or `vanish`."""

    def __init__(
        self,
        group: Group,
        name: str,
        profile: Profile,
        *,
        returns: bool,
        generation: str = "",
        may_end: Callable[[], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        """`may_end` returns when the connection of a client may end; `clock` counts what is enough for one to start.

        `generation` is the version of the Deployment's template that it was made from; empty for another owner's.
        """
        self._group = group
        self._may_end = may_end
        self._clock = clock
        self._profile = profile
        self._returns = returns
        self._starts = 0
        self._client: Client | None = None
        self._stopping = False
        self._container: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._ready = True
        self.name = name
        self.generation = generation
        self.busy = False
        """True while something is being done to it."""

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Keep others from doing something to it."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    @property
    def profile(self) -> Profile:
        """What its client is like."""
        return self._profile

    @property
    def returns(self) -> bool:
        """Whether a pod of its name comes back, as a StatefulSet's does."""
        return self._returns

    @property
    def available(self) -> bool:
        """Whether it consumes and is ready."""
        return self._up.is_set() and self._ready and not self._stopping

    @property
    def client(self) -> Client | None:
        """The client that runs; None between two."""
        return self._client

    async def run(self) -> None:
        """Let its container run, and wait until the client consumes."""
        self._stopping = False
        self._set(PodState.STARTING)
        self._container = asyncio.create_task(self._contain(), name=f"container of {self.name}")
        await self.consuming()

    async def consuming(self) -> None:
        """Wait until the client consumes; fails with what its container failed with."""
        assert self._container is not None
        container = self._container
        await eventually(
            lambda: self._up.is_set() or container.done(),
            f"no client of {self.name} consumes",
            STARTS_WITHIN,
            clock=self._clock,
        )
        if container.done():
            await container

    async def _contain(self) -> None:
        """Starts the client, and again when it ends."""
        while not self._stopping:
            await self._may_start.wait()
            self._starts += 1
            name = f"{self.name}.{self._starts}"
            options: dict[str, Any] = {field: getattr(self._profile, field) for field in Profile.__slots__}
            client = self._client = await self._group.clients.consumer(
                self._group.names.inbox(self.name), name=name, **options
            )
            if await client.up():
                self._up.set()
                if not self._stopping:
                    self._tell()
            await client.over()
            self._up.clear()
            self._client = None
            if not self._stopping:
                self._tell()
                await asyncio.sleep(RESTART_AFTER)

    def _tell(self) -> None:
        self._set(PodState.READY if self._up.is_set() and self._ready else PodState.STARTING)

    def _set(self, state: PodState | None) -> None:
        self._group.set_pod(self.name, state, returns=self._returns, generation=self.generation)

    async def started_again(self) -> None:
        """Wait until another client consumes, after one has ended."""
        await asyncio.sleep(RESTART_AFTER)
        await self.consuming()

    # --- what may happen to it

    async def kill(self) -> bool:
        """Kill the client; whether there was one."""
        await self._may_end()
        client = self._client
        if client is None:
            return False
        self._up.clear()
        await client.kill()
        return True

    async def crash(self, *, again_after: float, profile: Profile | None = None) -> bool:
        """Kill the client, and start another one later (of another kind, if one is given)."""
        self._may_start.clear()
        killed = await self.kill()
        self._profile = profile or self._profile
        await asyncio.sleep(again_after)
        self._may_start.set()
        await self.consuming()
        return killed

    async def unready(self, seconds: float) -> None:
        """Fail its readiness probe for a while, and go on consuming."""
        self._ready = False
        self._tell()
        await asyncio.sleep(seconds)
        self._ready = True
        self._tell()

    async def terminate(self, *, notice: float = 0.0) -> None:
        """Be deleted in order: terminating, SIGTERM after `notice` seconds, gone."""
        self._stopping = True
        self._set(PodState.TERMINATING)
        await asyncio.sleep(notice)
        await self._may_end()
        if self._client is not None:
            self._client.terminate()
        self._may_start.set()
        await self._end()
        self._set(None)

    async def vanish(self, *, zombie: float) -> bool:
        """Be gone at once, with a client that goes on for some seconds and is killed then."""
        self._stopping = True
        self._set(None)
        await asyncio.sleep(zombie)
        killed = await self.kill()
        await self._end()
        return killed

    async def _end(self) -> None:
        assert self._container is not None
        try:
            async with asyncio.timeout(30):
                await asyncio.shield(self._container)
        except TimeoutError:
            if self._client is not None:
                await self._client.kill()
            await self._container
