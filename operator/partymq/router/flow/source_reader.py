"""The reader of the source queue: the per-message path.

Invariant: messages of a partition are stamped and handed on in the order of the source. What has become of each, and
when it is acknowledged, is `flow.source_acks`.

The sequence number of a stamp is the message's place among all that a session reads: it grows for every partition, and
is its delivery tag but for a constant, so that a message that comes back is known again.

The prefetch is a constant, within and between sessions: changing it can reorder what the broker takes back
(docs/design.md, "The ledger").
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import mmh3

from partymq.amqp.channel import Channel
from partymq.message.key_reader import KeyReader
from partymq.message.tables import returns_of
from partymq.router.broker.source_connection import SourceConnection
from partymq.router.context import Context
from partymq.router.failpoints import Point
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane
from partymq.router.flow.source_acks import RING, SourceAcks

PREFETCH = 2000
"""Covers the confirm's round trip at 100 000 messages a second, and bounds what may be parked."""

STUCK_AFTER = 8.0
"""Seconds in which nothing is confirmed any more of what was delivered, when the source is closed: it stays behind."""
DRAIN_WITHIN = 30.0
"""Seconds at most for that, however well it goes on: a broker that is busy gets them."""
PROVE_WITHIN = 8.0
"""Seconds in which the acknowledgements have to take effect then."""
UNPROVEN = 0.5
"""Seconds in which they have taken effect at any broker that is not overloaded, where nothing can prove it."""

OnKeyless = Callable[[int, int, bytes, bytes, bytes], None]
LaneOf = Mapping[int, Lane]
"""By what a key's hash leaves: a partition, or a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Where the messages of a source go."""

    lanes: LaneOf
    hashed: int
    """To so many lanes keys are hashed."""
    read_key: KeyReader
    on_missing: OnKeyless
    on_oversized: Callable[[int, bytes, bytes], None]
    on_returns: Callable[[int], None]
    """Told, before such a message is handed on, how often it has come back to a quorum queue."""


