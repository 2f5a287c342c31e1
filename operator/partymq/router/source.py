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
from partymq.router.publisher import Publisher

PREFETCH = 2000
"""Covers the confirm's round trip at 100 000 messages a second, and bounds what may be parked."""

DRAIN_WITHIN = 8.0
"""Seconds in which what was delivered has to be on its way when the source is closed."""
PROVE_WITHIN = 4.0
"""Seconds at least in which the acknowledgements have to take effect then."""
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
        self._header_max = link.header_max
        self._channel: Channel | None = None
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

    async def close(self, consumers: Callable[[], Awaitable[int]]) -> None:
        """Stops without a repeat: what was delivered goes its way, and the acknowledgements of it are proven.

        RabbitMQ drops acknowledgements that it has not handed to a quorum queue yet when their channel is closed. So
        the consumer is cancelled first, and all that it holds is acknowledged or, what came back and what cannot go its
        way in time, given back; a quorum queue counts it among its `consumers` until that took effect.
        """
        channel = self._channel
        if channel is None:
            self._stopped = True
            return
        begun = asyncio.get_running_loop().time()
        await channel.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(begun + DRAIN_WITHIN):
                while self.routed + self._returned < self._last:
                    self._progress.clear()
                    await self._progress.wait()
        self._stopped = True
        for lane in self._parked():
            lane.parked.clear()  # not published: the broker takes it back and delivers it again
        await self._publisher.confirmed()
        self._ack()
        self._link.off_chunk(self._ack)
        for tag in sorted(self._done):
            channel.ack(tag)
        if self._next <= self._last:
            channel.give_back()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(max(begun + DRAIN_WITHIN, asyncio.get_running_loop().time() + PROVE_WITHIN)):
                # Polled: the broker tells nobody of it.
                while await consumers() > 0:  # noqa: ASYNC110
                    await asyncio.sleep(COUNT_RETRY)
        self._channel = None
        await channel.close()
