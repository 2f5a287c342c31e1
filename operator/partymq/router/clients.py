"""Clients of the HTTP API in one session.

Invariant: the ledger says who is bound, how, and what they have; what is answered to a client is journaled first. The
queue of a plain client is its own: it is published to, and nothing else. A managed client is a pod that Kubernetes
knows nothing of.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial

from partymq.amqp.channel import Returned
from partymq.amqp.stamp import read_stamp
from partymq.core.clients import ClientKind
from partymq.core.ledger import Ledger
from partymq.core.membership import Pod, PodState
from partymq.core.names import Names
from partymq.core.pinning import ConflictError, bind, leave, ready
from partymq.core.spec import ClientsSpec
from partymq.errors import ClientGoneError
from partymq.router.inboxes import Inboxes
from partymq.router.journal import Change, Journal
from partymq.router.lanes import Lane, Member
from partymq.router.link import Link
from partymq.router.publisher import UNLIMITED, Publisher
from partymq.router.slots import Slots

INBOX_RETRY = 0.05


class SessionClients:
    """What this session knows of its clients, and what they ask for."""

    def __init__(
        self,
        *,
        spec: ClientsSpec,
        link: Link,
        publisher: Publisher,
        journal: Journal,
        names: Names,
        inboxes: Inboxes,
        hold: Callable[[Collection[Lane]], Awaitable[None]],
        lanes: Mapping[int, Lane],
        on_ledger: Callable[[Ledger], None],
        on_gone: Callable[[str], None],
        source_returned: Callable[[int], bool],
        is_pod: Callable[[str], bool],
    ) -> None:
        self._spec = spec
        self._link = link
        self._publisher = publisher
        self._journal = journal
        self._names = names
        self._inboxes = inboxes
        self._hold = hold
        self._lanes = lanes
        self._on_ledger = on_ledger
        self._on_gone = on_gone
        self._source_returned = source_returned
        self._is_pod = is_pod
        self._sinks: dict[str, Member] = {}
        self.slots = Slots(lanes=lanes, journal=journal, client=self.sink)
        link.explain_return = self._explain_return

    def sink(self, name: str) -> Member:
        """A plain client's queue, or rather its routing key, as a destination without limits."""
        member = self._sinks.get(name)
        if member is None:
            sink = self._publisher.sink(self._spec.routing_key(name), exchange=self._spec.exchange)
            member = self._sinks[name] = Member(name, sink, UNLIMITED)
            member.consuming = True
        return member

    @property
    def ready(self) -> list[Member]:
        """Plain clients that take messages."""
        return [self.sink(name) for name in sorted(self._journal.ledger.plain_ready)]

    @property
    def pods(self) -> tuple[Pod, ...]:
        """Managed clients as pods: they are ready when they consume."""
        ledger = self._journal.ledger
        return tuple(Pod(name=name, state=PodState.READY) for name in sorted(ledger.clients.keys() - ledger.plain))

    async def bind(self, name: str, kind: ClientKind) -> None:
        """Raises `ConflictError`; a managed client's inbox is there on return."""
        if self._is_pod(name):
            raise ConflictError(f"{name} is the name of a pod that has joined this group: bind under another name.")
        await self._write(partial(bind, name=name, kind=kind))
        if kind is ClientKind.MANAGED:
            while name not in self._inboxes.members:  # one of that name may just be about to be deleted
                await self._inboxes.ensure([name])
                await asyncio.sleep(INBOX_RETRY if name not in self._inboxes.members else 0)

    async def make_ready(self, name: str) -> None:
        """Raises `ConflictError`."""
        await self._write(partial(ready, name=name))

    async def leave(self, names: Collection[str]) -> None:
        """Takes everything from these clients: from plain ones at once, from managed ones by a handoff."""
        slots = self.slots
        async with slots.changing:
            pinned = 0
            for name in names:
                pinned |= self._journal.ledger.pins.get(name, 0)
            slots.take(pinned)
            plain = self._journal.ledger.plain.intersection(names)
            owners = [self._sinks[name] for name in plain if name in self._sinks]
            await self._hold([lane for lane in self._lanes.values() if lane.owner in owners])
            await self._publisher.confirmed()
            await self._write(partial(leave, names=names))
            slots.give_up(pinned)
            for name in plain:
                slots.forget(name)
                self._sinks.pop(name, None)

    async def _write(self, change: Change) -> None:
        self._on_ledger(await self._journal.write(change))

    def _explain_return(self, message: Returned) -> bool:
        """A client's queue is gone, or was never bound: its messages stay in the source, the next session drops it."""
        name = self._spec.client_of(message.routing_key) if message.exchange == self._spec.exchange else None
        if name is None:
            return False
        self._on_gone(name)
        stamp = read_stamp(message.header)
        ours = stamp is not None and stamp.epoch == self._journal.ledger.epoch and self._source_returned(stamp.seq)
        if not ours:  # on its way out of a segment: nothing but a crash leaves it there
            self._link.fail(ClientGoneError(f"{name} has no queue bound to {message.exchange}: {message.reason}"))
        return True
