"""Messages without a usable key, to any member or to the dead queue; and those that can have no stamp.

Invariant: such a message is as safe as any other (stamped, confirmed, backlogged when nobody has room); only its order
is not kept.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from partymq.core.names import SPREAD
from partymq.core.spec import OnMissing
from partymq.message.key_missing import why_missing
from partymq.message.rewrite import bare, passable
from partymq.router.context import Context
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Member
from partymq.router.flow.segments import SegmentReader
from partymq.router.publish.outlet import Sink

SAMPLED: Final = 15
"""One in sixteen messages without a key is looked at for the reason, the first among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeylessStatistics:
    """What has come without a key, in this session."""

    missing: int
    """Messages that had no usable key."""
    dead: int
    """Messages that went to the dead queue, for whatever reason."""
    causes: Mapping[str, int]
    """Why a few of them had none, and how often each reason was seen."""


class Keyless:
    """The destination of the pseudo-partition `spread`."""

    def __init__(self, context: Context, table: LaneTable) -> None:
        key = context.config.spec.key
        self._lane = table.lanes[SPREAD]
        self._members = table.inboxes
        self._dead = context.publisher.sink(context.names.dead)
        self._key = key
        self._spreads = key.on_missing is OnMissing.SPREAD
        self._header_max = context.link.header_max
        self._admitted: list[Member] = []
        self._turn = 0
        self._missing = 0
        self._causes: Counter[str] = Counter()
        self._dead_count = 0

    @property
    def statistics(self) -> KeylessStatistics:
        """What has come until now."""
        return KeylessStatistics(missing=self._missing, dead=self._dead_count, causes=dict(self._causes))

    def admit(self, members: frozenset[str], plain: Collection[Member] = ()) -> None:
        """Who may be given messages: inboxes, all admitted by the journaled ledger, and plain clients."""
        inboxes = [self._members[name] for name in sorted(members) if name in self._members]
        self._admitted = [*inboxes, *plain]

    def arrival(self, tag: int, seq: int, origin: bytes, header: bytes, body: bytes) -> None:
        """Hands on a message of the source that has no key."""
        self._missing += 1
        if self._missing & SAMPLED == 1:
            self._causes[why_missing(self._key, header, body)] += 1
        lane = self._lane
        stamped = lane.stamp(header, seq, origin)
        if len(stamped) > self._header_max:
            self.oversized(tag, header, body)
            return
        if not self._spreads:
            self._dead_count += 1
            self._dead.arrival(stamped, body, tag)
            return
        sink = self.next_sink() or lane.sink
        if sink is None:
            lane.park(tag, stamped, body)
        else:
            sink.arrival(stamped, body, tag)

    def oversized(self, tag: int, header: bytes, body: bytes) -> None:
        """Moves a message of the source whose header has no room for a stamp to the dead queue, without one."""
        self._dead_count += 1
        self._dead.arrival(bare(header), body, tag)

    def bury(self, header: bytes, body: bytes, reader: SegmentReader, tag: int) -> None:
        """Moves what has no stamp for its segment, and so was never put there by us, to the dead queue."""
        self._dead_count += 1
        self._dead.publish(passable(header), body, origin=_Stray(reader, header, body), tag=tag)

    def next_sink(self) -> Sink | None:
        """The next member's inbox that takes a message, in turns."""
        for _ in self._admitted:
            self._turn += 1
            member = self._admitted[self._turn % len(self._admitted)]
            if member.takes:
                return member.sink
        return None


@dataclass(frozen=True, slots=True)
class _Stray:
    """A stray message, and the segment that it is taken out of."""

    reader: SegmentReader
    header: bytes
    body: bytes

    def confirmed(self, tag: int) -> None:
        self.reader.stray_over(tag, self.header, self.body)

    def stays(self, tag: int) -> None:
        """It fits nowhere: unacknowledged, it stays in the segment."""

    def keeps(self, _tag: int) -> bool:
        """Whether the segment is still read."""
        return not self.reader.closed

    def leaves(self, tag: int) -> None:
        """It is in the dead queue after all."""
        self.reader.stray_over(tag, self.header, self.body)
