"""The router's own interface to a broker (`Connection` and `Channel`), on the model of one.

Invariant: a method takes effect after what its channel sent before; what arrives comes in the order in which the broker
sent it on that channel. A connection that is cut loses what was under way in either direction but for a beginning of
each channel's, and each queue's, share of it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, TypeVar

from partymq.amqp.content import DeliveryCallback
from partymq.amqp.frames import DEFAULT_FRAME_MAX
from partymq.amqp.replies import NotExecutedError, settle
from partymq.errors import ChannelClosedError, ConnectionClosedError, ConnectionLostError
from partymq.message.stamp import read_stamp
from partymq.message.tables import HEADERS, find_property
from unit.model.broker import Channel, ChannelClosedByBrokerError, Delivery
from unit.sim.network import LiveBroker, Network, Pipe

T = TypeVar("T")
ENDS_AFTER = (0.0, 0.001, 0.03)
"""Seconds from the answer to a close until the queues notice that the channel has gone."""
BROKER_WAITS = 0.25
"""Seconds that a broker gives a queue's leader to say how it is."""
FAILED_DELETIONS = 0.5
"""The share of deletions over which a fragile broker ends the connection, and of those the share that take effect."""
EXPIRATION = 0x01
"""In the first byte of a content header's flags."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a message in the model stands for."""

    header: bytes
    body: bytes
    queue: str
    sender: "SimChannel"
    at: float


class Refusal(Enum):
    """How the broker answers what it does not take."""

    WORDS = auto()
    """The channel is closed: 406."""
    CRASH = auto()
    """The connection is closed: 541."""


class Wire:
    """The broker and everything that was ever sent to it."""

    def __init__(self, network: Network, broker: LiveBroker) -> None:
        self.network = network
        self.broker = broker
        self.defects: list[str] = []
        """What the router must not do, whether it does harm this time or not."""
        self.refuses: Callable[[str, bytes, bytes], Refusal | None] = lambda _queue, _header, _body: None
        """What the broker has against a message that is published to a queue."""
        self.late: set[str] = set()
        """What a consumer was given after it had asked to be cancelled."""
        self.on_refused: Callable[[str], None] = lambda _name: None
        """Called when a router hears that a queue had no room for the message."""
        self.place: Callable[[], str] = lambda: ""
        """The node that a connection goes to."""
        self.older = False
        """Whether queues are as an older version has declared them."""
        self.shuffles = False
        """Whether some confirms come late, and others before them."""
        self.fragile = False
        """Whether the node of a queue's leader may be lost while the queue is deleted, which ends the connection."""
        self.connections: list[SimConnection] = []
        """Those that have not ended, and some that have."""
        self._contents: list[Content] = []

    def declare(self, queue: str, arguments: Mapping[str, Any]) -> None:
        """As it is asked for; or, where an older version has done so, as that did."""
        single_active = bool(arguments.get("x-single-active-consumer"))
        self.broker.declare(
            queue,
            quorum=arguments.get("x-queue-type") == "quorum",
            single_active=single_active and not (self.older and (".backlog." in queue or ".transfer." in queue)),
            dead_letters=arguments.get("x-dead-letter-exchange"),
            disconnected_timeout=5000.0 if self.older else arguments["x-consumer-disconnected-timeout"],
        )

    def deleted(self, queue: str, channel: "SimChannel") -> None:
        """A queue that was taken over is deleted: what the session sent there would come back, and end it.

        Its name may be declared anew. So a successor has to wait for the deletion, as it does for what is published.
        """
        if any(queue in other.on_their_way for connection in self.connections for other in connection.channels):
            self.defects.append(f"{queue} is deleted while something is on its way to it")
        if not any(held.endswith(".outlets") for held in channel.consumes):
            self.defects.append(f"{queue} is deleted over a channel that no successor waits for")

    def keep(self, content: Content) -> str:
        """The name by which the model knows the message."""
        self._contents.append(content)
        return str(len(self._contents) - 1)

    def since(self, name: str) -> list[tuple[str, Content]]:
        """What was sent after this message."""
        first = int(name) + 1
        return [(str(first + number), content) for number, content in enumerate(self._contents[first:])]

    def content(self, name: str) -> Content:
        return self._contents[int(name)]


