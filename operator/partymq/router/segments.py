"""Reading a segment (a backlog or a transfer) and giving it to its owners.

Invariant: messages of a partition leave a segment in its order; each is acknowledged after it is confirmed in the
owner's inbox, and a segment counts as empty for a partition only when that is proven: an acknowledgement has no
confirm, but a fence sent after it on the same channel comes back only after it took effect (design, section 4).

What has been read but may not be published (the partition is held, or its owner has no credit) stays here,
unacknowledged and in order.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from partymq.amqp.channel import MAX_PREFETCH, Channel
from partymq.amqp.frames import publish_frame
from partymq.amqp.stamp import fence_header, read_fence, read_stamp
from partymq.router.link import Link
from partymq.router.publisher import Sink

BACKLOG_PREFETCH = 256
"""A constant, as the source's: see there."""

NextSink = Callable[[], Sink | None]
Stray = Callable[[bytes, bytes, "SegmentReader", int], None]


@dataclass(slots=True, eq=False)
class Flow:
    """One partition's messages in one segment."""

    partition: int
    reader: "SegmentReader"
    next_sink: NextSink | None = None
    """Gives the inbox that takes one more; None holds the flow back."""
    pending: deque[tuple[int, bytes, bytes]] = field(default_factory=deque)
    unconfirmed: int = 0
    received: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in memory or unconfirmed."""

    def pump(self) -> None:
        """Publishes as much as the owner takes."""
        while self.pending and self.step():
            pass

    def step(self) -> bool:
        """Publishes the oldest message; False where it may not be or the owner has no credit."""
        if self.next_sink is None or (sink := self.next_sink()) is None:
            return False
        tag, header, body = self.pending.popleft()
        self.unconfirmed += 1
        sink.publish(header, body, origin=self, tag=tag)
        return True

    def confirmed(self, tag: int) -> None:
        """The message of `tag` is in its inbox."""
        self.unconfirmed -= 1
        self.reader.released += 1
        self.reader.channel.ack(tag)
        if not self.unconfirmed and not self.pending:
            self.idle.set()


class SegmentReader:
    """The consumer of one segment; flows appear as their messages do."""

    def __init__(self, *, queue: str, channel: Channel, whole: bool, on_stray: Stray) -> None:
        self.queue = queue
        self.whole = whole
        """Read as far as can be: a transfer."""
        self.channel = channel
        self.released = 0
        self._on_stray = on_stray
        self._flows: dict[int, Flow] = {}
        self._fences: dict[str, asyncio.Future[None]] = {}
        self._frame = publish_frame(channel.number, "", queue)
        self._fence_prefix = secrets.token_hex(8)
        """An earlier session's fence may still be in the segment, and must not be taken for one of ours."""
        self._fence_count = 0

    @classmethod
    async def open(
        cls,
        *,
        link: Link,
        queue: str,
        prefetch: int,
        on_stray: Stray,
    ) -> "SegmentReader":
        """Starts to read."""
        channel = await link.channel()
        reader = cls(queue=queue, channel=channel, whole=prefetch == MAX_PREFETCH, on_stray=on_stray)
        await channel.consume(queue, reader._on_delivery, prefetch=prefetch, on_cancel=link.cancelled(queue))
        return reader

    def flow(self, partition: int) -> Flow:
        """The partition's messages in this segment."""
        flow = self._flows.get(partition)
        if flow is None:
            flow = self._flows[partition] = Flow(partition, self)
            flow.idle.set()
        return flow

    @property
    def flows(self) -> Collection[Flow]:
        """All partitions of which messages have been read."""
        return self._flows.values()

    def hold_back(self, partition: int) -> None:
        """Publishes no more of the partition; what is published is confirmed and acknowledged as ever."""
        if (flow := self._flows.get(partition)) is not None:
            flow.next_sink = None

    def _on_delivery(self, tag: int, _origin: bytes, header: bytes, body: bytes) -> None:
        stamp = read_stamp(header)
        if stamp is None:
            fence = read_fence(header)
            if fence is None:
                self._on_stray(header, body, self, tag)
                return
            self.channel.ack(tag)
            if (waiting := self._fences.pop(fence, None)) is not None and not waiting.done():
                waiting.set_result(None)
            return
        flow = self.flow(stamp.partition)
        flow.received += 1
        flow.idle.clear()
        flow.pending.append((tag, header, body))
        flow.pump()

    async def fence(self) -> None:
        """Returns when all that stood in the segment has been read, and all acknowledgements before took effect."""
        self._fence_count += 1
        name = f"{self._fence_prefix}.{self._fence_count}"
        back = self._fences[name] = asyncio.get_running_loop().create_future()
        self.channel.publish(self._frame, fence_header(name, expires=False), b"")
        await back

    async def exhaust(self, flow: Flow) -> None:
        """Returns when the segment is proven empty for the flow; nothing is appended for it meanwhile."""
        while True:
            await flow.idle.wait()
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
            await flow.idle.wait()
            received, sent = flow.received, now()
            await self.fence()
            if flow.received - received < near:
                return now() - sent

    async def prove(self) -> None:
        """Returns when all acknowledgements so far took effect; nothing is released any more.

        RabbitMQ drops those that it has not handed to the queue yet when their channel is closed, but it hands them
        over before what the channel publishes to the queue later.
        """
        proven = asyncio.Event()
        await self.channel.confirm_select(lambda _tag, _multiple: proven.set(), lambda _tag, _multiple: proven.set())
        self.channel.publish(self._frame, fence_header("last", expires=True, urgent=True), b"")
        await proven.wait()

    async def close(self) -> None:
        """Gives back what is unacknowledged."""
        await self.channel.close()
