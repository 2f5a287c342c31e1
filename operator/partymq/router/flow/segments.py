"""Reading a segment (a backlog or a transfer) and giving it to its owners.

Invariant: messages of a partition leave a segment in its order; each is acknowledged after it is confirmed in the
owner's inbox, and a segment counts as empty for a partition only when that is proven: nothing of it is in memory or
unconfirmed, and a fence that is sent then comes back with nothing of it before (docs/design.md, "The ledger").

What has been read but may not be published (the partition is held, or its owner has no credit) stays here,
unacknowledged and in order. It counts in the budget of the process. A reader of a backlog that has more than its part
of that is closed, and the next one of this backlog has a connection of its own, which is not read while it has too
much; but not for long, for RabbitMQ gives up a connection on which one send takes longer than 30 seconds.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from partymq.amqp.channel import MAX_PREFETCH, Channel
from partymq.amqp.connection import Connection
from partymq.amqp.replies import settle
from partymq.core.names import SPREAD
from partymq.message.stamp import fence_header, read_fence, read_stamp
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.fences import Fence, Fences
from partymq.router.broker.holdings import weight
from partymq.router.flow.segment_flow import Flow

BACKLOG_PREFETCH = 256
"""A constant, as the source's: see there."""
WAITS_FOR = 10.0
"""Seconds for which a connection is not read."""
WEIGHED = 12
"""The budget is told of changes by more than its 2 ** WEIGHED-th part, 64 KiB of 256 MiB."""