class SimConnection:
    """Stands in for `partymq.amqp.connection.Connection`."""

    frame_max = DEFAULT_FRAME_MAX
    channel_max = 2047
    endpoint = None
    blocked_since: float | None = None
    server_version = (4, 0, 5)

    def __init__(
        self,
        wire: Wire,
        *,
        on_effect: Callable[[], None] = lambda: None,
        on_cut: Callable[[], None] = lambda: None,
        hasty: bool = False,
        node: str | None = None,
    ) -> None:
        self.wire = wire
        self.node = wire.place() if node is None else node
        wire.connections.append(self)
        self.lost: asyncio.Future[None] = wire.network.loop.create_future()
        self.on_effect = on_effect
        """Called after each thing that reaches the broker or comes from it."""
        self._on_cut = on_cut
        self.hasty = hasty
        """Whether closing in order loses what quorum queues have not been handed; clients here wait for that first."""
        self.channels: list[SimChannel] = []
        self.arriving: list[Pipe] = []
        """All ways to the client."""
        self._hooks: tuple[Callable[[], None], ...] = ()
        self._numbers = 0
        self._gone = False
        self.on_congested: Callable[[bool], None] = lambda _on: None
        self.received = 0
        self.held = False

    async def channel(self) -> "SimChannel":
        if self.lost.done():
            raise self.lost.exception() or ConnectionLostError("the connection was closed")
        self._numbers += 1
        channel = SimChannel(self, self._numbers)
        self.channels.append(channel)
        await channel.open()
        return channel

    def add_chunk_hook(self, hook: Callable[[], None]) -> None:
        self._hooks = (*self._hooks, hook)

    def remove_chunk_hook(self, hook: Callable[[], None]) -> None:
        self._hooks = tuple(other for other in self._hooks if other != hook)

    def feeds(self, other: "SimConnection") -> None:
        """What is sent leaves by itself."""

    def hold(self, on: bool) -> None:
        """Nothing arrives while `on`."""
        self.held = on
        for channel in self.channels:
            channel.hold(on)

    def chunk(self) -> None:
        """Something has arrived and was processed."""
        if self.lost.done():
            return
        for hook in self._hooks:
            hook()
        self.on_effect()

    def ring(self) -> None:
        for hook in self._hooks:
            hook()

    def sent(self) -> None:
        if not self.lost.done():
            self.on_effect()

    async def close(self) -> None:
        if self.lost.done():
            return
        for channel in self.channels:
            channel.finish()
        self._gone = True
        await asyncio.sleep(self.wire.network.latency(0.0003))
        self._end(None)

    def abort(self) -> None:
        """Drop the socket: the broker notices at once."""
        self.cut("the connection was given up")

    def crash(self) -> None:
        """A channel's process at the broker has crashed, which ends the connection."""
        self.wire.network.loop.call_soon(self._crash)

    def _crash(self) -> None:
        if not self.lost.done():
            self._on_cut()
        self.vanish()
        self._end(ConnectionClosedError(541, "INTERNAL_ERROR"))

    def cut(self, why: str, *, linger: float = 0.0) -> None:
        """The client is gone; the broker goes on with what was sent for `linger` seconds."""
        if not self.lost.done():
            self._on_cut()
        if linger:
            self._end(ConnectionLostError(why), keep=True)
            self.wire.network.loop.call_later(linger, self.vanish)
        else:
            self.vanish()
            self._end(ConnectionLostError(why))

    def stall(self) -> None:
        """Neither side hears of the other any more."""
        for channel in self.channels:
            channel.stall()

    def vanish(self) -> None:
        """The broker gives the connection up; the client may not know."""
        if self._gone:
            return
        self._gone = True
        for channel in self.channels:
            channel.die()

    def lose(self) -> None:
        """Its node is killed: whether its consumers are gone, queues do not know before that is back."""
        if not self.lost.done():
            self._on_cut()
        self._gone = True
        for channel in self.channels:
            channel.die(node_lost=True)
        self._end(ConnectionLostError("the broker's node was killed"))

    def _end(self, error: Exception | None, *, keep: bool = False) -> None:
        for channel in self.channels:
            channel.fail(error, keep=keep)
        settle(self.lost, error)


