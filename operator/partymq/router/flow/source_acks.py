"""What has become of each delivery of the source, and which of them are acknowledged.

Invariant: a message is acknowledged only when it is confirmed in its next queue, and all before it are that are of its
partition or for the same plain client (but see `acknowledge_all`). So whenever the source takes back what it has no
acknowledgement of, that is the end of what each of these was sent. What fits into no queue is never acknowledged, and
keeps nothing behind it.

What is confirmed without a gap is acknowledged at once, with one acknowledgement for a chunk. Where a partition waits
(for its backlog, for a queue that refuses), what is confirmed behind its messages is acknowledged one by one, a moment
later: else it would all come again should the router die, and nothing more would come where much waits.
"""

import asyncio
from typing import Final

from partymq.amqp.channel import Channel
from partymq.router.flow.lanes import Lane, Member

BEHIND_AFTER: Final = 0.25
"""Seconds after which a gap is not waited for: at the latest after twice as long."""
RING: Final = 8192
"""Deliveries whose lanes are known, the last ones."""
FARTHEST: Final = 6000
"""From the first gap, so many deliveries are acknowledged at most; besides, a whole prefetch may be under way."""


class SourceAcks:
    """Of one opening of the source. What it publishes is told to this as its origin."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._channel: Channel | None = None
        self.lanes: list[Lane | None] = []
        """Of the last deliveries, each at its tag modulo `RING`; that of one without a lane is an older one's."""
        self.next = 1
        """All before it are in their next queues, or stay."""
        self.routed = 0
        """Messages that are in their next queues."""
        self.stopped = False
        """True once what was delivered and is in no queue goes back to the source's."""
        self._done: set[int] = set()
        """From `next` on, what is in its next queue or stays."""
        self._acked = 0
        """Up to this one all are acknowledged that do not stay."""
        self._behind: set[int] = set()
        """What is acknowledged beyond it."""
        self._staying: set[int] = set()
        """What fits into no queue."""
        self._left_out = 0
        """How many of these are not beyond `_acked`."""
        self._seen = 0
        """The last delivery, a moment ago."""
        self._seen_at = self._now()
        self._last = 0
        self._considered = (0, 0)
        """So many messages had been routed, and so many delivered, when all that could be was acknowledged."""
        self._again: asyncio.TimerHandle | None = None
        """Set while there may be more to acknowledge behind a gap, whether or not anything comes from the broker."""
        self._resting = False

    @property
    def staying(self) -> int:
        """Messages that fit into no queue."""
        return len(self._staying)

    def begin(self, channel: Channel) -> None:
        """Deliveries come over this channel."""
        self._channel = channel

    def rest(self) -> None:
        """From now on nothing is acknowledged but by a call."""
        self._resting = True
        if self._again is not None:
            self._again.cancel()

    def end(self) -> None:
        """The channel is closed, or is about to be: nothing is acknowledged any more."""
        self.rest()
        self._channel = None

    def make_room(self, deliveries: int) -> None:
        """Has `lanes` hold so many, `RING` at most: most sources that are read are idle, and need hardly any."""
        self.lanes.extend([None] * (min(deliveries, RING) - len(self.lanes)))

    # --- as an origin

    def confirmed(self, tag: int) -> None:
        """The message of `tag` is in its next queue."""
        self.routed += 1
        if tag != self.next:
            self._done.add(tag)
            return
        tag += 1
        done = self._done
        while tag in done:
            done.remove(tag)
            tag += 1
        self.next = tag

    def stays(self, tag: int) -> None:
        """The message of `tag` fits into no queue."""
        self._staying.add(tag)
        self.confirmed(tag)
        self.routed -= 1

    def keeps(self, tag: int) -> bool:
        """Whether that is so, and it has not gone back."""
        return tag in self._staying and not self.stopped

    def leaves(self, tag: int) -> None:
        """The message of `tag` stayed until now, and is in the dead queue."""
        if self.keeps(tag):
            self._staying.remove(tag)
            self.routed += 1
            if tag <= self._acked:
                self._left_out -= 1
                self._ack(tag)

    # --- acknowledging

    def unsettled(self, last: int) -> int:
        """Messages up to the delivery `last` that are not acknowledged."""
        return last - self._acked - len(self._behind) + self._left_out

    def acknowledge(self, last: int) -> None:
        """Acknowledges what may be; called once for a chunk. The last delivery is `last`."""
        if self.next - 1 > self._acked:
            self._acknowledge_stretch()
        if self._done:
            self._look_behind(last)

    def acknowledge_all(self) -> None:
        """Acknowledges whatever is confirmed, when nothing is on its way any more.

        What is not confirmed then was refused, came back, or was not sent. Behind what was not
        sent there is nothing; what was refused or came back holds nothing back here.
        """
        self._acknowledge_stretch()
        for tag in sorted(self._done):
            self._acknowledge_one(tag)

    def _acknowledge_stretch(self) -> None:
        last = self.next - 1
        if not (self._staying or self._behind):
            if last > self._acked and self._channel is not None:
                self._channel.ack(last, multiple=True)
        else:
            for tag in range(self._acked + 1, last + 1):
                if tag in self._staying:
                    self._left_out += 1
                elif tag in self._behind:
                    self._behind.remove(tag)
                else:
                    self._ack(tag)
        self._acked = last

    def _look_behind(self, last: int) -> None:
        if self._now() >= self._seen_at + BEHIND_AFTER:
            seen, self._seen, self._seen_at = self._seen, last, self._now()
            if last - self.next < RING:  # a node that was cut off may have given more than was asked for
                self._acknowledge_behind(seen)
            if seen >= last:
                self._considered = self.routed, last
        self._last = last
        if self._again is None and not self._resting and self._considered != (self.routed, last):
            self._again = self._loop.call_later(BEHIND_AFTER, self._look_again)

    def _look_again(self) -> None:
        self._again = None
        self.acknowledge(self._last)

    def _acknowledge_behind(self, seen: int) -> None:
        waiting: set[int | Member] = set()
        for tag in range(self.next, min(seen, self.next + FARTHEST) + 1):
            lane = self.lanes[tag % RING]
            if tag in self._done:
                if not _stands_behind(lane, waiting):
                    self._acknowledge_one(tag)
            elif lane is not None:
                waiting.update(lane.orders)

    def _acknowledge_one(self, tag: int) -> None:
        if tag not in self._behind and tag not in self._staying:
            self._behind.add(tag)
            self._ack(tag)

    def _ack(self, tag: int) -> None:
        if self._channel is not None:
            self._channel.ack(tag)


def _stands_behind(lane: Lane | None, waiting: set[int | Member]) -> bool:
    """Whether something waits that must not come again after a message of this lane."""
    return lane is not None and not waiting.isdisjoint(lane.orders)
