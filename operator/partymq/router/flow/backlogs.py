"""Letting arrivals of partitions into their backlogs.

Invariant: no message enters `backlog.<p>` before a journaled ledger lists it, and none before everything that was sent
to the partition's old destination is confirmed.

A backlog that the broker refuses is tried again and again; what needs it waits, all else goes on.
"""

import asyncio
from collections.abc import Collection, Iterable
from functools import partial

from partymq.amqp.topology import QueueState
from partymq.core.ledger import list_backlogs
from partymq.core.names import SPREAD
from partymq.errors import BrokerError
from partymq.router.broker.retry import FIRST, MOST
from partymq.router.broker.settling import await_unread
from partymq.router.context import Context
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane, Mode
from partymq.router.publish.outlet import UNLIMITED, Sink


class Backlogs:
    """Backlogs that exist, by partition; each is declared when the first message needs it."""

    def __init__(self, context: Context, table: LaneTable) -> None:
        self._topology = context.topology
        self._names = context.names
        self._journal = context.journal
        self._publisher = context.publisher
        self._troubles = context.troubles
        self._table = table
        table.waits.connect(self.request)
        self._listed = frozenset(self._journal.ledger.backlogs)
        self._sinks: dict[int, Sink] = {}
        self._proven: dict[int, int] = {}
        self._found: dict[int, int] = {}
        self._requests: dict[int, Lane] = {}
        self._pauses: dict[int, float] = {}
        """Seconds between tries of those that were refused."""
        self._due: set[int] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def may_hold(self, partition: int) -> bool:
        """False where the backlog does not exist, or was proven empty and got nothing since."""
        sink = self._sinks.get(partition)
        if sink is None:
            return partition in self._listed
        return self._proven.get(partition) != sink.left

    def usable(self, partition: int) -> bool:
        """False while the backlog may hold messages of an earlier session and could not be looked at."""
        return partition in self._sinks or partition not in self._listed

    def prove(self, partition: int) -> None:
        """The backlog was just proven empty, and nothing is on its way to it."""
        self._proven[partition] = self._sinks[partition].left

    def sink(self, partition: int) -> Sink:
        """The way to a backlog that exists."""
        return self._sinks[partition]

    @property
    def entered(self) -> int:
        """Messages that are in backlogs or have left them in this session: what was found, and what came.

        A figure for people and for the backlog's limit: where the broker was silent, what stood there is not in it.
        """
        return sum(self._found.values()) + self.appended

    def entered_of(self, partition: int) -> int:
        """The same for one partition."""
        sink = self._sinks.get(partition)
        return self._found.get(partition, 0) + (UNLIMITED - sink.left if sink is not None else 0)

    @property
    def appended(self) -> int:
        """Messages that this session has appended to backlogs."""
        return sum(UNLIMITED - sink.left for sink in self._sinks.values())

    async def declare(self, partitions: Collection[int]) -> None:
        """Makes sure that these backlogs exist, but for those that the broker refuses: these are tried again."""
        await asyncio.gather(*(self._try(p) for p in partitions if p not in self._sinks and p not in self._timers))

    async def _try(self, partition: int) -> None:
        queue = self._names.backlog(partition)
        try:
            await self._declare(partition, queue)
        except BrokerError as error:
            what = "messages without a key" if partition == SPREAD else f"partition {partition}"
            self._troubles.refused(queue, error, effect=f"What has to wait of {what} stays in the source, unread")
            pause = self._pauses[partition] = min(2 * self._pauses.get(partition, FIRST / 2), MOST)
            self._timers[partition] = asyncio.get_running_loop().call_later(pause, self._again, partition)
        else:
            self._troubles.over(queue)

    def _again(self, partition: int) -> None:
        del self._timers[partition]
        if partition in self._requests or not self.usable(partition):
            self._due.add(partition)
            self._wake.set()
        else:
            self._troubles.over(self._names.backlog(partition))  # its owner has had room meanwhile

    async def _declare(self, partition: int, queue: str) -> None:
        await self._topology.declare_segment(queue)
        if partition not in self._listed:
            await self._topology.purge(queue)  # what no ledger lists was given to its owner before
            self._proven[partition] = UNLIMITED
        else:
            await await_unread(self._topology, [queue], mark=self._publisher.mark)  # an earlier session has let it go
            if isinstance(state := await self._topology.poll(queue), QueueState):
                self._found[partition] = state.ready
        self._sinks[partition] = self._publisher.sink(queue)

    def request(self, lane: Lane) -> None:
        """A waiting lane has parked an arrival: opens its backlog as soon as that is allowed."""
        self._requests[lane.index] = lane
        self._wake.set()

    async def run(self) -> None:
        """Opens what is requested; one journal write for all that ask at the same time."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._open()
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _open(self) -> None:
        lanes, self._requests = self._requests, {}
        due, self._due = self._due, set()
        await asyncio.gather(self.declare({*lanes, *due}), self._list(lanes))
        if self._listed & due & self._sinks.keys():  # one that was refused is there after all, and may be read
            self._table.releasable.emit()
        await self._publisher.confirmed()
        for lane in lanes.values():
            if lane.index not in self._sinks:
                if lane.mode is Mode.WAITING and lane.parked:
                    self._requests.setdefault(lane.index, lane)  # until it is due again
            # Asked for again: meanwhile it was direct, and what it sent then may not be confirmed.
            elif lane.mode is Mode.WAITING and lane.parked and lane.index not in self._requests:
                self._table.into_backlog(lane, self._sinks[lane.index])

    async def _list(self, lanes: Iterable[int]) -> None:
        await self._journal.write(partial(list_backlogs, partitions=tuple(lanes)))