class SimChannel:
    """Stands in for `partymq.amqp.channel.Channel`, and has what clients need besides."""

    def __init__(self, connection: SimConnection, number: int) -> None:
        network = connection.wire.network
        self.number = number
        self.closed: asyncio.Future[None] = network.loop.create_future()
        self.died_at: float | None = None
        self.redelivered = False
        self.check: Callable[[Delivery], None] = lambda _delivery: None
        """Called when the broker gives a message to this channel, before anybody knows of it."""
        self._connection = connection
        self._wire = connection.wire
        self._remote = Channel(connection.wire.broker, node=connection.node)
        self._remote.arrived = self._collect
        self._out = Pipe(network, connection.sent)
        self._deliveries = Pipe(network, connection.chunk, connection.arriving)
        self._replies = Pipe(network, connection.chunk, connection.arriving)
        self._coming: deque[Delivery] = deque()
        """What the broker has given to this channel, and the client does not know of."""
        self._known = 0
        """The last delivery that the client knows of."""
        self._waiting: list[asyncio.Future[Any]] = []
        self._closing = False
        self._on_delivery: DeliveryCallback | None = None
        self._on_cancel: Callable[[], None] | None = None
        self._on_confirm: Callable[[int, bool], None] = lambda _tag, _multiple: None
        self._on_nack: Callable[[int, bool], None] | None = None
        self._published: list[str] = []
        self._unconfirmed: dict[int, str] = {}
        """The queues of publishes that the broker has not confirmed, by their numbers."""
        self._on_return: Callable[[str], None] = lambda _text: None

    # -- what the router uses -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._call(lambda: None)

    async def confirm_select(
        self, on_confirm: Callable[[int, bool], None], on_nack: Callable[[int, bool], None]
    ) -> None:
        self._on_confirm, self._on_nack = on_confirm, on_nack
        await self._call(lambda: None)

    def confirm(self, on_confirm: Callable[[int, bool], None], on_nack: Callable[[int, bool], None]) -> None:
        self._on_confirm, self._on_nack = on_confirm, on_nack

    def on_return(self, callback: Callable[[str], None]) -> None:
        self._on_return = callback

    async def consume(
        self,
        queue: str,
        on_delivery: DeliveryCallback,
        *,
        prefetch: int = 0,
        arguments: Mapping[str, Any] | None = None,
        exclusive: bool = False,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        self._on_delivery, self._on_cancel = on_delivery, on_cancel
        priority = int((arguments or {}).get("x-priority", 0))
        await self._call(lambda: self._remote.consume(queue, prefetch=prefetch, priority=priority))

    def take_redelivered(self) -> bool:
        redelivered, self.redelivered = self.redelivered, False
        return redelivered

    def publish(self, frame: bytes, header: bytes, body_frames: bytes) -> None:
        if self.closed.done():
            return
        queue, now = _routing_key(frame), self._wire.network.loop.time()
        name = self._wire.keep(Content(header, body_frames, queue, self, now))
        stamp = read_stamp(header)
        headers = {} if stamp is None else {"x-partymq-epoch": stamp.epoch}
        expires = 0.0 if header[12] & EXPIRATION else None

        refusal = self._wire.refuses(queue, header, body_frames)
        self._published.append(name)
        self._unconfirmed[len(self._published)] = queue

        def execute() -> None:
            if self._remote.open and refusal is Refusal.WORDS:
                self._remote.close()
                self._replies.put(lambda: self._end(ChannelClosedError(406, "PRECONDITION_FAILED - I do not like it")))
            elif self._remote.open and refusal is Refusal.CRASH:
                self._connection.crash()
            elif self._remote.open:
                self._remote.publish(queue, name, headers=headers, expiration=expires)

        self._out.put(execute)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self._settle(lambda: self._remote.ack(tag, multiple=multiple))

    def give_back(self) -> None:
        def settlement() -> None:
            if held := self._remote._unsettled:
                self._remote.reject(max(held), multiple=True, requeue=True)

        self._settle(settlement)

    async def inspect(self, queue: str) -> tuple[int, int]:
        silence = self._wire.broker.silence(queue)
        if silence is not None:
            await asyncio.sleep(BROKER_WAITS if silence.late else 0.0)
            await self._call(lambda: None, self._deliveries)
            return 0, 0
        depth = await self._call(lambda: self._remote.depth(queue), self._deliveries)
        return depth.messages, depth.consumers

    async def get(self, queue: str) -> None:
        """Refused, by the leader, when there is one that answers."""
        while (silence := self._wire.broker.silence(queue)) is not None:  # noqa: ASYNC110 - a time that is known
            await asyncio.sleep(silence.until - self._wire.network.loop.time())
        await self._call(lambda: self._remote.depth(queue))
        self._end(ChannelClosedError(405, "RESOURCE_LOCKED"))
        raise ChannelClosedError(405, "RESOURCE_LOCKED")

    def redirect(self, on_delivery: DeliveryCallback) -> None:
        if self._on_delivery is not None:
            self._on_delivery = on_delivery

    async def inspect_all(self, queues: Collection[str]) -> list[tuple[int, int]]:
        return await asyncio.gather(*(self.inspect(queue) for queue in queues))

    async def declare_queue(self, queue: str, arguments: Mapping[str, Any], *, durable: bool = True) -> None:
        if arguments.get("x-queue-type") not in (None, "quorum"):
            await self._call(lambda: None)
            raise ChannelClosedError(
                406, f"inequivalent arg 'x-queue-type' for queue '{queue}': ... current is 'quorum'"
            )
        await self._call(lambda: self._wire.declare(queue, arguments))

    async def declare_exchange(self, exchange: str, kind: str) -> None:
        await self._call(lambda: None)

    async def bind_queue(self, queue: str, exchange: str, arguments: Mapping[str, Any]) -> None:
        header = next(name for name in arguments if name != "x-match")
        if (header, queue) not in self._wire.broker._bindings.get(exchange, ()):
            await self._call(lambda: self._wire.broker.bind(exchange, queue, header=header))

    async def purge(self, queue: str) -> int:
        return await self._call(lambda: self._remote.purge(queue))

    async def delete_queue(self, queue: str) -> int:
        def delete() -> int:
            random, fragile = self._wire.network.random, self._wire.fragile
            fails = fragile and random.random() < FAILED_DELETIONS
            if (target := self._wire.broker.queue(queue)) is not None:
                if any(each.priority > 0 for each in target.consumers):
                    self._wire.deleted(queue, self)
                if not fails or random.random() < FAILED_DELETIONS:
                    self._remote.delete(queue)
            if fails:
                self._connection.crash()
            return 0

        return await self._call(delete)

    async def cancel(self) -> None:
        known = self._known

        def cancel() -> None:
            for line in self._wire.broker.lines_of(self._remote):
                self._wire.broker.drain(line)
            coming = [each.tag for each in self._coming]
            self._remote.cancel(coming=coming[self._wire.network.random.randint(0, len(coming)) :])
            while self._coming and not self._remote.holds(self._coming[-1].tag):
                self._coming.pop()
            held = self._remote._unsettled.items()
            self._wire.late.update(message.body for tag, (_, message) in held if tag > known)

        await self._call(cancel, self._deliveries)

    async def close(self) -> None:
        if self.closed.done():
            return
        if not self._closing:
            self._closing = True
            self._on_delivery = None

            def close() -> None:
                # As at the broker: the answer leaves first, the queues notice when the channel's process has ended.
                self._replies.put(lambda: self._end(None))
                network = self._wire.network
                network.loop.call_later(network.random.choice(ENDS_AFTER), self._close_remote)

            self._out.put(close)
        await asyncio.wait([self.closed])
        error = self.closed.exception()
        if error is not None and not isinstance(error, ChannelClosedError):
            raise error

    # -- what clients use besides -------------------------------------------------------------------------------------

    def requeue(self, tag: int) -> None:
        """basic.nack with requeue."""
        self._settle(lambda: self._remote.reject(tag, requeue=True))

    @property
    def holds_anything(self) -> bool:
        """True while the broker waits for an acknowledgement of this channel, known to the client or not."""
        return bool(self._remote._unsettled)

    @property
    def on_their_way(self) -> Collection[str]:
        """The queues to which something that was published is still on its way."""
        return self._unconfirmed.values() if self._remote.open else ()

    @property
    def consumes(self) -> list[str]:
        """The queues that it consumes."""
        return [each.queue_name for each in self._remote._subscriptions.values()]

    # -- what the connection uses -------------------------------------------------------------------------------------

    def stall(self) -> None:
        for pipe in (self._out, self._deliveries, self._replies):
            pipe.stall()

    def hold(self, on: bool) -> None:
        for pipe in (self._deliveries, self._replies):
            pipe.hold(on)

    def finish(self) -> None:
        """In order: everything that was sent arrives."""
        self._on_delivery = None
        self._out.cut(keep=len(self._out))
        self._close_remote()
        self.died_at = self._wire.network.loop.time()

    def die(self, *, node_lost: bool = False) -> None:
        """A beginning of what was sent takes effect."""
        random = self._wire.network.random
        if not self._remote.open:
            return
        self._out.cut(keep=random.randint(0, len(self._out)))
        for line in self._wire.broker.lines_of(self._remote):
            for _ in range(random.randint(0, len(line.commands))):
                self._wire.broker.step(line)
        self._remote.die(node_lost=node_lost)
        self.died_at = self._wire.network.loop.time()

    def fail(self, error: Exception | None, *, keep: bool) -> None:
        """Tell everybody; `keep` leaves what was sent on its way."""
        self._on_delivery = None
        for pipe in (self._deliveries, self._replies) if keep else (self._out, self._deliveries, self._replies):
            pipe.cut()
        for future in self._waiting:
            if not future.done():
                future.set_exception(error or ConnectionLostError("the connection was closed"))
                future.exception()
        settle(self.closed, error)

    def _close_remote(self) -> None:
        """A channel that is closed takes with it what it has not handed to a quorum queue yet."""
        if not self._remote.open:
            return
        broker, random = self._wire.broker, self._wire.network.random
        for line in broker.lines_of(self._remote):
            queue = broker.queue(line.queue)
            if not self._connection.hasty:
                broker.drain(line)
            elif queue is not None and queue.quorum:
                line.held.clear()
                for _ in range(random.randint(0, len(line.commands))):
                    broker.step(line)
                line.commands.clear()
        self._remote.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _settle(self, settlement: Callable[[], None]) -> None:
        if self.closed.done():
            return

        def execute() -> None:
            if self._remote.open:
                settlement()

        self._out.put(execute)

    async def _call(self, request: Callable[[], T], replies: Pipe | None = None) -> T:
        if self.closed.done():
            raise self.closed.exception() or ChannelClosedError(200, "at this side's request")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)

        def execute() -> None:
            if not self._remote.open:
                return
            try:
                result = request()
            except ChannelClosedByBrokerError as error:
                text = f"NOT_FOUND - no queue: {error}"
                self._replies.put(lambda: self._end(ChannelClosedError(404, text)))
            else:
                (replies or self._replies).put(lambda: self._answer(future, result))

        self._out.put(execute)
        return await future

    def _answer(self, future: asyncio.Future[T], result: T) -> None:
        self._waiting.remove(future)
        if not future.done():
            future.set_result(result)

    def _end(self, error: ChannelClosedError | None) -> None:
        self._on_delivery = None
        self.died_at = self._wire.network.loop.time()
        for place, future in enumerate(self._waiting):
            if not future.done():
                code, text = (error.code, error.text) if error else (200, "at this side's request")
                future.set_exception((NotExecutedError if place else ChannelClosedError)(code, text))
                future.exception()
        self._waiting.clear()
        settle(self.closed, error)

    def _collect(self) -> None:
        remote = self._remote
        for delivery in remote.take():
            self.check(delivery)
            self._coming.append(delivery)
            self._deliveries.put(partial(self._deliver, delivery))
        for number in (*remote.confirmed, *remote.refused):
            self._unconfirmed.pop(number, None)
        for number in sorted(remote.refused):
            self._replies.put(partial(self._refuse, number))
        for number in sorted(remote.confirmed):
            if number in remote.returned:
                self._replies.put(lambda: self._on_return("there is no such queue"))
            self._put_confirm(partial(self._confirm, number))
        for _ in remote.cancelled:
            self._deliveries.put(self._cancel)
        remote.confirmed.clear()
        remote.refused.clear()
        remote.returned.clear()
        remote.cancelled.clear()

    def _put_confirm(self, confirm: Callable[[], None]) -> None:
        network = self._wire.network
        if self._wire.shuffles and network.random.random() < 0.1:
            network.loop.call_later(network.random.uniform(0.0, 0.5), self._replies.put, confirm)
        else:
            self._replies.put(confirm)

    def _deliver(self, delivery: Delivery) -> None:
        if not self._coming or self._coming[0] is not delivery:
            return  # taken back on the way
        self._coming.popleft()
        self.redelivered = self.redelivered or delivery.redelivered
        self._known = delivery.tag
        if self._on_delivery is not None:
            content = self._wire.content(delivery.body)
            self._connection.received += len(content.header) + len(content.body)
            origin = b"\x00" + bytes((len(content.queue),)) + content.queue.encode()
            header = _counted(content.header, delivery.returns) if delivery.returns else content.header
            self._on_delivery(delivery.tag, origin, header, content.body)

    def _confirm(self, number: int) -> None:
        self._on_confirm(number, False)

    def _refuse(self, number: int) -> None:
        if self._on_nack is not None:
            self._wire.on_refused(self._published[number - 1])
            self._on_nack(number, False)

    def _cancel(self) -> None:
        if self._on_cancel is not None and not self.closed.done():
            self._on_cancel()


def _counted(header: bytes, returns: int) -> bytes:
    """The content header as a quorum queue delivers it again."""
    found = find_property(header, HEADERS)
    if found is None:
        return header  # one that the router does not look at
    row = b"\x10x-delivery-countl" + returns.to_bytes(8, "big")
    rows = header[found.start + 4 : found.stop] + row
    return header[: found.start] + len(rows).to_bytes(4, "big") + rows + header[found.stop :]


def _routing_key(publish: bytes) -> str:
    """The routing key in a whole basic.publish frame."""
    at = 13
    at += 1 + publish[at]
    return publish[at + 1 : at + 1 + publish[at]].decode()
