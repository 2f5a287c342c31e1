"""One channel that publishes with confirms, and the queues that are reached through it.

Invariant: what was published to a queue and is not confirmed is known, in order, with its bytes, so that it can be sent
again. `Outlet.arrival` is the per-message path: no task, future or lock.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from partymq.amqp.channel import Channel
from partymq.errors import BrokerError, NotAmqpError

UNLIMITED: Final = 1 << 60
_UNSENT: Final = "the broker confirms what nobody has sent: what answers there is no RabbitMQ"


class Settled(Protocol):
    """Where a published message came from; told once that the broker has it."""

    def confirmed(self, tag: int) -> None: ...

    def stays(self, tag: int) -> None:
        """Told instead where no queue takes the message: it stays where it came from, unacknowledged."""

    def keeps(self, tag: int) -> bool:
        """Whether it is still there."""

    def leaves(self, tag: int) -> None:
        """What stayed is in the dead queue now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message that was refused, or that waits behind one."""

    place: int
    """The sequence number under which it was published; 0 of one that was not."""
    header: bytes
    body: bytes
    origin: Settled | None
    tag: int
    arrived: bool
    """It is the source's."""


class Stay(NamedTuple):
    """A message that fits nowhere, and where it stays; a copy has no origin, and stays on its way to the sink."""

    sink: "Sink"
    origin: Settled | None
    tag: int

    @property
    def lasts(self) -> bool:
        """Whether it is still there."""
        return self.origin is None or self.origin.keeps(self.tag)

    def end(self) -> None:
        """It is in the dead queue."""
        if self.origin is None:
            self.sink.unconfirmed -= 1
        else:
            self.origin.leaves(self.tag)


class Diverted(NamedTuple):
    """A message that an outlet was given and did not send."""

    outlet: "Outlet"
    sequence: int
    frame: bytes
    header: bytes
    body_frames: bytes


class Arriving(Settled, Protocol):
    """The source."""

    @property
    def stopped(self) -> bool:
        """True once it takes back what was delivered and is in no queue."""


class Way(Protocol):
    """What takes messages for a sink."""

    def arrival(self, sink: "Sink", header: bytes, body: bytes, tag: int) -> None: ...

    def publish(self, sink: "Sink", header: bytes, body: bytes, origin: Settled | None, tag: int) -> None: ...


class Keeper(Protocol):
    """Keeps arrivals that are not published yet."""

    def drop_arrivals(self) -> None: ...


