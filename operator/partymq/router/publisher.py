"""What a session publishes leaves through a few channels, its outlets; a queue is always reached through the same one.

Invariants: what was published to a queue and is not confirmed is known, in order. When a session's hold on the journal
and all of its outlets are gone, nothing that it published can still be on its way.

For the second, the first outlet is the channel that consumes the journal, and the others consume the queue `outlets`,
which is always empty: a channel is one process at the broker, which handles what it was sent before it ends and takes
its consumer with it. So a successor that sees no consumer there publishes after everything that came before it (design,
section 3). Several, because one such process is what limits the throughput of a broker with cores to spare.
"""

import asyncio
from typing import Final, Protocol

from partymq.amqp.channel import Channel
from partymq.amqp.frames import publish_frame
from partymq.errors import BrokerError
from partymq.router.link import Link

OUTLETS: Final = 4
"""Besides the journal's; more than a broker of a few cores can keep busy gain nothing."""
UNLIMITED: Final = 1 << 60
STALLED_AFTER: Final = 60.0
"""Seconds for which one publish may stay unconfirmed: as long as RabbitMQ itself waits for the leader of a queue."""
LOOK_EVERY: Final = 15.0


class Settled(Protocol):
    """Where a published message came from; told once that the broker has it."""

    def confirmed(self, tag: int) -> None: ...


class Outlet:
    """One channel that publishes with confirms. `arrival` is the per-message path: no task, future or lock."""

    def __init__(self, link: Link, channel: Channel) -> None:
        self._link = link
        self._send = channel.publish
        self.channel = channel
        self.sent = 0
        """The sequence number of the last publish."""
        self._low = 1
        self._arrivals: dict[int, tuple[int, Sink]] = {}
        self._others: dict[int, tuple[Sink, Settled | None, int]] = {}
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self._source: Settled | None = None

    async def open(self) -> None:
        """Puts the channel into confirm mode."""
        await self.channel.confirm_select(self._on_confirm, self._on_nack)

    @property
    def unconfirmed(self) -> int:
        """Messages that are published and not confirmed."""
        return len(self._arrivals) + len(self._others)

    @property
    def oldest(self) -> int | None:
        """The sequence number of the first publish that is not confirmed."""
        self._advance()
        return self._low if self._low <= self.sent else None

    def serve(self, source: Settled) -> None:
        """Makes `source` the origin of arrivals; the one before has nothing unconfirmed."""
        assert not self._arrivals
        self._source = source

    def arrival(self, sink: "Sink", header: bytes, body: bytes, tag: int) -> None:
        """Publishes to `sink` what the source delivered under `tag`."""
        self.sent = sent = self.sent + 1
        self._arrivals[sent] = tag, sink
        sink.unconfirmed += 1
        self._send(sink.frame, header, body)

    def publish(self, sink: "Sink", header: bytes, body: bytes, origin: Settled | None, tag: int) -> None:
        """Publishes anything else; `origin` is told when it is confirmed."""
        self.sent = sent = self.sent + 1
        self._others[sent] = sink, origin, tag
        sink.unconfirmed += 1
        self._send(sink.frame, header, body)

    def forget_arrival(self, tag: int) -> bool:
        """The unconfirmed message that the source delivered under `tag` came back: its confirm means nothing."""
        found = next(((sent, sink) for sent, (arrived, sink) in self._arrivals.items() if arrived == tag), None)
        if found is None:
            return False
        sent, sink = found
        sink.unconfirmed -= 1
        del self._arrivals[sent]
        return True

    def barrier(self) -> asyncio.Future[None]:
        """Done when everything published so far is confirmed."""
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append((self.sent, barrier))
        self._advance()
        return barrier

    def _on_confirm(self, tag: int, multiple: bool) -> None:
        if multiple:
            for sequence in range(self._low, tag + 1):
                self._settle(sequence)
            self._low = max(self._low, tag + 1)
        else:
            self._settle(tag)
        if self._barriers:
            self._advance()

    def _settle(self, sequence: int) -> None:
        arrival = self._arrivals.pop(sequence, None)
        if arrival is not None:
            tag, sink = arrival
            sink.unconfirmed -= 1
            self._source.confirmed(tag)  # type: ignore[union-attr] # an arrival has a source
        elif (other := self._others.pop(sequence, None)) is not None:
            sink, origin, tag = other
            sink.unconfirmed -= 1
            if origin is not None:
                origin.confirmed(tag)

    def _advance(self) -> None:
        low = self._low
        while low <= self.sent and low not in self._arrivals and low not in self._others:
            low += 1
        self._low = low
        while self._barriers and self._barriers[0][0] < low:
            _, barrier = self._barriers.pop(0)
            if not barrier.done():
                barrier.set_result(None)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: ARG002 - the fields of the method
        self._link.fail(BrokerError(f"the broker could not store publish {tag} (basic.nack): a queue has failed"))


