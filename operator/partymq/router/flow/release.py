"""Giving waiting messages to their owners, segment after segment, until a partition is routed directly again.

Invariant: of a partition, only the first segment that is not proven empty flows; arrivals go direct only when the
backlog is proven empty while they were parked. A held partition releases nothing (docs/design.md, "The ledger").

Backlogs are read over the data connection, until one's messages are too heavy to be kept there: see `_move_aside`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import compress

from partymq.amqp.channel import MAX_PREFETCH
from partymq.core.ledger import Ledger, forget_garbage, unlist
from partymq.core.names import SPREAD
from partymq.errors import BrokerError
from partymq.router.context import Context
from partymq.router.failpoints import Point
from partymq.router.flow.backlogs import Backlogs
from partymq.router.flow.keyless import Keyless
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane, Mode
from partymq.router.flow.readers import Readers
from partymq.router.flow.segment_flow import Flow
from partymq.router.flow.segments import BACKLOG_PREFETCH, Segment, SegmentReader

LOG = logging.getLogger(__name__)

NEAR = 64
"""Messages within a fence's round trip (some ms) below which the end of a backlog counts as close."""
SWITCH_WITHIN = 0.25
"""Seconds for which a partition's arrivals are parked at most while the rest of its backlog is given out."""
SWITCH_TRIPS = 10
"""Or, at a broker that takes its time, so many of a fence's round trips: a switch needs two to five."""
SWITCH_MOST = 5.0
"""But not more seconds than that: the trip that was measured may have been an unusual one."""
TIDY_EVERY = 1.0
"""Seconds between journal writes that only forget segments: a listed empty one is harmless."""


