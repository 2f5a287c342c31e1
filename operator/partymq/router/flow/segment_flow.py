"""What one segment has of one partition, on its way to the owner.

Invariant: its messages are published in their order, and what was refused keeps its place. Each is acknowledged after
it and what was published before it are confirmed: not every queue confirms in order. What gives it out and holds it
back is `lane_table` (and overflows, to the one client that is theirs).
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol

from partymq.message.rewrite import passable
from partymq.router.broker.fences import Fences
from partymq.router.broker.holdings import weight
from partymq.router.publish.outlet import Sink

NextSink = Callable[[], Sink | None]


class Reading(Protocol):
    """The reader of the segment."""

    weight: int
    """Bytes of what waits here to be published."""
    released: int
    dropped: bool
    """It keeps nothing any more: what is not acknowledged goes back when it is closed."""
    closed: bool
    fences: Fences


@dataclass(slots=True, eq=False)
class Flow:
    """One partition's messages in one segment."""

    partition: int
    reader: Reading
    ordered: bool
    """False of messages without a key, which go to any member: none of them waits for another."""
    next_sink: NextSink | None = None
    """Gives the inbox that takes one more; None holds the flow back."""
    pending: deque[tuple[int, bytes, bytes]] = field(default_factory=deque)
    under_way: deque[int] = field(default_factory=deque)
    """What was published and is not acknowledged, in that order."""
    confirmed_early: set[int] = field(default_factory=set)
    """Of these, what was confirmed before the first of them."""
    unconfirmed: int = 0
    received: int = 0
    staying: int = 0
    """Messages that fit into no queue: the segment is not empty as long as there are any."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in memory or unconfirmed."""

    @classmethod
    def empty(cls, partition: int, reader: Reading, *, ordered: bool = True) -> "Flow":
        """One of which nothing has been read."""
        flow = cls(partition, reader, ordered)
        flow.idle.set()
        return flow

    async def settled(self) -> None:
        """Returns while it is idle. Who wakes up from one wait may find that the same chunk has brought more."""
        while not self.idle.is_set():
            await self.idle.wait()

    def give_to(self, next_sink: NextSink) -> None:
        """From now on it may be given out."""
        self.next_sink = next_sink

    def hold_back(self) -> None:
        """Nothing more of it is published."""
        self.next_sink = None

    def drop(self) -> None:
        """It keeps nothing any more, and counts as empty no more."""
        self.hold_back()
        self.idle.clear()
        self.pending.clear()

    def came(self, tag: int, header: bytes, body: bytes) -> None:
        """A message of it was read."""
        self.received += 1
        self.idle.clear()
        header = passable(header)
        self.pending.append((tag, header, body))
        self.reader.weight += weight(header, body)
        while self.pending and self.step():  # as `pump` does, without its call
            pass

    def pump(self) -> None:
        """Publishes as much as the owner takes."""
        while self.pending and self.step():
            pass

    def step(self) -> bool:
        """Publishes the oldest message; False where it may not be or the owner has no credit."""
        if self.next_sink is None or (sink := self.next_sink()) is None:
            return False
        tag, header, body = self.pending.popleft()
        self.reader.weight -= weight(header, body)
        self.unconfirmed += 1
        if self.ordered:
            self.under_way.append(tag)
        sink.publish(header, body, origin=self, tag=tag)
        return True

    def take_back(self, tag: int, header: bytes, body: bytes) -> None:
        """The message of `tag` was refused: it keeps its place."""
        self.unconfirmed -= 1
        self._no_longer(tag)
        if not self.reader.dropped:
            insort(self.pending, (tag, header, body), key=itemgetter(0))
            self.reader.weight += weight(header, body)

    def confirmed(self, tag: int) -> None:
        """The message of `tag` is in its inbox."""
        self.unconfirmed -= 1
        if not self.ordered:
            self._acknowledge(tag)
        elif tag == self.under_way[0]:
            self.under_way.popleft()
            self._acknowledge(tag)
            self._acknowledge_early()
        else:
            self.confirmed_early.add(tag)
        self._settle()

    def stays(self, tag: int) -> None:
        """The message of `tag` fits nowhere: it stays in the segment, unacknowledged."""
        self.staying += 1
        self.unconfirmed -= 1
        self._no_longer(tag)
        self._settle()

    def _no_longer(self, tag: int) -> None:
        """It is in no queue, and nobody waits for it."""
        if self.ordered:
            self.under_way.remove(tag)
            self._acknowledge_early()

    def _acknowledge_early(self) -> None:
        while self.under_way and self.under_way[0] in self.confirmed_early:
            tag = self.under_way.popleft()
            self.confirmed_early.remove(tag)
            self._acknowledge(tag)

    def _acknowledge(self, tag: int) -> None:
        self.reader.released += 1
        self.reader.fences.ack(tag)

    def _settle(self) -> None:
        if not self.unconfirmed and not self.pending and not self.reader.dropped:
            self.idle.set()

    def keeps(self, _tag: int) -> bool:
        """Whether the segment is still read."""
        return not self.reader.closed

    def leaves(self, tag: int) -> None:
        """The message of `tag` stayed until now, and is in the dead queue."""
        self.staying -= 1
        self._acknowledge(tag)
