"""Clients of the HTTP API in one session.

Invariant: the ledger says who is bound, how, and what they have; what is answered to a client is journaled first. The
queue of a plain client is its own: it is published to, and nothing else. A managed client is a pod that Kubernetes
knows nothing of.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import chain

from partymq.core.clients import ClientKind
from partymq.core.ledger import Ledger, list_backlogs
from partymq.core.pinning import ConflictError, bind, check_room, leave, may_overflow, ready
from partymq.errors import ForeignQueueError
from partymq.router.clients.client_queues import ClientQueues
from partymq.router.clients.overflow import Overflows
from partymq.router.clients.slots import Slots
from partymq.router.context import Context
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane, Member
from partymq.router.flow.release import Releaser
from partymq.router.flow.segment_flow import Flow
from partymq.router.journal import Change
from partymq.router.publish.outlet import Refused
from partymq.router.publish.refusing_queue import RefusingQueue
from partymq.router.signals import Signal

INBOX_RETRY = 0.05
OVERTAKEN_AFTER = 0.25
"""Seconds that all plain clients wait for the confirms of one that leaves, so that its keys keep their place."""


class Bindings:
    """What this session knows of its clients, and what they ask for."""

    def __init__(
        self,
        context: Context,
        table: LaneTable,
        *,
        queues: ClientQueues,
        inboxes: Inboxes,
        releaser: Releaser,
        overflows: Overflows,
        is_pod: Callable[[str], bool],
    ) -> None:
        assert context.config.clients is not None, "there are clients only where they may bind"
        self._most = context.config.clients.most
        self._publisher = context.publisher
        self._journal = context.journal
        self._table = table
        self._queues = queues
        self._inboxes = inboxes
        self._releaser = releaser
        self._overflows = overflows
        self._is_pod = is_pod
        self._leaving: set[str] = set()
        self._binding: set[str] = set()
        self._waiting_line = queues.waiting_line
        self.slots = Slots(table, self._journal, waiting_line=queues.waiting_line, client=queues.member)
        self.changed = Signal[[Ledger]]()
        """What clients have is not as it was."""
        for name in self._journal.ledger.overflows:
            overflows.resume(name, self._publisher.refusing(queues.member(name).sink))

    @property
    def ready(self) -> list[Member]:
        """Plain clients that take messages."""
        return [self._queues.member(name) for name in sorted(self._journal.ledger.plain_ready - self._leaving)]

    def occupied(self, name: str) -> bool:
        """True while somebody consumes a managed client's inbox, or did when it was taken over."""
        return self._inboxes.occupied(name)

    async def ascertain_vacant(self, name: str) -> bool:
        """Whether nobody consumes it; False, too, where that cannot be known now."""
        return await self._inboxes.ascertain(name)

    async def bind(self, name: str, kind: ClientKind) -> None:
        """Raises `ConflictError`, `TooManyClientsError`, or why the broker refuses an inbox.

        A managed client's is there on return.
        """
        if self._is_pod(name):
            raise ConflictError(f"{name} is the name of a pod that has joined this group: bind under another name.")
        check_room(self._known | self._binding, name, self._most)
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
            self.changed.emit(self._journal.ledger)  # what has no key is given to others from here on
            owners = [owner for name in plain if (owner := self._queues.known(name)) is not None]
            for owner in owners:
                self._waiting_line.uncover(owner.sink)
            hurry = asyncio.get_running_loop().call_later(OVERTAKEN_AFTER, self._waiting_line.disperse)
            lines = [self._publisher.refusing(owner.sink) for owner in owners]
            for line in lines:
                line.pause()
            try:
                with self._overflows.none_for(plain):
                    await self._withdraw(names, plain, lines)
            finally:
                hurry.cancel()
                self._waiting_line.holds = True
                self._leaving -= plain
            slots.give_up(pinned)
            for name in plain:
                slots.forget(name)
                self._queues.forget(name)

    async def _withdraw(self, names: Collection[str], plain: Collection[str], lines: Collection[RefusingQueue]) -> None:
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
        async with self._releaser.holding([self._table.lanes[p] for p in sorted(owned | inherited)]):
            if inherited:
                await self._publisher.confirmed()
            # What they had no room for stands in backlogs then: who is given those partitions gets that first.
            await self._write(lambda ledger: list_backlogs(leave(ledger, names), partitions=left))
        for line in lines:
            self._publisher.release(line)
            self._publisher.refusing_changed.emit(line)  # it keeps nothing any more

    def _take_back(self, messages: Iterable[Refused]) -> tuple[int, ...]:
        """What a client that leaves was not given waits before all else; returns the partitions of what arrived."""
        lanes: dict[int, Lane] = {}
        for message in messages:
            if isinstance(message.origin, Flow) and not message.arrived:
                self._table.hold_back(message.origin)
            if (lane := self._table.take_back(message)) is not None:
                lanes[lane.index] = lane
        for lane in lanes.values():
            self._table.waits.emit(lane)
        return tuple(sorted(lanes))

    async def _write(self, change: Change) -> None:
        self.changed.emit(await self._journal.write(change))