class Releaser:
    """One task for each partition that is being released."""

    def __init__(self, context: Context, table: LaneTable, backlogs: Backlogs, keyless: Keyless) -> None:
        self._topology = context.topology
        self._publisher = context.publisher
        self._journal = context.journal
        self._names = context.names
        self._polling = context.polling
        self._reached = context.checkpoint
        self._table = table
        self._backlogs = backlogs
        self._keyless = keyless
        self.readers = Readers(context, keyless.bury)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: Counter[int] = Counter()
        """Partitions that may not be released, by how many ask for it."""
        self._heavy: list[tuple[Lane, SegmentReader]] = []
        """Readers that have more than their part of the budget."""
        self._closing = False
        self._emptied: dict[int, set[str]] = {}
        self._passed: dict[int, set[str]] = {}
        """Transfers in which nothing is left of a partition but what fits nowhere: they stay listed."""
        self._wake = asyncio.Event()
        table.releasable.connect(self.wake)
        table.credit.connect(self.readers.pump)

    @property
    def released(self) -> int:
        """Messages that this session has given from segments to their owners."""
        return self.readers.released

    def taken_from(self, partition: int) -> int:
        """How many messages of a partition's backlog polls do not count any more: released, and fences there."""
        return self.readers.taken_from(self._names.backlog(partition))

    def wake(self) -> None:
        """Something has changed that may let a partition be released."""
        self._wake.set()

    async def run(self) -> None:
        """Starts releases where they may start, and forgets segments that are empty."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tidy())
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    self._start(tasks)
        finally:
            await self.readers.cancel()

    def _start(self, tasks: asyncio.TaskGroup) -> None:
        heavy, self._heavy = self._heavy, []
        for lane, reader in heavy:
            tasks.create_task(self._move_aside(lane, reader), name=f"move {reader.queue} aside")
        held = self._journal.ledger.held
        for lane in self._table:
            if self._may_release(lane) and lane.index not in held:
                task = tasks.create_task(self._release(lane), name=f"release {lane.index}")
                task.add_done_callback(partial(self._over, lane.index))
                self._tasks[lane.index] = task

    def _over(self, partition: int, _task: "asyncio.Task[None]") -> None:
        del self._tasks[partition]
        self._wake.set()  # the partition may have begun to wait again while the task was closing its reader

    def _may_release(self, lane: Lane) -> bool:
        # While it closes, a second reader of a segment would overtake what the first one gives back.
        if self._closing or lane.mode is not Mode.WAITING or lane.index in self._tasks or self._held[lane.index]:
            return False
        if not self._backlogs.usable(lane.index):
            return False
        if lane.index == SPREAD:
            return self._pending(lane)
        return lane.owner is not None and not lane.owner.closed and not lane.owner.full

    def _pending(self, lane: Lane) -> bool:
        return bool(self._transfers(lane)) or self._backlogs.may_hold(lane.index)

    def _transfers(self, lane: Lane) -> list[str]:
        done = self._emptied.get(lane.index, set()) | self._passed.get(lane.index, set())
        return [t for t in self._journal.ledger.partition(lane.index).transfers if t not in done]

    async def hold(self, lanes: Iterable[Lane]) -> None:
        """Stops the releases of these partitions; what readers hold stays in them, and arrivals go to backlogs."""
        stopped = []
        for lane in lanes:
            self._stop_arrivals(lane)
            if (task := self._tasks.get(lane.index)) is not None:
                task.cancel()
                stopped.append(task)
            self.readers.hold_back(lane.index)
        await asyncio.gather(*stopped, return_exceptions=True)

    def _stop_arrivals(self, lane: Lane) -> None:
        # What is parked waits for the end of the release or for credit, which may now take as long as the hold does.
        self._table.wait(lane)

    @asynccontextmanager
    async def holding(self, lanes: Iterable[Lane]) -> AsyncIterator[None]:
        """Holds these partitions until the end of the block, whatever else may ask to release them."""
        held = list(lanes)
        self._held.update(lane.index for lane in held)
        try:
            await self.hold(held)
            yield
        finally:
            self._held.subtract(lane.index for lane in held)
            self._wake.set()

    async def _release(self, lane: Lane) -> None:
        for transfer in self._transfers(lane):
            queue, within = self._names.transfer(transfer), self._journal.ledger.within(transfer)
            async with self.readers.room:
                reader = await self.readers.get(Segment(queue=queue, partitions=within, prefetch=MAX_PREFETCH))
                flow = self._open(reader, lane)
                await reader.exhaust(flow)
                self._table.hold_back(flow)
            done = self._passed if flow.staying else self._emptied
            done.setdefault(lane.index, set()).add(transfer)
            LOG.debug("partition %s: transfer %s is empty of it after %s messages", lane.index, transfer, flow.received)
        if self._backlogs.may_hold(lane.index):
            async with self.readers.room:
                LOG.debug("partition %s: its backlog is given out", lane.index)
                reader = await self._empty_backlog(lane)
                LOG.debug("partition %s: its backlog is empty", lane.index)
                self._table.go_direct(lane)
                self._reached(Point.DIRECT)
                await self.readers.close(reader)
        else:
            self._table.go_direct(lane)

    async def _empty_backlog(self, lane: Lane) -> SegmentReader:
        """Returns with the backlog proven empty and the arrivals parked."""
        backlog, on_heavy = self._names.backlog(lane.index), partial(self._on_heavy, lane)
        segment = Segment(queue=backlog, partitions={lane.index}, prefetch=BACKLOG_PREFETCH)
        reader = await self.readers.get(segment, on_heavy=on_heavy)
        flow = self._open(reader, lane)
        while True:
            trip = await reader.approach(flow, near=NEAR)
            if flow.staying:  # never empty: what comes goes through it, until the partition is held or the session ends
                await asyncio.get_running_loop().create_future()
            self._table.switch(lane)
            self._reached(Point.SWITCHING)
            try:
                async with asyncio.timeout(max(SWITCH_WITHIN, min(SWITCH_TRIPS * trip, SWITCH_MOST))):
                    await self._publisher.settled(self._backlogs.sink(lane.index))
                    await reader.exhaust(flow)
                if not flow.staying:
                    self._backlogs.prove(lane.index)
                    self._table.hold_back(flow)
                    return reader
            except TimeoutError:  # its owner takes its time: the source must not wait for it
                pass
            self._table.wait(lane)

    def _on_heavy(self, lane: Lane, reader: SegmentReader) -> None:
        """What waits for the partition's owner weighs too much: it goes back at once, to be read with more patience."""
        self._held[lane.index] += 1
        if (task := self._tasks.get(lane.index)) is not None:
            task.cancel()
        reader.drop()
        self._heavy.append((lane, reader))
        self._wake.set()

    async def _move_aside(self, lane: Lane, reader: SegmentReader) -> None:
        """Closes the reader; the next one of this backlog has a connection of its own, and can wait on that.

        It comes when the owner has room: what waits for one that is stuck takes no memory.
        """
        try:
            await self.hold([lane])
            await self.readers.opened(reader.queue)
            await self._publisher.until(lambda: not reader.unconfirmed)
            await reader.prove()
            self.readers.read_aside(reader.queue)
            await self.readers.close(reader)
        finally:
            self._held[lane.index] -= 1
            self._wake.set()

    def _open(self, reader: SegmentReader, lane: Lane) -> Flow:
        flow = reader.flow(lane.index)
        self._table.give_out(flow, anybody=self._keyless.next_sink)
        self._reached(Point.RELEASING)
        return flow

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_EVERY)
            await self._polling.busy()
            ledger = await self._journal.write(self._unlist)
            for p in list(self._emptied):
                if not self._emptied[p] & set(ledger.partition(p).transfers):
                    del self._emptied[p]
            if ledger.backlogs or ledger.transfers or ledger.garbage:
                self._polling.stir()
            garbage = sorted(ledger.garbage)
            deleted = await asyncio.gather(*(self._delete(transfer) for transfer in garbage))
            if any(deleted):
                gone = frozenset(compress(garbage, deleted))
                await self._journal.write(partial(forget_garbage, transfers=gone))

    def _unlist(self, ledger: Ledger) -> Ledger:
        lanes = self._table.lanes
        idle = [p for p in ledger.backlogs if lanes[p].mode is Mode.DIRECT or p == SPREAD]
        return unlist(
            ledger,
            transfers=self._emptied,
            backlogs=[p for p in idle if not self._backlogs.may_hold(p) and not lanes[p].parked],
        )

    async def _delete(self, transfer: str) -> bool:
        """Whether it is gone; one whose leader's node is frozen is tried again later.

        RabbitMQ closes the connection over that (541), so it must not be the session's.
        """
        queue = self._names.transfer(transfer)
        await self.readers.end(queue)
        try:
            await self._topology.errand(f"queue {queue!r}", lambda channel: channel.delete_queue(queue), tries=1)
        except BrokerError as error:
            LOG.info("%s is not deleted yet: %s", queue, error)
            return False
        return True

    async def close(self) -> None:
        """Stops without a repeat: what was published is confirmed and acknowledged, the rest goes back."""
        self._closing = True
        await self.hold(self._table)
        await self.readers.all_open()
        await self._publisher.confirmed()
        await self.readers.prove_and_close()