class Source:
    """One opening of the source queue. Deliveries after `close` are left to be taken back by the broker."""

    def __init__(self, context: Context, table: LaneTable, routes: Routes, *, base: int) -> None:
        """Stamps count from `base`."""
        self._link = context.link
        self._publisher = context.publisher
        self._reached = context.checkpoint
        self._header_max = context.link.header_max
        self._table = table
        self._lanes = routes.lanes
        self._hashed = routes.hashed
        self._read_key = routes.read_key
        self._on_missing = routes.on_missing
        self._on_oversized = routes.on_oversized
        self._on_returns = routes.on_returns
        self._base = base
        self._source_connection: SourceConnection | None = None
        self._channel: Channel | None = None
        self._queue = ""
        self._acks = SourceAcks()
        self._lane_of = self._acks.lanes
        self._last = 0
        """The last delivery."""
        self._progress = asyncio.Event()
        self._returned = 0
        self._kept: list[tuple[int, bytes, bytes, bytes]] = []
        self._back = 0
        """The last delivery that somebody had been given before, as far as they were looked at for that."""
        self._fresh = False
        """True once there was another."""

    async def open(self, queue: str) -> None:
        """Starts to consume; what is delivered is kept until `begin` or `abandon`."""
        self._queue = queue
        self._source_connection = source_connection = await self._link.source_connection()
        self._channel = channel = source_connection.channel
        self._acks.begin(channel)
        await channel.consume(queue, self._keep, prefetch=PREFETCH, on_cancel=self._link.cancelled(queue))
        self._link.on_chunk(self._account)  # not before: the answer may come behind messages, which then waited for it
        source_connection.connection.add_chunk_hook(self._account)
        self._account()

    def begin(self) -> None:
        """Hands on what is delivered: nobody else consumes the queue."""
        assert self._channel is not None
        self._publisher.serve(self._acks)
        self._link.on_chunk(self._ack)
        kept, self._kept = self._kept, []
        for delivery in kept:
            self._hand_on_first(*delivery)
        if self._last < PREFETCH:
            self._channel.redirect(self._first_delivery)
        else:
            self._go_on(self._channel)

    def _first_delivery(self, tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        """What may have come back stands before everything else, so later ones are not looked at for that."""
        if tag >= PREFETCH and self._channel is not None:
            self._go_on(self._channel)
        self._note_first(tag)
        self._hand_on_first(tag, origin, header, body)

    def _go_on(self, channel: Channel) -> None:
        self._acks.make_room(RING)
        channel.redirect(self._on_delivery)

    def _note_first(self, tag: int) -> None:
        if self._channel is not None and self._channel.take_redelivered():
            self._back = tag
        else:
            self._fresh = True

    def _hand_on_first(self, tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        if returns := returns_of(header):
            self._on_returns(returns)
        self._acks.make_room(tag + 1)
        self._on_delivery(tag, origin, header, body)

    async def abandon(self) -> None:
        """Gives back what was kept, in its order."""
        self._acks.stopped = True
        self._kept.clear()
        if self._source_connection is not None:
            self._source_connection.let_go()
            self._link.off_chunk(self._account)
            await self._link.shut_source_connection()

    def _keep(self, tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        self._last = tag
        self._note_first(tag)
        if self._source_connection is not None:
            self._source_connection.keep(header, body)
        self._kept.append((tag, origin, header, body))

    def _on_delivery(self, tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        if self._acks.stopped:
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
        self._lane_of[tag % RING] = lane
        sink = lane.sink
        if sink is not None and sink.left > 0:
            sink.left -= 1
            sink.outlet.arrival(sink, stamped, body, tag)
        else:
            lane.park(tag, stamped, body)

    @property
    def unsettled(self) -> int:
        """Messages that were delivered and not acknowledged."""
        return self._acks.unsettled(self._last)

    @property
    def routed(self) -> int:
        """Messages that are in their next queues."""
        return self._acks.routed

    def passed(self, returning: int) -> bool:
        """Whether all that have come back, and at least `returning`, are in their next queues, or stay.

        What comes back is delivered before all else, so the first that was never delivered is the sign that it is all.
        A source with priorities may give out something newer before it; then care ends too early at the worst.
        """
        return self._fresh and (not returning or self._back > 0) and self._acks.next > max(self._back, returning)

    @property
    def end(self) -> int:
        """No message of this opening has a sequence number beyond it."""
        return self._base + self._last

    def returned(self, seq: int) -> bool:
        """A message came back: it is not acknowledged, nor is anything of its partition after it until `close`.

        False when it is none that was published from here and is unconfirmed.
        """
        if not self._publisher.forget_arrival(seq - self._base):
            return False
        self._returned += 1
        self._progress.set()
        return True

    def _account(self) -> None:
        """Called for every chunk that was read, from either connection."""
        self._progress.set()
        if self._source_connection is not None:
            self._source_connection.account(self._last, self._acks.next, idle=self.accounted)

    def _ack(self) -> None:
        """Called for every chunk that the data connection has read."""
        self._acks.acknowledge(self._last)

    @property
    def _spent(self) -> bool:
        """True while its credit is used up: nothing is on its way here."""
        return self.unsettled >= PREFETCH

    @property
    def accounted(self) -> bool:
        """True while all that was delivered is confirmed, came back, stays, or waits for a queue that refused it."""
        missing = self._last - self._acks.routed
        return missing <= 0 or missing <= self._returned + self._acks.staying + self._publisher.kept

    async def close(self, settled: Callable[[bool], Awaitable[None]]) -> None:
        """Stops without a repeat: what was delivered goes its way, and the acknowledgements of it are proven.

        RabbitMQ drops acknowledgements that it has not handed to a quorum queue yet when their channel is closed. So
        the consumer is cancelled first: a quorum queue counts it among its `consumers` until all that it holds is
        settled. But what is on its way to a consumer that is cancelled, such a queue takes back at once, and what the
        consumer holds only when that is given back or we die: the newer would come first. Therefore it is cancelled
        when its credit is used up, for which nothing is acknowledged meanwhile, or when all that it was given is
        confirmed and nothing comes. Where neither is to be had, the channel is closed as it is: the order is worth
        more than the proof.

        `settled` returns when the queue does not count us any more; it is told whether something was given back.
        """
        channel, source_connection = self._channel, self._source_connection
        if channel is None or source_connection is None:
            self._acks.stopped = True
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_WITHIN
        self._link.off_chunk(self._ack)
        self._acks.rest()
        provable = await self._may_cancel(channel, deadline)
        if provable:
            if not self._spent:
                self._ack()  # in one write with what follows
            # Hardly anything comes any more, and the answer must not wait behind what cannot go.
            source_connection.let_go()
            await channel.cancel()
            self._reached(Point.CANCELLED)
            await self._until(lambda: self.accounted, deadline)
        self._acks.stopped = True
        source_connection.let_go()
        self._table.drop_parked()
        self._publisher.drop_arrivals()
        await self._publisher.confirmed()
        self._link.off_chunk(self._account)
        self._acks.acknowledge_all()
        if provable:
            gives_back = self._acks.next <= self._last or self._acks.staying > 0
            if gives_back:
                channel.give_back()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROVE_WITHIN):
                    await settled(gives_back)
        else:
            await asyncio.sleep(UNPROVEN)
        self._channel = self._source_connection = None
        self._acks.end()
        await self._link.shut_source_connection()

    async def _may_cancel(self, channel: Channel, deadline: float) -> bool:
        """Whether nothing is on its way here, or was a moment ago; waits for that until the deadline."""
        while True:
            await self._until(lambda: self._spent or self.accounted, deadline)
            last = self._last
            if self._spent or not self.accounted:
                break
            try:
                async with asyncio.timeout_at(deadline):  # its answer stands behind what came, which may have to wait
                    await channel.inspect(self._queue)
                    await channel.inspect(self._queue)  # after what stood before the channel when the first one asked
            except TimeoutError:
                break
            if self._last == last:
                break
        return self._spent or self._acks.next > self._last

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Returns with the condition still true, or at the deadline, or when nothing goes on any more."""
        loop = asyncio.get_running_loop()
        seen, since = self._gone_on, loop.time()
        while not condition():
            self._progress.clear()
            try:
                async with asyncio.timeout_at(min(deadline, since + STUCK_AFTER)):
                    await self._progress.wait()
            except TimeoutError:
                return
            if self._gone_on != seen:
                seen, since = self._gone_on, loop.time()

    @property
    def _gone_on(self) -> tuple[int, int, int]:
        return self._last, self.routed, self._returned
