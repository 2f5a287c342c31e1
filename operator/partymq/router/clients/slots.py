"""Lanes by slot, where plain clients may be given single slots of a partition.

Invariant: no message of an unused slot is published before a journaled ledger pins it, and none of a slot that was
taken from a client before everything that the client was sent is confirmed. Meanwhile its arrivals are parked.

For the per-message path this is a mapping like any other: only the first message of a slot meets code of ours. While
it waits for its place, everything for plain clients waits behind it (`waiting_line`).
"""

import asyncio
from collections.abc import Callable
from functools import partial

from partymq.core.clients import members_of, slots_in, slots_of
from partymq.core.ledger import Ledger, LedgerError
from partymq.core.pinning import Spread, open_partitions, pin
from partymq.router.clients.waiting_line import Unplaced, WaitingLine
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane, Member
from partymq.router.journal import Journal


class Slots(dict[int, Lane]):
    """The lane of every slot that has had a message: its partition's, its client's, or one of its own that waits."""

    def __init__(
        self,
        table: LaneTable,
        journal: Journal,
        *,
        waiting_line: WaitingLine,
        client: Callable[[str], Member],
    ) -> None:
        super().__init__()
        ledger = journal.ledger
        self._table = table
        self._lanes = table.lanes
        self._journal = journal
        self._client = client
        self._epoch = ledger.epoch
        self._partitions = len(ledger.partitions)
        self._open = [False] * self._partitions
        self._leaving = 0
        self._spread = Spread()
        self._homes: dict[tuple[int, str], Lane] = {}
        self._waiting: dict[int, Unplaced] = {}
        self.waiting_line = waiting_line
        self._wake = asyncio.Event()
        self.changing = asyncio.Lock()
        """Held while pins are being written, and while they are being taken away."""
        for name, pinned in ledger.pins.items():
            for slot in members_of(pinned):
                self[slot] = self._home(slot, name)
        self.sync(ledger)

    @property
    def count(self) -> int:
        """How many slots there are."""
        return slots_of(self._partitions)

    def __missing__(self, slot: int) -> Lane:
        lane = self._lanes[slot % self._partitions]
        if self._open[slot % self._partitions] or self._leaving >> slot & 1:
            lane = Unplaced(slot, self._epoch, self._request, beside=lane, waiting_line=self.waiting_line)
        self[slot] = lane
        return lane

    def sync(self, ledger: Ledger) -> None:
        """Takes over which partitions are open; what waits may have a place now."""
        before, self._open = self._open, [False] * self._partitions
        for p in open_partitions(ledger):
            self._open[p] = True
            if not before[p] and (lane := self._lanes.get(p)) is not None:
                for slot in slots_in(p, self._partitions):
                    if self.get(slot) is lane:
                        del self[slot]
        if self._waiting:
            self._wake.set()

    def take(self, slots: int) -> None:
        """Parks what arrives for these slots; whoever calls this holds `changing` and calls `give_up` in the end."""
        self._leaving |= slots
        for slot in members_of(slots):
            if slot not in self._waiting:
                self.pop(slot, None)

    def give_up(self, slots: int) -> None:
        """A journaled ledger does not pin these slots any more, and all that was sent before is confirmed."""
        self._leaving &= ~slots
        if self._waiting:
            self._wake.set()

    async def run(self) -> None:
        """Finds places for what waits; one journal write for all that ask at the same time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self.changing:
                await self._settle()

    def _request(self, lane: Lane) -> None:
        if lane.index not in self._waiting:
            assert isinstance(lane, Unplaced)
            self._waiting[lane.index] = lane
            self._wake.set()

    async def _settle(self) -> None:
        ledger = self._journal.ledger
        asking = [slot for slot in self._waiting if self._open[slot % self._partitions]]
        chosen = self._spread.choose(ledger, asking)
        try:
            ledger = await self._journal.write(partial(pin, owners=chosen))
        except LedgerError:  # a partition has got an owner meanwhile
            self.sync(self._journal.ledger)
            self._wake.set()
            return
        for slot, lane in tuple(self._waiting.items()):
            place = self._place(slot, chosen.get(slot), ledger)
            if place is not None:
                del self._waiting[slot]
                self[slot] = lane.settle(place)
                if place is self._lanes[slot % self._partitions]:
                    self.waiting_line.release(lane)
        self.waiting_line.proceed()

    def _place(self, slot: int, pinned_to: str | None, ledger: Ledger) -> Lane | None:
        if pinned_to is not None and ledger.pins.get(pinned_to, 0) >> slot & 1:
            return self._home(slot, pinned_to)
        return None if self._open[slot % self._partitions] else self._lanes[slot % self._partitions]

    def _home(self, slot: int, name: str) -> Lane:
        """The lane of all slots of a partition that are pinned to a client."""
        p = slot % self._partitions
        lane = self._homes.get((p, name))
        if lane is None:
            lane = self._homes[p, name] = self._table.home(p, self._client(name))
        return lane

    def forget(self, name: str) -> None:
        """A client has left: should one of its name come, it gets a new sink."""
        self._homes = {key: lane for key, lane in self._homes.items() if key[1] != name}
