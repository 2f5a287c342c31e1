"""What a session that routes looks like at one moment.

Invariant: a snapshot is taken whole between two turns of the event loop, so what it says goes together. It is made of
values alone: who has one can change nothing by it, and may keep it for as long as he likes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from partymq.core.ledger import Ledger
from partymq.core.names import Names
from partymq.router.broker.queue_troubles import Trouble
from partymq.router.flow.keyless import KeylessStatistics
from partymq.router.flow.source_gate import SourceStatistics
from partymq.router.flow.statistics import InboxStatistics, LaneStatistics
from partymq.router.poison.isolation import IsolationStatistics
from partymq.router.rebalance.progress import HandoffStatistics
from partymq.router.rebalance.rebalancer import RebalancerStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The parts of a session; counts are of this session, and of messages."""

    session: str
    """The journal's name for it."""
    names: Names
    ledger: Ledger
    """What is journaled."""
    calm: bool
    """Whether there is nothing to do."""
    source: SourceStatistics
    inboxes: Mapping[str, InboxStatistics]
    """By member."""
    lanes: Mapping[int, LaneStatistics]
    """Of the partitions whose messages wait, or may have to."""
    backlogs: Mapping[int, int]
    """How many messages wait in the backlogs that the ledger names."""
    waiting: int
    """How many wait in backlogs and overflows."""
    backlogged: int
    """How many were put into backlogs."""
    released: int
    """How many were given out of backlogs and transfers."""
    handoffs: Mapping[str, HandoffStatistics]
    """Those under way, by donor."""
    overdue: tuple[str, ...]
    """A sentence for each that takes longer than it may."""
    troubles: Mapping[str, Trouble]
    """By what they are about: a queue, or a client."""
    rebalancer: RebalancerStatistics
    keyless: KeylessStatistics
    isolation: IsolationStatistics

    def trouble(self, what: str) -> str:
        """The sentence about this; empty when nothing is wrong with it."""
        return self.troubles[what].message if what in self.troubles else ""