Stray = Callable[[bytes, bytes, "SegmentReader", int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A queue that is read to its end."""

    queue: str
    partitions: Collection[int]
    """Those of which it may have messages; anything else was put there by somebody else."""
    prefetch: int
    one_line: bool = False
    """All its partitions are one flow, that of `SPREAD`."""


class SegmentReader:
    """The consumer of one segment; flows appear as their messages do."""

    def __init__(
        self,
        *,
        link: DataConnection,
        segment: Segment,
        channel: Channel,
        on_stray: Stray,
        aside: Connection | None = None,
        on_heavy: "Callable[[SegmentReader], None] | None" = None,
    ) -> None:
        """`aside` is its own connection, if it has one; `on_heavy` is called when it keeps too much to go on."""
        self.queue = segment.queue
        self._one_line = segment.one_line
        self._partitions = segment.partitions
        self.whole = segment.prefetch == MAX_PREFETCH
        """Read as far as can be: a transfer."""
        self.fences = Fences(link=link, channel=channel, queue=segment.queue, prefetch=segment.prefetch)
        self.released = 0
        self.closed = False
        self._marks = 0
        """Fences that are none of this reader's: somebody has put them there to have something counted."""
        self._channel = channel
        self._on_stray = on_stray
        self._flows: dict[int, Flow] = {}
        self.weight = 0
        """Bytes of what waits here to be published."""
        self.dropped = False
        """It keeps nothing any more: what is not acknowledged goes back when it is closed."""
        self._aside = aside
        self._on_heavy = on_heavy
        self._waits: asyncio.TimerHandle | None = None
        self._share = link.budget.share(self._over)
        self._part = link.whole.part()
        channel.closed.add_done_callback(lambda _closed: self.drop())  # the budget outlives a session that fails
        self._opened = False
        """Until then nothing waits: what would be waited for is an answer behind what has been read."""
        self._told = 0
        """The weight that the share knows of."""
        self._steps = link.budget.total >> WEIGHED
        self._last: Fence | None = None
        """Shared by all who ask for one before it is sent."""
        self._fence_prefix = secrets.token_hex(8)
        """An earlier session's fence may still be in the segment, and must not be taken for one of ours."""
        self._fence_count = 0

    @classmethod
    async def open(
        cls,
        *,
        link: DataConnection,
        segment: Segment,
        on_stray: Stray,
        aside: bool = False,
        on_heavy: "Callable[[SegmentReader], None] | None" = None,
    ) -> "SegmentReader":
        """Starts to read; `aside` over a connection of its own."""
        queue = segment.queue
        connection, channel = await link.aside() if aside else (None, await link.channel_in_turn())
        reader = cls(
            link=link, segment=segment, channel=channel, on_stray=on_stray, aside=connection, on_heavy=on_heavy
        )
        await channel.consume(queue, reader._on_delivery, prefetch=segment.prefetch, on_cancel=link.cancelled(queue))
        reader._opened = True
        reader._tell()
        return reader

    def flow(self, partition: int) -> Flow:
        """The partition's messages in this segment."""
        flow = self._flows.get(partition)
        if flow is None:
            ordered = self._one_line or partition != SPREAD
            flow = self._flows[partition] = Flow.empty(partition, self, ordered=ordered)
        return flow

    @property
    def unconfirmed(self) -> int:
        """Messages that are published and not confirmed."""
        return sum(flow.unconfirmed for flow in self._flows.values())

    @property
    def flows(self) -> Collection[Flow]:
        """All partitions of which messages have been read."""
        return self._flows.values()

    @property
    def taken(self) -> int:
        """How many fewer a poll of the segment counts for what was released and taken away."""
        return self.released + self._marks

    def hold_back(self, partition: int) -> None:
        """Publishes no more of the partition; what is published is confirmed and acknowledged as ever."""
        if (flow := self._flows.get(partition)) is not None:
            flow.hold_back()

    def stray_over(self, tag: int, header: bytes, body: bytes) -> None:
        """What was somebody else's is somewhere else."""
        self.fences.ack(tag)
        if not self.dropped:
            self.weight -= weight(header, body)

    def weigh(self) -> None:
        """Tells the budget what is kept here, when that has changed by much."""
        now = self.weight
        if abs(now - self._told) > self._steps or (self._told and not now):
            self._tell()

    def _tell(self) -> None:
        self._told = now = self.weight
        if self._opened:
            self._share.holds(now, idle=not now)
        self._part.holds(now if self._on_heavy is None or not self._opened else 0)

    def _over(self, on: bool) -> None:
        """It has more than its part, or not any more."""
        if self._aside is not None:
            self._aside.hold(on)
            if self._waits is not None:
                self._waits.cancel()
                self._waits = None
            if on:
                self._waits = asyncio.get_running_loop().call_later(WAITS_FOR, self._too_heavy)
        elif on:
            self._too_heavy()

    def _too_heavy(self) -> None:
        if self._on_heavy is not None and not self.dropped:
            self._on_heavy(self)

    def drop(self) -> None:
        """Keeps nothing that is not published; nothing counts as empty any more."""
        self.dropped = True
        for flow in self._flows.values():
            flow.drop()
        self.weight = self._told = 0
        self._share.close()
        self._part.holds(0)

    def _on_delivery(self, tag: int, _origin: bytes, header: bytes, body: bytes) -> None:
        if self.dropped:
            return
        self.fences.came(tag)
        stamp = read_stamp(header)
        if stamp is None or stamp.partition not in self._partitions:
            fence = read_fence(header) if stamp is None else None
            if fence is None:
                self.weight += weight(header, body)
                self._on_stray(header, body, self, tag)
                self.weigh()
                return
            self.fences.ack(tag)
            if not self.fences.back(fence):
                self._marks += 1
            return
        flow = self.flow(SPREAD if self._one_line else stamp.partition)
        flow.came(tag, header, body)
        if flow.pending:
            self.weigh()

    async def fence(self) -> None:
        """Returns when all that stood in the segment has been read, and all acknowledgements before took effect."""
        fence = self._last
        if fence is None or fence.sent:
            self._fence_count += 1
            name = f"{self._fence_prefix}.{self._fence_count}"
            fence = self._last = self.fences.send(name, fence_header(name, expires=False))
        await _proven(fence)

    async def exhaust(self, flow: Flow) -> None:
        """Returns when the segment is proven empty for the flow, but for what fits nowhere.

        Nothing is appended for it meanwhile.
        """
        while True:
            await flow.settled()
            received = flow.received
            await self.fence()
            if flow.received == received:
                return

    async def approach(self, flow: Flow, *, near: int) -> float:
        """Returns when less than `near` messages came in during a fence's round trip: the end is close.

        The round trip is what it returns, in seconds. No owner is part of it: so few messages fit into the prefetch.
        """
        now = asyncio.get_running_loop().time
        while True:
            await flow.settled()
            received, sent = flow.received, now()
            await self.fence()
            if flow.received - received < near:
                return now() - sent

    async def prove(self) -> None:
        """Returns when all acknowledgements so far took effect; nothing is released any more.

        Or when something else closes the channel: what was to be proven is proven before that, or nothing was.
        """
        name = "last"
        self.drop()
        fence = self.fences.send(name, fence_header(name, expires=True, urgent=True), returns=False)
        self._channel.closed.add_done_callback(lambda _closed: fence.over())
        await _proven(fence)

    async def close(self) -> None:
        """Gives back what is unacknowledged."""
        self.closed = True
        self.drop()
        self.fences.flush()
        await self._channel.close()
        if self._aside is not None:
            await self._aside.close()


async def _proven(fence: Fence) -> None:
    proven: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    fence.proven.append(partial(settle, proven, None))
    await proven