class Outlet:
    """One channel that publishes with confirms. `arrival` is the per-message path: no task, future or lock."""

    def __init__(self, channel: Channel) -> None:
        self._send = channel.publish
        self.channel = channel
        self.sent = 0
        """The sequence number of the last publish."""
        self._low = 1
        self._arrivals: dict[int, tuple[int, Sink, bytes, bytes]] = {}
        self._others: dict[int, tuple[Sink, Settled | None, int, bytes, bytes]] = {}
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self.source: Arriving | None = None
        """The origin of arrivals."""
        self._confirmed: Callable[[int], None] = _nobody
        self._direct = 0
        """How many it had sent itself when it was diverted."""

    async def open(self) -> None:
        """Puts the channel into confirm mode."""
        await self.channel.confirm_select(self._on_confirm, self._on_nack)

    @property
    def unconfirmed(self) -> int:
        """Messages that are published and not confirmed."""
        return len(self._arrivals) + len(self._others)

    @property
    def others(self) -> int:
        """Of these, the ones that the source did not deliver."""
        return len(self._others)

    @property
    def diverted(self) -> bool:
        """True while it sends nothing itself."""
        return self._send != self.channel.publish

    @property
    def oldest(self) -> int | None:
        """The sequence number of the first publish that is not confirmed."""
        self._advance()
        return self._low if self._low <= self.sent else None

    def serve(self, source: Arriving) -> None:
        """Makes `source` the origin of arrivals; the one before has nothing unconfirmed."""
        assert not self._arrivals
        self.source = source
        self._confirmed = source.confirmed

    def arrival(self, sink: "Sink", header: bytes, body: bytes, tag: int) -> None:
        """Publishes to `sink` what the source delivered under `tag`."""
        self.sent = sent = self.sent + 1
        self._arrivals[sent] = tag, sink, header, body
        sink.unconfirmed += 1
        sink.weight += len(body)
        self._send(sink.frame, header, body)

    def publish(self, sink: "Sink", header: bytes, body: bytes, origin: Settled | None, tag: int) -> None:
        """Publishes anything else; `origin` is told when it is confirmed."""
        self.sent = sent = self.sent + 1
        self._others[sent] = sink, origin, tag, header, body
        sink.unconfirmed += 1
        sink.weight += len(body)
        self._send(sink.frame, header, body)

    def forget_arrival(self, tag: int) -> bool:
        """The unconfirmed message that the source delivered under `tag` came back: its confirm means nothing.

        False where something else is on its way to that place: with a copied stamp, it may be what came back.
        """
        found = next((sent for sent, (arrived, *_) in self._arrivals.items() if arrived == tag), None)
        if found is None:
            return False
        sink = self._arrivals[found][1]
        if any(other.frame == sink.frame for other, *_ in self._others.values()):
            return False
        sink.unconfirmed -= 1
        del self._arrivals[found]
        return True

    def divert(self, way: "Callable[[Diverted], None]") -> None:
        """Hands what it is given from now on to `way`, which tells it what has become of each."""
        self._direct = self.sent
        self._send = lambda frame, header, body_frames: way(Diverted(self, self.sent, frame, header, body_frames))

    def straighten(self, waiting: "Sequence[Diverted]") -> None:
        """The opposite: sends what still waits itself. All the rest that it was given is settled or kept."""
        places = {message.sequence: self._direct + place for place, message in enumerate(waiting, 1)}
        self._arrivals = {places[sequence]: arrival for sequence, arrival in self._arrivals.items()}
        self._others = {places[sequence]: other for sequence, other in self._others.items()}
        self._barriers = [(self._direct + sum(s <= at for s in places), barrier) for at, barrier in self._barriers]
        self.sent, self._low = self._direct + len(waiting), self._direct + 1
        self._send = self.channel.publish
        for message in waiting:
            self._send(message.frame, message.header, message.body_frames)
        self._advance()

    def is_arrival(self, sequence: int) -> bool:
        """True of what the source delivered."""
        return sequence in self._arrivals

    def settle(self, sequence: int) -> None:
        """The broker has what was diverted."""
        self._on_confirm(sequence, False)

    def nacked(self, sequence: int) -> None:
        """A queue does not take what was diverted."""
        self._on_nack(sequence, False)

    def keep(self, sequence: int) -> Stay | None:
        """No queue takes what was diverted: its origin keeps it. A copy has none, and counts as on its way.

        None for what came back, which is somebody else's care.
        """
        stay = None
        if (arrival := self._arrivals.pop(sequence, None)) is not None:
            tag, sink, *_ = arrival
            sink.unconfirmed -= 1
            self.source.stays(tag)  # type: ignore[union-attr] # an arrival has a source
            stay = Stay(sink, self.source, tag)
        elif (other := self._others.pop(sequence, None)) is not None:
            sink, origin, tag, *_ = other
            if origin is not None:
                sink.unconfirmed -= 1
                origin.stays(tag)
            stay = Stay(sink, origin, tag)
        self._advance()
        return stay

    def barrier(self) -> asyncio.Future[None]:
        """Done when everything published so far is confirmed."""
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append((self.sent, barrier))
        self._advance()
        return barrier

    def _on_confirm(self, tag: int, multiple: bool) -> None:
        arrivals, confirmed = self._arrivals, self._confirmed
        if tag > self.sent:
            raise NotAmqpError(_UNSENT)
        for sequence in range(self._low, tag + 1) if multiple else (tag,):
            if (arrival := arrivals.pop(sequence, None)) is not None:
                number, sink, _, _ = arrival
                sink.unconfirmed -= 1
                confirmed(number)
            elif (other := self._others.pop(sequence, None)) is not None:
                sink, origin, number, _, _ = other
                sink.unconfirmed -= 1
                if origin is not None:
                    origin.confirmed(number)
        if multiple and tag >= self._low:
            self._low = tag + 1
        if self._barriers:
            self._advance()

    def _advance(self) -> None:
        low = self._low
        while low <= self.sent and low not in self._arrivals and low not in self._others:
            low += 1
        self._low = low
        while self._barriers and self._barriers[0][0] < low:
            _, barrier = self._barriers.pop(0)
            if not barrier.done():
                barrier.set_result(None)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        """A queue has refused what it was sent; whoever published it decides what becomes of it."""
        if tag > self.sent:
            raise NotAmqpError(_UNSENT)
        for sequence in range(self._low, tag + 1) if multiple else (tag,):
            if (arrival := self._arrivals.pop(sequence, None)) is not None:
                number, sink, header, body = arrival
                origin: Settled | None = self.source
            elif (other := self._others.pop(sequence, None)) is not None:
                sink, origin, number, header, body = other
            else:
                continue
            sink.unconfirmed -= 1
            arrived = arrival is not None
            if arrived and self.source is not None and self.source.stopped:
                continue
            message = Refused(place=sequence, header=header, body=body, origin=origin, tag=number, arrived=arrived)
            sink.refused(message)
        self._advance()


def _nobody(tag: int) -> None:
    raise AssertionError(f"arrival {tag} has no source")


def _unexpected(message: Refused) -> None:
    raise BrokerError(f"the broker could not store publish {message.place} (basic.nack): a queue has failed")


class Sink:
    """A queue to publish to: by which outlet and frame, and how many messages it may take before somebody looks."""

    __slots__ = ("exchange", "frame", "left", "outlet", "queue", "refused", "unconfirmed", "way", "weight")

    def __init__(
        self,
        outlet: Way,
        frame: bytes,
        left: int,
        *,
        refused: Callable[[Refused], None] = _unexpected,
        exchange: str = "",
        queue: str = "",
    ) -> None:
        self.exchange = exchange
        self.queue = queue
        """Its name or, where there is an exchange, the routing key."""
        self.refused = refused
        """Told of each message that the queue refuses: see `on_refused`."""
        self.way: Way = outlet
        """The way to the queue."""
        self.outlet: Way = outlet
        """The same, or what stands before it for a moment."""
        self.frame = frame
        self.left = left
        self.unconfirmed = 0
        """Messages that are published and not confirmed: a poll may not have counted them."""
        self.weight = 0
        """Bytes that were published since somebody looked."""

    def on_refused(self, callback: Callable[[Refused], None]) -> None:
        """Has each message that the queue refuses given to `callback`: it counts as published and confirmed no more."""
        self.refused = callback

    def arrival(self, header: bytes, body: bytes, tag: int) -> None:
        """Publishes what the source delivered under `tag`."""
        self.left -= 1
        self.outlet.arrival(self, header, body, tag)

    def publish(self, header: bytes, body: bytes, *, origin: Settled | None = None, tag: int = 0) -> None:
        """Publishes anything else; `origin` is told when it is confirmed."""
        self.left -= 1
        self.outlet.publish(self, header, body, origin, tag)
