"""Letting arrivals of partitions into their backlogs.

Invariant: no message enters `backlog.<p>` before a journaled ledger lists it, and none before everything that was sent
to the partition's old destination is confirmed.
"""

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from partymq.amqp.topology import Topology
from partymq.core.ledger import list_backlogs
from partymq.core.names import Names
from partymq.router.journal import Journal
from partymq.router.lanes import Lane, Mode
from partymq.router.publisher import UNLIMITED, Publisher, Sink


class Backlogs:
    """Backlogs that exist, by partition; each is declared when the first message needs it."""

    def __init__(
        self,
        *,
        topology: Topology,
        names: Names,
        journal: Journal,
        publisher: Publisher,
        on_open: Callable[[Lane], None],
    ) -> None:
        self._topology = topology
        self._names = names
        self._journal = journal
        self._publisher = publisher
        self._on_open = on_open
        self._listed = frozenset(journal.ledger.backlogs)
        self._sinks: dict[int, Sink] = {}
        self._proven: dict[int, int] = {}
        self._found = 0
        self._requests: dict[int, Lane] = {}
        self._wake = asyncio.Event()

    def may_hold(self, partition: int) -> bool:
        """False where the backlog does not exist, or was proven empty and got nothing since."""
        sink = self._sinks.get(partition)
        return sink is not None and self._proven.get(partition) != sink.left

    def prove(self, partition: int) -> None:
        """The backlog was just proven empty, and nothing is on its way to it."""
        self._proven[partition] = self._sinks[partition].left

    def sink(self, partition: int) -> Sink:
        """The way to a backlog that exists."""
        return self._sinks[partition]

    @property
    def entered(self) -> int:
        """Messages that are in backlogs or have left them in this session: what was found, and what came."""
        return self._found + self.appended

    @property
    def appended(self) -> int:
        """Messages that this session has appended to backlogs."""
        return sum(UNLIMITED - sink.left for sink in self._sinks.values())

    async def declare(self, partitions: Collection[int]) -> None:
        """Makes sure that these backlogs exist."""
        await asyncio.gather(*(self._declare(p) for p in partitions if p not in self._sinks))

    async def _declare(self, partition: int) -> None:
        queue = self._names.backlog(partition)
        await self._topology.declare_quorum(queue)
        if partition not in self._listed:
            await self._topology.purge(queue)  # what no ledger lists was given to its owner before
            self._proven[partition] = UNLIMITED
        elif (state := await self._topology.poll(queue)) is not None:
            self._found += state.ready
        self._sinks[partition] = self._publisher.sink(queue)

    def request(self, lane: Lane) -> None:
        """A waiting lane has parked an arrival: opens its backlog as soon as that is allowed."""
        self._requests[lane.index] = lane
        self._wake.set()

    async def run(self) -> None:
        """Opens what is requested; one journal write for all that ask at the same time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            lanes, self._requests = self._requests, {}
            await asyncio.gather(
                self.declare(lanes), self._journal.write(partial(list_backlogs, partitions=tuple(lanes)))
            )
            await self._publisher.confirmed()
            for lane in lanes.values():
                # Asked for again: meanwhile it was direct, and what it sent then may not be confirmed.
                if lane.mode is Mode.WAITING and lane.parked and lane.index not in self._requests:
                    lane.resume(self._sinks[lane.index])
                    self._on_open(lane)
