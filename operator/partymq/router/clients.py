"""Clients of the HTTP API in one session.

Invariant: the ledger says who is bound, how, and what they have; what is answered to a client is journaled first. The
queue of a plain client is its own: it is published to, and nothing else. A managed client is a pod that Kubernetes
knows nothing of.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import chain

from partymq.amqp.channel import Returned
from partymq.amqp.stamp import read_stamp
from partymq.core.clients import ClientKind
from partymq.core.ledger import Ledger, list_backlogs
from partymq.core.membership import Pod, PodState
from partymq.core.names import Names
from partymq.core.pinning import ConflictError, bind, check_room, leave, may_overflow, ready
from partymq.core.spec import ClientsSpec
from partymq.errors import ClientGoneError, ForeignQueueError
from partymq.router.gate import Gate
from partymq.router.inboxes import Inboxes
from partymq.router.journal import Change, Journal
from partymq.router.lanes import Lane, Member
from partymq.router.link import Link
from partymq.router.outlet import UNLIMITED
from partymq.router.overflow import Overflows
from partymq.router.publisher import Publisher
from partymq.router.reluctant import Message, Reluctant
from partymq.router.segments import Flow
from partymq.router.slots import Slots

INBOX_RETRY = 0.05
OVERTAKEN_AFTER = 0.25
"""Seconds that all plain clients wait for the confirms of one that leaves, so that its keys keep their place."""


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
        holding: Callable[[Collection[Lane]], AbstractAsyncContextManager[None]],
        lanes: Mapping[int, Lane],
        overflows: Overflows,
        request: Callable[[Lane], None],
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
        self._holding = holding
        self._lanes = lanes
        self._overflows = overflows
        self._request = request
        self._on_ledger = on_ledger
        self._on_gone = on_gone
        self._source_returned = source_returned
        self._is_pod = is_pod
        self._sinks: dict[str, Member] = {}
        self._leaving: set[str] = set()
        self._binding: set[str] = set()
        self._gate = gate = Gate()
        publisher.keepers.append(gate)
        self.slots = Slots(lanes=lanes, journal=journal, gate=gate, client=self.sink)
        link.explain_return = self._explain_return
        for name in journal.ledger.overflows:
            overflows.resume(name, publisher.reluctant(self.sink(name).sink))

    def sink(self, name: str) -> Member:
        """A plain client's queue, or rather its routing key, as a destination without limits."""
        member = self._sinks.get(name)
        if member is None:
            sink = self._publisher.sink(self._spec.routing_key(name), exchange=self._spec.exchange)
            member = self._sinks[name] = Member(name, sink, UNLIMITED)
            member.consuming = True
            self._gate.cover(sink)
        return member

    def named(self, exchange: str, routing_key: str) -> str | None:
        """The plain client whose queue is reached by these."""
        return self._spec.client_of(routing_key) if exchange == self._spec.exchange else None

    @property
    def ready(self) -> list[Member]:
        """Plain clients that take messages."""
        return [self.sink(name) for name in sorted(self._journal.ledger.plain_ready - self._leaving)]

    @property
    def pods(self) -> tuple[Pod, ...]:
        """Managed clients as pods: they are ready when they consume."""
        ledger = self._journal.ledger
        return tuple(Pod(name=name, state=PodState.READY) for name in sorted(ledger.clients.keys() - ledger.plain))

    async def bind(self, name: str, kind: ClientKind) -> None:
        """Raises `ConflictError`, `TooManyClientsError`, or why the broker refuses an inbox.

        A managed client's is there on return.
        """
        if self._is_pod(name):
            raise ConflictError(f"{name} is the name of a pod that has joined this group: bind under another name.")
        check_room(self._known | self._binding, name, self._spec.most)
        self._binding.add(name)
        try:
            await self._bind(name, kind)
        finally:
            self._binding.discard(name)

    @property
    def _known(self) -> set[str]:
        """Who is bound, and who was and has an inbox that is not given up yet."""
        ledger = self._journal.ledger
        return set(ledger.clients) | {name for name in ledger.members if not self._is_pod(name)}

    async def _bind(self, name: str, kind: ClientKind) -> None:
        change = partial(bind, name=name, kind=kind)
        if kind is ClientKind.MANAGED:
            change(self._journal.ledger)  # what is a conflict gets no inbox
            await self._inbox(name)
        await self._write(change)
        if kind is ClientKind.MANAGED:
            while name not in self._inboxes.members:  # one of that name was just about to be deleted
                await self._inbox(name)
                await asyncio.sleep(INBOX_RETRY if name not in self._inboxes.members else 0)

    async def _inbox(self, name: str) -> None:
        try:
            await self._inboxes.ensure(name)
        except ForeignQueueError as error:
            raise ConflictError(f"{name} cannot be given an inbox: {error} Then bind again.") from error

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
            self._leaving |= plain
            self._on_ledger(self._journal.ledger)  # what has no key is given to others from here on
            owners = [self._sinks[name] for name in plain if name in self._sinks]
            for owner in owners:
                self._gate.uncover(owner.sink)
            hurry = asyncio.get_running_loop().call_later(OVERTAKEN_AFTER, self._gate.disperse)
            lines = [self._publisher.reluctant(owner.sink) for owner in owners]
            for line in lines:
                line.pause()
            try:
                with self._overflows.none_for(plain):
                    await self._withdraw(names, plain, lines)
            finally:
                hurry.cancel()
                self._gate.holds = True
                self._leaving -= plain
            slots.give_up(pinned)
            for name in plain:
                slots.forget(name)
                self._sinks.pop(name, None)

    async def _withdraw(self, names: Collection[str], plain: Collection[str], lines: Collection[Reluctant]) -> None:
        """Takes back what these were not given, and journals that they are gone."""
        for name in plain:
            await self._overflows.leave(name)
        await self._publisher.until(lambda: not any(line.under_way for line in lines))
        left = self._take_back(chain.from_iterable(line.take() for line in lines))
        # Partitions of which their overflows may have messages, too: that is then the first thing that they give.
        ledger = self._journal.ledger
        inherited = {p for name in ledger.overflows.keys() & plain for p in may_overflow(ledger, name)}
        # Of these, some have no lane yet: what came now would make one that is direct.
        owned = {p for name in plain for p in ledger.owned_by(name)}
        async with self._holding([self._lanes[p] for p in sorted(owned | inherited)]):
            if inherited:
                await self._publisher.confirmed()
            # What they had no room for stands in backlogs then: who is given those partitions gets that first.
            await self._write(lambda ledger: list_backlogs(leave(ledger, names), partitions=left))
        for line in lines:
            self._publisher.release(line)
            self._publisher.on_reluctant(line)  # it keeps nothing any more

    def _take_back(self, messages: Iterable[Message]) -> tuple[int, ...]:
        """What a client that leaves was not given waits before all else; returns the partitions of what arrived."""
        partitions = set()
        for message in messages:
            if not message.arrived:
                assert isinstance(message.origin, Flow)
                message.origin.next_sink = None
                message.origin.take_back(message.tag, message.header, message.body)
                continue
            stamp = read_stamp(message.header)
            assert stamp is not None
            partitions.add(stamp.partition)
            self._lanes[stamp.partition].take_back(message.tag, message.header, message.body)
        for p in partitions:
            self._request(self._lanes[p])
        return tuple(sorted(partitions))

    async def _write(self, change: Change) -> None:
        self._on_ledger(await self._journal.write(change))

    def _explain_return(self, message: Returned) -> bool:
        """A client's queue is gone, or was never bound: its messages stay in the source, the next session drops it."""
        name = self.named(message.exchange, message.routing_key)
        if name is None:
            return False
        self._on_gone(name)
        stamp = read_stamp(message.header)
        ours = stamp is not None and stamp.epoch == self._journal.ledger.epoch and self._source_returned(stamp.seq)
        if not ours:  # on its way out of a segment: nothing but a crash leaves it there
            self._link.fail(ClientGoneError(f"{name} has no queue bound to {message.exchange}: {message.reason}"))
        return True
