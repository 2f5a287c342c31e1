"""What clients of the HTTP API may ask of a group, whatever its sessions do meanwhile.

Invariant: an answer is given only by the group's router, from its journal. Deadlines are in memory: a session starts
them anew, so that nobody expires because we were away.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from partymq.core.clients import Client, ClientKind
from partymq.core.ledger import Ledger
from partymq.core.names import Names
from partymq.core.spec import ClientsSpec
from partymq.errors import PartyMQError
from partymq.router.clients import SessionClients
from partymq.router.routing import Routing
from partymq.router.session import Session

log = logging.getLogger(__name__)

WAIT: Final = 8.0
"""Seconds that a request waits for a session to begin."""
LOOK_EVERY: Final = 0.02


class NotRoutingError(PartyMQError):
    """The process does not route the group now: ask again, or somebody else."""

    reason = "NotRouting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Where a client gets its messages: a plain one binds its queue, a managed one consumes `queue`."""

    exchange: str
    routing_key: str
    queue: str | None = None


class Registry:
    """One group's clients; make requests on the loop that runs its sessions."""

    def __init__(self, *, names: Names, spec: ClientsSpec, session: Callable[[], Session | None]) -> None:
        self.names = names
        self.spec = spec
        self._session = session
        self._settled: asyncio.Future[None] | None = None
        """What all requests wait for while there is no answer: one of them looks, for all."""
        self._heard: dict[str, float] = {}
        self._of: Session | None = None

    async def bind(self, name: str, kind: ClientKind) -> Binding:
        """Announces a client; raises `ConflictError` or `NotRoutingError`."""
        queue = self.names.inbox(name) if kind is ClientKind.MANAGED else None
        pending = Client(kind=kind, ready=kind is ClientKind.MANAGED)
        await self._do(
            lambda clients: clients.bind(name, kind), done=lambda ledger: ledger.clients.get(name) == pending
        )
        self._hear(name)
        return Binding(exchange=self.spec.exchange, routing_key=self.spec.routing_key(name), queue=queue)

    async def ready(self, name: str) -> None:
        """A plain client's queue is bound; raises as `bind`."""
        await self._do(lambda clients: clients.make_ready(name), done=lambda ledger: name in ledger.plain_ready)
        self._hear(name)

    async def heartbeat(self, name: str) -> bool:
        """False for a client that is not bound."""
        routing = await self.routing()
        self._hear(name)
        return name in routing.journal.ledger.clients

    async def leave(self, name: str) -> bool:
        """Unbinds a client; False when it was not bound."""
        known = name in (await self.ledger()).clients
        await self._leave([name])
        return known

    async def ledger(self) -> Ledger:
        """What is journaled."""
        return (await self.routing()).journal.ledger

    async def routing(self) -> Routing:
        """The session that routes; waits a moment for one to begin."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT
        while True:
            session = self._session()
            if session is not None and session.serving is not None:
                return session.serving
            if session is not None and session.standing_by:
                raise NotRoutingError(
                    "Another PartyMQ routes this group, this one stands by: ask that one. Behind a Service or a proxy "
                    "ask again, with a new connection, until it is that one."
                )
            if loop.time() >= until:
                raise NotRoutingError("This group is not routed now (GET /health says why): ask again in a moment.")
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await asyncio.shield(self._wait())

    def _wait(self) -> "asyncio.Future[None]":
        """Done when there may be an answer; the same for all who wait."""
        if self._settled is None or self._settled.done():
            loop = asyncio.get_running_loop()
            self._settled = loop.create_future()
            loop.call_later(LOOK_EVERY, self._look, self._settled, loop.time() + WAIT)
        return self._settled

    def _look(self, settled: "asyncio.Future[None]", until: float) -> None:
        loop, session = asyncio.get_running_loop(), self._session()
        there = session is not None and (session.serving is not None or session.standing_by)
        if there or loop.time() >= until:  # nobody waits for longer; whoever still does waits anew
            settled.set_result(None)
        else:
            loop.call_later(LOOK_EVERY, self._look, settled, until)

    async def run(self) -> None:
        """Unbinds clients of which nothing was heard for too long."""
        while True:
            await asyncio.sleep(self.spec.check_every)
            session = self._session()
            if session is None or session.serving is None:
                continue
            late = await self._late(session.serving)
            if late:
                log.warning("%s expired: nothing was heard of them", ", ".join(late))
                with suppress(NotRoutingError):
                    await self._leave(late)

    async def _leave(self, names: Collection[str]) -> None:
        await self._do(lambda clients: clients.leave(names), done=lambda ledger: not ledger.clients.keys() & set(names))

    async def _do(
        self, work: Callable[[SessionClients], Coroutine[None, None, None]], *, done: Callable[[Ledger], bool]
    ) -> None:
        """Has a session do it; what a session that ended meanwhile has journaled is done."""
        tried = False
        while True:
            routing = await self.routing()
            if tried and done(routing.journal.ledger):
                return
            tried = True
            session = self._session()
            assert session is not None
            assert routing.clients is not None
            over = asyncio.ensure_future(session.over.wait())
            doing = asyncio.ensure_future(work(routing.clients))
            try:
                await asyncio.wait({over, doing}, return_when=asyncio.FIRST_COMPLETED)
                if doing.done():
                    doing.result()
                    return
            finally:
                over.cancel()
                doing.cancel()
                await asyncio.gather(over, doing, return_exceptions=True)

    def _hear(self, name: str) -> None:
        self._renew()
        self._heard[name] = asyncio.get_running_loop().time()

    def _renew(self) -> None:
        if self._of is not self._session():
            self._of = self._session()
            self._heard = {}

    async def _late(self, routing: Routing) -> list[str]:
        """Who is to be unbound: also of a managed client's inbox it must be known that nobody consumes it."""
        self._renew()
        now = asyncio.get_running_loop().time()
        clients = routing.journal.ledger.clients
        self._heard = {name: self._heard.get(name, now) for name in clients}
        for name, client in clients.items():
            if client.kind is ClientKind.MANAGED and routing.inboxes.occupied(name):
                self._heard[name] = now
        late = [name for name, at in self._heard.items() if now - at > self.spec.expires_after]
        managed = [name for name in late if clients[name].kind is ClientKind.MANAGED]
        vacant = await asyncio.gather(*(routing.inboxes.ascertain(name) for name in managed))
        kept = {name for name, is_vacant in zip(managed, vacant, strict=True) if not is_vacant}
        return [name for name in late if name not in kept]
