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

from partymq.aio import unless
from partymq.core.clients import Client, ClientKind
from partymq.core.ledger import Ledger
from partymq.core.names import Names
from partymq.core.rate import Allowance, Rate, TooOftenError
from partymq.core.spec import ClientsSpec
from partymq.errors import PartyMQError
from partymq.router.clients.bindings import Bindings
from partymq.router.session.session import Session
from partymq.router.session.snapshot import Snapshot

log = logging.getLogger(__name__)

WAIT: Final = 8.0
"""Seconds that a request waits for a session to begin."""
LOOK_EVERY: Final = 0.02
BINDS: Final = Rate(burst=20, every=3.0)
"""Of one client: more than one that crashes and comes again needs."""
ALL_BINDS_EVERY: Final = 0.1
"""Seconds between binds of all clients of a group, once as many as there may be have bound at once."""


class NotRoutingError(PartyMQError):
    """The process does not route the group now: ask again, or somebody else."""

    reason = "NotRouting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Where a client gets its messages: a plain one binds its queue, a managed one consumes `queue`."""

    exchange: str
    routing_key: str
    queue: str | None = None


class ClientService:
    """One group's clients; make requests on the loop that runs its sessions."""

    def __init__(self, *, names: Names, spec: ClientsSpec, session: Callable[[], Session | None]) -> None:
        self.names = names
        self.spec = spec
        self._session = session
        self._settled: asyncio.Future[None] | None = None
        """What all requests wait for while there is no answer: one of them looks, for all."""
        self._binds = Allowance(BINDS)
        self._all_binds = Allowance(Rate(burst=max(spec.most, BINDS.burst), every=ALL_BINDS_EVERY))
        self._heard: dict[str, float] = {}
        self._of: Session | None = None

    async def bind(self, name: str, kind: ClientKind) -> Binding:
        """Announces a client; raises `ConflictError`, `TooOftenError` or `NotRoutingError`."""
        await self._serving()
        self._check_rate(name)
        queue = self.names.inbox(name) if kind is ClientKind.MANAGED else None
        pending = Client(kind=kind, ready=kind is ClientKind.MANAGED)
        await self._do(
            lambda clients: clients.bind(name, kind), done=lambda ledger: ledger.clients.get(name) == pending
        )
        self._bound(name)
        self._hear(name)
        return Binding(exchange=self.spec.exchange, routing_key=self.spec.routing_key(name), queue=queue)

    def _check_rate(self, name: str) -> None:
        """Each may cost a journal write and a handoff; who leaves is never kept from it, so it is binds that count."""
        now = asyncio.get_running_loop().time()
        if after := self._binds.wait(name, now):
            raise TooOftenError(f"{name} binds again and again", after)
        if after := self._all_binds.wait("", now):
            raise TooOftenError("Clients bind and unbind again and again", after)

    def _bound(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        self._binds.take(name, now)
        self._all_binds.take("", now)

    async def ready(self, name: str) -> None:
        """A plain client's queue is bound; raises as `bind`."""
        await self._do(lambda clients: clients.make_ready(name), done=lambda ledger: name in ledger.plain_ready)
        self._hear(name)

    async def heartbeat(self, name: str) -> bool:
        """False for a client that is not bound."""
        ledger = await self.ledger()
        self._hear(name)
        return name in ledger.clients

    async def leave(self, name: str) -> bool:
        """Unbinds a client; False when it was not bound."""
        known = name in (await self.ledger()).clients
        await self._leave([name])
        return known

    async def ledger(self) -> Ledger:
        """What is journaled."""
        return (await self._serving())[1]

    async def snapshot(self) -> Snapshot:
        """How the group is at this moment."""
        session, _ = await self._serving()
        seen = session.snapshot()
        assert seen is not None, "it serves"
        return seen

    async def _serving(self) -> tuple[Session, Ledger]:
        """The session that routes, and what it has journaled; waits a moment for one to begin."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT
        while True:
            session = self._session()
            if session is not None and session.ledger is not None:
                return session, session.ledger
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
        there = session is not None and (session.ledger is not None or session.standing_by)
        if there or loop.time() >= until:  # nobody waits for longer; whoever still does waits anew
            settled.set_result(None)
        else:
            loop.call_later(LOOK_EVERY, self._look, settled, until)

    async def run(self) -> None:
        """Unbinds clients of which nothing was heard for too long."""
        while True:
            await asyncio.sleep(self.spec.check_every)
            session = self._session()
            if session is None or session.ledger is None or session.clients is None:
                continue
            late = await self._late(session.ledger, session.clients)
            if late:
                log.warning("%s expired: nothing was heard of them", ", ".join(late))
                with suppress(NotRoutingError):
                    await self._leave(late)

    async def _leave(self, names: Collection[str]) -> None:
        await self._do(lambda clients: clients.leave(names), done=lambda ledger: not ledger.clients.keys() & set(names))

    async def _do(
        self, work: Callable[[Bindings], Coroutine[None, None, None]], *, done: Callable[[Ledger], bool]
    ) -> None:
        """Has a session do it; what a session that ended meanwhile has journaled is done."""
        tried = False
        while True:
            session, ledger = await self._serving()
            if tried and done(ledger):
                return
            tried = True
            clients = session.clients
            assert clients is not None, "a group without them has no service"
            if await unless(session.over, _to_its_end(work(clients))):
                return

    def _hear(self, name: str) -> None:
        self._renew()
        self._heard[name] = asyncio.get_running_loop().time()

    def _renew(self) -> None:
        if self._of is not self._session():
            self._of = self._session()
            self._heard = {}

    async def _late(self, ledger: Ledger, bindings: Bindings) -> list[str]:
        """Who is to be unbound: also of a managed client's inbox it must be known that nobody consumes it."""
        self._renew()
        now = asyncio.get_running_loop().time()
        clients = ledger.clients
        self._heard = {name: self._heard.get(name, now) for name in clients}
        for name, client in clients.items():
            if client.kind is ClientKind.MANAGED and bindings.occupied(name):
                self._heard[name] = now
        late = [name for name, at in self._heard.items() if now - at > self.spec.expires_after]
        managed = [name for name in late if clients[name].kind is ClientKind.MANAGED]
        vacant = await asyncio.gather(*(bindings.ascertain_vacant(name) for name in managed))
        kept = {name for name, is_vacant in zip(managed, vacant, strict=True) if not is_vacant}
        return [name for name in late if name not in kept]


async def _to_its_end(work: Coroutine[None, None, None]) -> bool:
    await work
    return True
