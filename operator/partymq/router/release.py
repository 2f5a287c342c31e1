"""Giving waiting messages to their owners, segment after segment, until a partition is routed directly again.

Invariant: of a partition, only the first segment that is not proven empty flows; arrivals go direct only when the
backlog is proven empty while they were parked. A held partition releases nothing (design, section 4).

Backlogs are read over the data connection, until one's messages are too heavy to be kept there: see `_move_aside`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import compress

from partymq.amqp.channel import MAX_PREFETCH
from partymq.amqp.topology import Topology
from partymq.core.ledger import Ledger, forget_garbage, unlist
from partymq.core.names import SPREAD, Names
from partymq.errors import BrokerError
from partymq.router.backlogs import Backlogs
from partymq.router.journal import Journal
from partymq.router.lanes import Lane, Mode
from partymq.router.link import Link
from partymq.router.outlet import Sink
from partymq.router.pace import Pace
from partymq.router.points import Checkpoint, Point
from partymq.router.publisher import Publisher
from partymq.router.quiet import await_unread
from partymq.router.segments import BACKLOG_PREFETCH, Flow, SegmentReader, Stray

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
READERS = 1000
"""Segments read at the same time; each needs a channel, of which a connection has 2047."""
OTHERS = 8
"""Channels that readers leave to the journal, the outlets, the source and takeovers, where the broker allows few."""


class Releaser:
    """One task for each partition that is being released."""

    def __init__(
        self,
        *,
        link: Link,
        topology: Topology,
        publisher: Publisher,
        journal: Journal,
        names: Names,
        backlogs: Backlogs,
        lanes: Mapping[int, Lane],
        go_direct: Callable[[Lane], None],
        any_sink: Callable[[], Sink | None],
        on_stray: Stray,
        pace: Pace,
        checkpoint: Checkpoint,
    ) -> None:
        self._link = link
        self._topology = topology
        self._publisher = publisher
        self._journal = journal
        self._names = names
        self._backlogs = backlogs
        self._lanes = lanes
        self._go_direct = go_direct
        self._any_sink = any_sink
        self._on_stray = on_stray
        self._pace = pace
        self._reached = checkpoint
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: Counter[int] = Counter()
        """Partitions that may not be released, by how many ask for it."""
        self._readers: dict[str, SegmentReader] = {}
        self._left: set[str] = set()
        """Segments of which a reader was closed, and may not be gone yet."""
        self._opening: dict[str, asyncio.Task[SegmentReader]] = {}
        self._slots = asyncio.Semaphore(max(1, min(READERS, link.channel_max - OTHERS)))
        self._heavy: list[tuple[Lane, SegmentReader]] = []
        """Readers that have more than their part of the budget."""
        self._aside: set[str] = set()
        """Backlogs that are read over a connection of their own."""
        self._closing = False
        self._emptied: dict[int, set[str]] = {}
        self._passed: dict[int, set[str]] = {}
        """Transfers in which nothing is left of a partition but what fits nowhere: they stay listed."""
        self._wake = asyncio.Event()
        self._released = 0
        self._taken = Counter[str]()
        """By backlog, of those readers that are closed."""

    @property
    def released(self) -> int:
        """Messages that this session has given from segments to their owners."""
        return self._released + sum(reader.released for reader in self._readers.values())

    @property
    def released_from_backlogs(self) -> int:
        """Of these, the ones that stood in a backlog, and fences there, which polls had counted as messages."""
        readers = self._readers.values()
        return self._taken.total() + sum(reader.taken for reader in readers if not reader.whole)

    def taken_from(self, partition: int) -> int:
        """The same for one partition."""
        backlog = self._names.backlog(partition)
        reader = self._readers.get(backlog)
        return self._taken[backlog] + (reader.taken if reader is not None else 0)

    def wake(self) -> None:
        """Something has changed that may let a partition be released."""
        self._wake.set()

    def pump(self) -> None:
        """There is credit again: gives it to the flows in turns."""
        flows = [flow for reader in self._readers.values() for flow in reader.flows if flow.pending]
        while flows:
            flows = [flow for flow in flows if flow.step() and flow.pending]
        for reader in self._readers.values():
            reader.weigh()

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
            for opening in self._opening.values():
                opening.cancel()
            await asyncio.gather(*self._opening.values(), return_exceptions=True)

    def _start(self, tasks: asyncio.TaskGroup) -> None:
        heavy, self._heavy = self._heavy, []
        for lane, reader in heavy:
            tasks.create_task(self._move_aside(lane, reader), name=f"move {reader.queue} aside")
        held = self._journal.ledger.held
        for lane in self._lanes.values():
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
            lane.stop(Mode.WAITING)
            if lane.parked:  # for the end of the release or for credit, which may now take as long as the hold does
                self._backlogs.request(lane)
            if (task := self._tasks.get(lane.index)) is not None:
                task.cancel()
                stopped.append(task)
            for reader in self._readers.values():
                reader.hold_back(lane.index)
        await asyncio.gather(*stopped, return_exceptions=True)

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
            async with self._slots:
                within = self._journal.ledger.within(transfer)
                reader = await self._reader(self._names.transfer(transfer), within, prefetch=MAX_PREFETCH)
                flow = self._open(reader, lane)
                await reader.exhaust(flow)
                flow.next_sink = None
            done = self._passed if flow.staying else self._emptied
            done.setdefault(lane.index, set()).add(transfer)
            LOG.debug("partition %s: transfer %s is empty of it after %s messages", lane.index, transfer, flow.received)
        if self._backlogs.may_hold(lane.index):
            async with self._slots:
                LOG.debug("partition %s: its backlog is given out", lane.index)
                reader = await self._empty_backlog(lane)
                LOG.debug("partition %s: its backlog is empty", lane.index)
                self._go_direct(lane)
                self._reached(Point.DIRECT)
                await self._close(reader)
        else:
            self._go_direct(lane)

    async def _empty_backlog(self, lane: Lane) -> SegmentReader:
        """Returns with the backlog proven empty and the arrivals parked."""
        backlog, on_heavy = self._names.backlog(lane.index), partial(self._on_heavy, lane)
        reader = await self._reader(backlog, {lane.index}, prefetch=BACKLOG_PREFETCH, on_heavy=on_heavy)
        flow = self._open(reader, lane)
        while True:
            trip = await reader.approach(flow, near=NEAR)
            if flow.staying:  # never empty: what comes goes through it, until the partition is held or the session ends
                await asyncio.get_running_loop().create_future()
            lane.stop(Mode.SWITCHING)
            self._reached(Point.SWITCHING)
            try:
                async with asyncio.timeout(max(SWITCH_WITHIN, min(SWITCH_TRIPS * trip, SWITCH_MOST))):
                    await self._publisher.settled(self._backlogs.sink(lane.index))
                    await reader.exhaust(flow)
                if not flow.staying:
                    self._backlogs.prove(lane.index)
                    flow.next_sink = None
                    return reader
            except TimeoutError:  # its owner takes its time: the source must not wait for it
                pass
            lane.stop(Mode.WAITING)
            if lane.parked:
                self._backlogs.request(lane)

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
            if (opening := self._opening.get(reader.queue)) is not None:
                await opening
            await self._publisher.until(lambda: not reader.unconfirmed)
            await reader.prove()
            self._aside.add(reader.queue)
            await self._close(reader)
        finally:
            self._held[lane.index] -= 1
            self._wake.set()

    def _open(self, reader: SegmentReader, lane: Lane) -> Flow:
        flow = reader.flow(lane.index)
        flow.next_sink = self._any_sink if lane.index == SPREAD else lambda: _sink_of(lane)
        flow.pump()
        self._reached(Point.RELEASING)
        return flow

    async def _reader(
        self,
        queue: str,
        partitions: Collection[int],
        *,
        prefetch: int,
        on_heavy: Callable[[SegmentReader], None] | None = None,
    ) -> SegmentReader:
        if queue in self._left:
            # The broker says that a channel is closed before the queue takes back what that held; until it does,
            # another reader is given what stands behind.
            await await_unread(self._topology, [queue], mark=self._publisher.mark)
            self._left.discard(queue)
        if (reader := self._readers.get(queue)) is not None:
            return reader
        opening = self._opening.get(queue)
        if opening is None:
            opening = self._opening[queue] = asyncio.create_task(
                SegmentReader.open(
                    link=self._link,
                    queue=queue,
                    partitions=partitions,
                    prefetch=prefetch,
                    on_stray=self._on_stray,
                    aside=queue in self._aside,
                    on_heavy=on_heavy,
                )
            )
            opening.add_done_callback(partial(self._opened, queue))
        # A release that is stopped here, however often, leaves the reader to the next one: half opened and forgotten,
        # it would go on taking every second message of its segment.
        return await asyncio.shield(opening)

    def _opened(self, queue: str, opening: "asyncio.Task[SegmentReader]") -> None:
        del self._opening[queue]
        if not opening.cancelled() and opening.exception() is None:
            self._readers[queue] = opening.result()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_EVERY)
            await self._pace.busy()
            ledger = await self._journal.write(self._unlist)
            for p in list(self._emptied):
                if not self._emptied[p] & set(ledger.partition(p).transfers):
                    del self._emptied[p]
            if ledger.backlogs or ledger.transfers or ledger.garbage:
                self._pace.stir()
            garbage = sorted(ledger.garbage)
            deleted = await asyncio.gather(*(self._delete(transfer) for transfer in garbage))
            if any(deleted):
                gone = frozenset(compress(garbage, deleted))
                await self._journal.write(partial(forget_garbage, transfers=gone))

    def _unlist(self, ledger: Ledger) -> Ledger:
        idle = [p for p in ledger.backlogs if self._lanes[p].mode is Mode.DIRECT or p == SPREAD]
        return unlist(
            ledger,
            transfers=self._emptied,
            backlogs=[p for p in idle if not self._backlogs.may_hold(p) and not self._lanes[p].parked],
        )

    async def _delete(self, transfer: str) -> bool:
        """Whether it is gone; one whose leader's node is frozen is tried again later.

        RabbitMQ closes the connection over that (541), so it must not be the session's.
        """
        queue = self._names.transfer(transfer)
        if (reader := self._readers.get(queue)) is not None:
            await self._close(reader)
        try:
            await self._topology.errand(f"queue {queue!r}", lambda channel: channel.delete_queue(queue), tries=1)
        except BrokerError as error:
            LOG.info("%s is not deleted yet: %s", queue, error)
            return False
        self._left.discard(queue)
        return True

    def left(self, queue: str) -> None:
        """Somebody else has read this segment, and may not be gone yet."""
        self._left.add(queue)

    async def _close(self, reader: SegmentReader) -> None:
        if self._readers.get(reader.queue) is not reader:
            return  # another task closes it
        del self._readers[reader.queue]
        self._left.add(reader.queue)
        self._released += reader.released
        if not reader.whole:
            self._taken[reader.queue] += reader.taken
        await reader.close()

    async def close(self) -> None:
        """Stops without a repeat: what was published is confirmed and acknowledged, the rest goes back."""
        self._closing = True
        await self.hold(self._lanes.values())
        await asyncio.gather(*self._opening.values())
        await self._publisher.confirmed()
        readers = list(self._readers.values())
        await asyncio.gather(*(reader.prove() for reader in readers))
        await asyncio.gather(*(self._close(reader) for reader in readers))


def _sink_of(lane: Lane) -> Sink | None:
    return lane.owner.sink if lane.owner is not None and lane.owner.takes else None