class Sink:
    """A queue to publish to: by which outlet and frame, and how many messages it may take before somebody looks."""

    __slots__ = ("frame", "left", "outlet", "unconfirmed")

    def __init__(self, outlet: Outlet, frame: bytes, left: int) -> None:
        self.outlet = outlet
        self.frame = frame
        self.left = left
        self.unconfirmed = 0
        """Messages that are published and not confirmed: a poll may not have counted them."""

    def arrival(self, header: bytes, body: bytes, tag: int) -> None:
        """Publishes what the source delivered under `tag`."""
        self.left -= 1
        self.outlet.arrival(self, header, body, tag)

    def publish(self, header: bytes, body: bytes, *, origin: Settled | None = None, tag: int = 0) -> None:
        """Publishes anything else; `origin` is told when it is confirmed."""
        self.left -= 1
        self.outlet.publish(self, header, body, origin, tag)


class Publisher:
    """All outlets of a session."""

    def __init__(self, link: Link, journal: Channel) -> None:
        self._link = link
        self.journal = Outlet(link, journal)
        """The outlet of the journal alone: its writes wait for nothing else."""
        self._outlets: list[Outlet] = []
        self._by_queue: dict[tuple[str, str], Outlet] = {}
        self._seen: dict[Outlet, tuple[int, float]] = {}
        """The oldest unconfirmed publish of each outlet, and since when it is."""

    async def open(self, queue: str) -> None:
        """Opens the outlets, as consumers of `queue`, which no earlier session's outlets consume any more."""
        for _ in range(OUTLETS):
            channel = await self._link.channel()
            await channel.consume(queue, _nothing, on_cancel=self._link.cancelled(queue))
            outlet = Outlet(self._link, channel)
            await outlet.open()
            self._outlets.append(outlet)

    def sink(self, queue: str, *, exchange: str = "", left: int = UNLIMITED) -> Sink:
        """The way to a queue: by its name or, where an exchange is named, by a routing key."""
        outlet = self._by_queue.get((exchange, queue))
        if outlet is None:
            outlet = self._outlets[len(self._by_queue) % OUTLETS]
            self._by_queue[exchange, queue] = outlet
        return Sink(outlet, publish_frame(outlet.channel.number, exchange, queue), left)

    def serve(self, source: Settled) -> None:
        """Makes `source` the origin of arrivals; the one before has nothing unconfirmed."""
        for outlet in self._outlets:
            outlet.serve(source)

    def forget_arrival(self, tag: int) -> bool:
        """See `Outlet`; False when no outlet knows of it."""
        return any(outlet.forget_arrival(tag) for outlet in self._outlets)

    async def confirmed(self) -> None:
        """Returns when everything published so far is confirmed."""
        for barrier in [outlet.barrier() for outlet in (self.journal, *self._outlets)]:
            await barrier

    async def settled(self, *sinks: Sink) -> None:
        """Returns when all that was published to these is confirmed; nothing more is published to them meanwhile."""
        settled = asyncio.Event()

        def look() -> None:
            if not any(sink.unconfirmed for sink in sinks):
                settled.set()

        look()
        self._link.on_chunk(look)
        try:
            await settled.wait()
        finally:
            self._link.off_chunk(look)

    async def watch(self) -> None:
        """Ends the session when the broker confirms no more: what waits for that would wait without end.

        It is how a queue without a leader shows; one that is consumed says so itself, after the same time.
        """
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self.stalled(asyncio.get_running_loop().time()):
                raise BrokerError(
                    f"the broker has not confirmed a publish for {STALLED_AFTER:g} seconds: a queue of the group has "
                    "no leader or no majority; `rabbitmq-queues quorum_status` tells which"
                )

    def stalled(self, now: float) -> bool:
        """Whether a publish has been waiting for its confirm in all looks of so many seconds, none of them blocked."""
        outlets = () if self._link.blocked else (self.journal, *self._outlets)
        waiting = {outlet: oldest for outlet in outlets if (oldest := outlet.oldest) is not None}
        self._seen = {
            outlet: self._seen[outlet] if outlet in self._seen and self._seen[outlet][0] == oldest else (oldest, now)
            for outlet, oldest in waiting.items()
        }
        return any(now - since >= STALLED_AFTER for _, since in self._seen.values())

    async def close(self) -> None:
        """Closes the outlets; all they published is confirmed."""
        for outlet in self._outlets:
            await outlet.channel.close()


def _nothing(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """Somebody else's message: nothing of ours is ever in that queue. It stays unacknowledged, and is not lost."""
