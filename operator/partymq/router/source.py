"""The reader of the source queue: the per-message path.

Invariant: messages of a partition are stamped and handed on in the order of the source, and a message is acknowledged
only when it and all before it are confirmed in their next queue.

The sequence number of a stamp is the message's place among all that a session reads: it grows for every partition, and
is its delivery tag but for a constant, so that a message that comes back is known again.

The prefetch is a constant, within and between sessions: changing it can reorder what the broker takes back (design,
section 4).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import mmh3

from partymq.amqp.channel import Channel
from partymq.router.lanes import Lane
from partymq.router.link import Link
from partymq.router.points import Checkpoint, Point
from partymq.router.publisher import Publisher

PREFETCH = 2000
"""Covers the confirm's round trip at 100 000 messages a second, and bounds what may be parked."""

DRAIN_WITHIN = 8.0
"""Seconds in which what was delivered has to be on its way when the source is closed."""
PROVE_WITHIN = 4.0
"""Seconds at least in which the acknowledgements have to take effect then."""
UNPROVEN = 0.5
"""Seconds in which they have taken effect at any broker that is not overloaded, where nothing can prove it."""
COUNT_RETRY = 0.005

KeyReader = Callable[[bytes, bytes, bytes], bytes | None]
OnMissing = Callable[[int, int, bytes, bytes, bytes], None]
Lanes = Sequence[Lane] | Mapping[int, Lane]


class Source:
    """One opening of the source queue. Deliveries after `stop` are left to be taken back by the broker."""

    def __init__(
        self,
        *,
        link: Link,
        publisher: Publisher,
        lanes: Lanes,
        hashed: int,
        parked: Callable[[], Iterable[Lane]],
        read_key: KeyReader,
        on_missing: OnMissing,
        on_oversized: Callable[[int, bytes, bytes], None],
        base: int,
        checkpoint: Checkpoint,
    ) -> None:
        """Keys are hashed to `hashed` lanes; `parked` are all that may have arrivals; stamps count from `base`."""
        self._link = link
        self._publisher = publisher
        self._lanes = lanes
        self._hashed = hashed
        self._parked = parked
        self._base = base
        self._read_key = read_key
        self._on_missing = on_missing
        self._on_oversized = on_oversized
        self._reached = checkpoint
        self._header_max = link.header_max
        self._channel: Channel | None = None
        self._queue = ""
        self._next = 1
        self._last = 0
        """The last delivery."""
        self._progress = asyncio.Event()
        self._acked = 0
        self._done: set[int] = set()
        self._stopped = False
        self._returned = 0
        self.routed = 0

    async def open(self, queue: str) -> None:
        """Starts to consume."""
        self._queue = queue
        self._publisher.serve(self)
        self._channel = channel = await self._link.channel()
        self._link.on_chunk(self._ack)
        await channel.consume(queue, self._on_delivery, prefetch=PREFETCH, on_cancel=self._link.cancelled(queue))

    def _on_delivery(self, tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        if self._stopped:
            return
        self._last = tag
        key = self._read_key(header, body, origin)
        if key is None:
            self._on_missing(tag, self._base + tag, origin, header, body)
            return
        # core.keys.partition_of, without its call
        lane = self._lanes[mmh3.hash(key, 0, False) % self._hashed]
        stamped = lane.stamp(header, self._base + tag, origin)
        if len(stamped) > self._header_max:
            self._on_oversized(tag, header, body)
            return
        sink = lane.sink
        if sink is not None and sink.left > 0:
            sink.left -= 1
            sink.outlet.arrival(sink, stamped, body, tag)
        else:
            lane.park(tag, stamped, body)

    def confirmed(self, tag: int) -> None:
        """The message of `tag` is in its next queue."""
        self.routed += 1
        if tag != self._next:
            self._done.add(tag)
            return
        tag += 1
        done = self._done
        while tag in done:
            done.remove(tag)
            tag += 1
        self._next = tag

    @property
    def end(self) -> int:
        """No message of this opening has a sequence number beyond it."""
        return self._base + self._next + PREFETCH

    def returned(self, seq: int) -> bool:
        """A message came back: it is not acknowledged, nor is anything after it until `close`.

        False when it is none that was published from here and is unconfirmed.
        """
        if not self._publisher.forget_arrival(seq - self._base):
            return False
        self._returned += 1
        self._progress.set()
        return True

    def _ack(self) -> None:
        self._progress.set()
        last = self._next - 1
        if last > self._acked and self._channel is not None:
            self._acked = last
            self._channel.ack(last, multiple=True)

    @property
    def _spent(self) -> bool:
        """True while its credit is used up: nothing is on its way here."""
        return self._last - self._acked >= PREFETCH

    @property
    def _accounted(self) -> bool:
        """True while everything that was delivered is confirmed or came back."""
        return self.routed + self._returned >= self._last

    async def close(self, consumers: Callable[[], Awaitable[int]]) -> None:
        """Stops without a repeat: what was delivered goes its way, and the acknowledgements of it are proven.

        RabbitMQ drops acknowledgements that it has not handed to a quorum queue yet when their channel is closed. So
        the consumer is cancelled first: a quorum queue counts it among its `consumers` until all that it holds is
        settled. But what is on its way to a consumer that is cancelled, such a queue takes back at once, and what the
        consumer holds only when that is given back or we die: the newer would come first. Therefore it is cancelled
        when its credit is used up, for which nothing is acknowledged meanwhile, or when all that it was given is
        confirmed and nothing comes. Where neither is to be had, the channel is closed as it is: the order is worth
        more than the proof.
        """
        channel = self._channel
        if channel is None:
            self._stopped = True
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_WITHIN
        self._link.off_chunk(self._ack)
        self._link.on_chunk(self._progress.set)
        await self._pause(channel, deadline)
        provable = self._spent or self._next > self._last
        if provable:
            if not self._spent:
                self._ack()  # in one write with what follows
            await channel.cancel()
            self._reached(Point.CANCELLED)
            await self._until(lambda: self._accounted, deadline)
        self._stopped = True
        for lane in self._parked():
            lane.parked.clear()  # not published: the broker takes it back and delivers it again
        await self._publisher.confirmed()
        self._link.off_chunk(self._progress.set)
        self._ack()
        for tag in sorted(self._done):
            channel.ack(tag)
        if provable:
            if self._next <= self._last:
                channel.give_back()
            await self._prove(consumers, max(deadline, loop.time() + PROVE_WITHIN))
        else:
            await asyncio.sleep(UNPROVEN)
        self._channel = None
        await channel.close()

    async def _prove(self, consumers: Callable[[], Awaitable[int]], deadline: float) -> None:
        """Returns when the queue does not count us any more, or at the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                # Polled: the broker tells nobody of it.
                while await consumers() > 0:  # noqa: ASYNC110
                    await asyncio.sleep(COUNT_RETRY)

    async def _pause(self, channel: Channel, deadline: float) -> None:
        """Returns when nothing is on its way here, or was a moment ago; or at the deadline."""
        while True:
            await self._until(lambda: self._spent or self._accounted, deadline)
            last = self._last
            if self._spent or not self._accounted:
                return
            await channel.inspect(self._queue)
            await channel.inspect(self._queue)  # after what stood before the channel when the first one asked the queue
            if self._last == last:
                return

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Returns with the condition still true, or at the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not condition():
                    self._progress.clear()
                    await self._progress.wait()
