"""Messages without a usable key, to any member or to the dead queue; and those that can have no stamp.

Invariant: such a message is as safe as any other (stamped, confirmed, backlogged when nobody has room); only its order
is not kept.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from partymq.amqp.keymissing import why_missing
from partymq.amqp.rewrite import bare, passable
from partymq.core.spec import KeySpec, OnMissing
from partymq.router.lanes import Lane, Member
from partymq.router.outlet import Sink
from partymq.router.publisher import Publisher
from partymq.router.segments import SegmentReader

SAMPLED: Final = 15
"""One in sixteen messages without a key is looked at for the reason, the first among them."""


class Keyless:
    """The destination of the pseudo-partition `spread`."""

    def __init__(
        self,
        *,
        lane: Lane,
        publisher: Publisher,
        members: Mapping[str, Member],
        key: KeySpec,
        dead: str,
        header_max: int,
    ) -> None:
        self._lane = lane
        self._members = members
        self._dead = publisher.sink(dead)
        self._key = key
        self._spreads = key.on_missing is OnMissing.SPREAD
        self._header_max = header_max
        self._admitted: list[Member] = []
        self._turn = 0
        self.missing = 0
        """Messages that had no usable key."""
        self.causes: Counter[str] = Counter()
        """Why a few of them had none."""
        self.dead = 0
        """Messages that went to the dead queue, for whatever reason."""

    def admit(self, members: frozenset[str], plain: Collection[Member] = ()) -> None:
        """Who may be given messages: inboxes, all admitted by the journaled ledger, and plain clients."""
        inboxes = [self._members[name] for name in sorted(members) if name in self._members]
        self._admitted = [*inboxes, *plain]

    def arrival(self, tag: int, seq: int, origin: bytes, header: bytes, body: bytes) -> None:
        """Hands on a message of the source that has no key."""
        self.missing += 1
        if self.missing & SAMPLED == 1:
            self.causes[why_missing(self._key, header, body)] += 1
        lane = self._lane
        stamped = lane.stamp(header, seq, origin)
        if len(stamped) > self._header_max:
            self.oversized(tag, header, body)
            return
        if not self._spreads:
            self.dead += 1
            self._dead.arrival(stamped, body, tag)
            return
        sink = self.next_sink() or lane.sink
        if sink is None:
            lane.park(tag, stamped, body)
        else:
            sink.arrival(stamped, body, tag)

    def oversized(self, tag: int, header: bytes, body: bytes) -> None:
        """Moves a message of the source whose header has no room for a stamp to the dead queue, without one."""
        self.dead += 1
        self._dead.arrival(bare(header), body, tag)

    def bury(self, header: bytes, body: bytes, reader: SegmentReader, tag: int) -> None:
        """Moves what has no stamp for its segment, and so was never put there by us, to the dead queue."""
        self.dead += 1
        self._dead.publish(passable(header), body, origin=_Stray(reader), tag=tag)

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
    """The segment that a stray message is taken out of."""

    reader: SegmentReader

    def confirmed(self, tag: int) -> None:
        self.reader.fences.ack(tag)

    def stays(self, tag: int) -> None:
        """It fits nowhere: unacknowledged, it stays in the segment."""

    def keeps(self, _tag: int) -> bool:
        """Whether the segment is still read."""
        return not self.reader.closed

    def leaves(self, tag: int) -> None:
        """It is in the dead queue after all."""
        self.reader.fences.ack(tag)
