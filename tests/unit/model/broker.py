"""A RabbitMQ broker in memory, and the clients' side of its connections and channels.

Invariant: what a channel sends to one queue takes effect in the order in which it was sent; between queues and between
channels there is no order, and what a connection had sent when it died takes effect or is lost. So every channel has a
line to every queue, and nothing moves in it until the test says so: `settle` lets everything happen, `step` lets one
line advance by one. Requests with an answer (consume, cancel, depth, purge, delete) happen at once, after what the
channel sent to that queue before.

But for one thing: while a line to a quorum queue is long, settlements are held back in the channel, and publishes pass
them. They follow when the line is short again, and are dropped when the channel is closed before.

Time stands still until `advance`. A message with an expiration of 0 is stored for a millisecond, as the broker does.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from unit.model.queues import Consumer, Message, Queue

SOFT_LIMIT: Final = 32
"""Commands without effect with which a line to a quorum queue is long."""
DISCONNECTED_TIMEOUT: Final = 60_000.0
"""Milliseconds for which a quorum queue keeps what the consumers of a lost node hold, if it does (RabbitMQ 4.3)."""


ACKS, RETURNS, REJECTS = range(3)
"""Settlements, in the order in which those that were held back follow."""


class ChannelClosedByBrokerError(Exception):
    """The client broke a rule (unknown queue, unknown delivery tag): its channel is gone, the connection lives."""


class ClosedError(Exception):
    """The client uses a channel that is closed: a defect of the test or of what it tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as a client sees it."""

    tag: int
    consumer: str
    body: str
    headers: Mapping[str, object]
    redelivered: bool
    returns: int = 0
    """How often it has come back before, which a quorum queue tells."""


@dataclass(frozen=True, slots=True)
class Depth:
    """A declare-ok."""

    messages: int
    consumers: int


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A consumer of a channel; `queue` is the very queue that it consumes, a namesake declared later is another."""

    queue_name: str
    queue: Queue
    consumer: Consumer


@dataclass(slots=True, eq=False)
class Line:
    """What one channel has sent to one queue and has had no effect yet."""

    channel: "Channel"
    queue: str
    commands: deque[Callable[[], None]] = field(default_factory=deque)
    long: bool = False
    held: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    """Settlements that are held back, with the order in which the kinds of them will follow."""


class Broker:
    """Queues by name, exchanges for dead letters, a clock in milliseconds, and what is under way."""

    def __init__(
        self,
        *,
        requeue_activates: bool = False,
        zombies: bool = False,
        expires_behind_returned: bool = False,
        soft_limit: int = SOFT_LIMIT,
        keeps: bool = False,
    ) -> None:
        """`keeps` is whether a quorum queue keeps for a while what the consumers of a lost node hold (RabbitMQ 4.3)."""
        self.now = 0.0
        self.soft_limit = soft_limit
        self._zombies = zombies
        self._expires_behind_returned = expires_behind_returned
        self._requeue_activates = requeue_activates
        self._keeps = keeps
        self.refusing: set[str] = set()
        """Queues that take no messages."""
        self._queues: dict[str, Queue] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._lines: dict[tuple[Channel, str], Line] = {}
        self._nodes = Channel(self)
        """Stands for the news of nodes, which come to each queue beside all else."""

    def connect(self, *, node: str = "") -> "Connection":
        """A client's connection, to a node that may be lost, or to one that is not."""
        return Connection(self, node=node)

    def declare(
        self,
        name: str,
        *,
        quorum: bool = True,
        single_active: bool = False,
        dead_letters: str | None = None,
        disconnected_timeout: float = DISCONNECTED_TIMEOUT,
    ) -> None:
        """Declare a queue; one that exists stays as it is."""
        if name not in self._queues:
            self._queues[name] = Queue(
                clock=lambda: self.now,
                dead_letter=lambda message, reason: self._dead_letter(name, dead_letters, message, reason),
                quorum=quorum,
                single_active=single_active,
                requeue_activates=self._requeue_activates,
                zombies=self._zombies,
                expires_behind_returned=self._expires_behind_returned,
                disconnected_timeout=disconnected_timeout if self._keeps else None,
            )

    def bind(self, exchange: str, queue: str, *, header: str) -> None:
        """A headers exchange and a binding `{x-match: all-with-x, <header>: void}`: it takes what has the header."""
        self._bindings.setdefault(exchange, []).append((header, queue))

    @property
    def lines(self) -> list[Line]:
        """Lines in which something waits to take effect; a test may `step` any of them, in any order."""
        return [line for line in self._lines.values() if line.commands]

    def step(self, line: Line) -> None:
        line.commands.popleft()()
        if line.long and len(line.commands) < self.soft_limit:
            line.long = False
            if line.held:
                line.commands.append(partial(_execute, sorted(line.held, key=lambda each: each[0])))
                line.held = []
        if not line.commands:
            self._lines.pop((line.channel, line.queue), None)

    def settle(self) -> None:
        """Let everything that is under way take effect, channel by channel."""
        while lines := self.lines:
            for line in lines:
                self.drain(line)

    def advance(self, milliseconds: float) -> None:
        """Let time pass: heads of queues expire. What is under way stays under way."""
        self.now += milliseconds
        for queue in list(self._queues.values()):
            queue.serve()

    def lose(self, node: str) -> None:
        """A node is killed, of whose channels each has died; each queue takes note in its time.

        Queues have a majority on the nodes that stay, and their leaders there.
        """
        for name in self._queues:
            self._later(name, node, self._lose)

    def back(self, node: str) -> None:
        """It is there again; a moment later each queue finds that those of its consumers are gone."""
        for name in self._queues:
            self._later(name, node, self._back)

    def _lose(self, queue: Queue, node: str) -> None:
        queue.lose(node)

    def _back(self, queue: Queue, node: str) -> None:
        for consumer in queue.back(node):
            queue.leave(consumer)

    def _later(self, name: str, node: str, what: Callable[[Queue, str], None]) -> None:
        queue = self._queues[name]
        self.line(self._nodes, name).commands.append(partial(what, queue, node))

    def queue(self, name: str) -> Queue | None:
        return self._queues.get(name)

    def depth(self, name: str) -> Depth | None:
        """What another connection's passive declare would show now; None for a queue that does not exist."""
        queue = self._queues.get(name)
        return None if queue is None else Depth(queue.message_count, queue.consumer_count)

    def remove(self, name: str) -> Queue | None:
        return self._queues.pop(name, None)

    def line(self, channel: "Channel", queue: str) -> Line:
        return self._lines.setdefault((channel, queue), Line(channel, queue))

    def lines_of(self, channel: "Channel") -> list[Line]:
        return [line for line in self._lines.values() if line.channel is channel]

    def drain(self, line: Line) -> None:
        while line.commands:
            self.step(line)

    def _dead_letter(self, queue: str, exchange: str | None, message: Message, reason: str) -> None:
        """At most once: no queue takes it, or it is there at once."""
        if exchange is None:
            return
        headers = {**message.headers, "x-death": {"queue": queue, "reason": reason}}
        for header, name in self._bindings.get(exchange, ()):
            target = self._queues.get(name)
            if header in message.headers and target is not None:
                target.publish(Message(message.body, headers))


class Connection:
    """A client's connection: its channels live and die with it."""

    def __init__(self, broker: Broker, *, node: str = "") -> None:
        self._broker = broker
        self._node = node
        self.channels: list[Channel] = []

    def channel(self) -> "Channel":
        channel = Channel(self._broker, node=self._node)
        self.channels.append(channel)
        return channel

    def close(self) -> None:
        """In order: what was sent takes effect first."""
        for channel in self.channels:
            channel.close()

    def kill(self, *, node_lost: bool = False) -> None:
        """Reset: what was sent and had no effect yet is lost. Step lines before, to choose how far they came."""
        for channel in self.channels:
            channel.die(node_lost=node_lost)


class Channel:
    """A channel in confirm mode, and what came to its client."""

    def __init__(self, broker: Broker, *, node: str = "") -> None:
        self._broker = broker
        self.node = node
        self.open = True
        self.deliveries: deque[Delivery] = deque()
        """What was sent to the client and not yet taken by it."""
        self.confirmed: set[int] = set()
        self.refused: set[int] = set()
        """Publishes that their queue had no room for."""
        self.returned: set[int] = set()
        """Mandatory publishes that no queue took; they are confirmed too."""
        self.cancelled: list[str] = []
        """Consumers that the broker cancelled, because their queue was deleted."""
        self.arrived: Callable[[], None] = lambda: None
        """Called whenever one of these has grown."""
        self._published = 0
        self._delivered = 0
        self._unsettled: dict[int, tuple[Subscription, Message]] = {}
        self._subscriptions: dict[str, Subscription] = {}

    def take(self) -> list[Delivery]:
        """All that arrived since."""
        taken = list(self.deliveries)
        self.deliveries.clear()
        return taken

    def publish(
        self, queue: str, body: str, *, headers: Mapping[str, object] | None = None, expiration: float | None = None
    ) -> int:
        """Publish to a queue by the default exchange; the number by which it is confirmed."""
        self._must_be_open()
        self._published += 1
        number = self._published

        def command() -> None:
            target = self._broker.queue(queue)
            if queue in self._broker.refusing:
                self.refused.add(number)
                self.arrived()
                return
            self.confirmed.add(number)
            if target is None:
                self.returned.add(number)
            else:
                expires = None if expiration is None else self._broker.now + max(1.0, expiration)
                target.publish(Message(body, dict(headers or {}), expires))
            self.arrived()

        self._send(queue, command)
        return number

    def consume(
        self, queue: str, *, name: str = "consumer", prefetch: int = 0, priority: int = 0, automatic: bool = False
    ) -> None:
        assert name not in self._subscriptions, "a name is used once per channel"
        target = self._request(queue)
        consumer = Consumer(
            deliver=lambda message: self._deliver(name, message),
            gone=lambda: self._gone(name),
            prefetch=prefetch,
            priority=priority,
            automatic=automatic,
            node=self.node,
        )
        self._subscriptions[name] = Subscription(queue, target, consumer)
        target.attach(consumer)

    def cancel(self, name: str = "consumer", *, coming: Collection[int] = ()) -> None:
        """basic.cancel: what it holds stays with the channel, but for what a quorum queue sees is still `coming`."""
        subscription = self._subscriptions[name]
        self._request(subscription.queue_name)
        back = [self._unsettled.pop(tag)[1] for tag in coming if subscription.queue.quorum and tag in self._unsettled]
        subscription.queue.cancel(subscription.consumer, coming=back)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one, or all up to it. Nothing says when it took effect."""
        self._settle(tag, multiple, ACKS, lambda each, messages: each.queue.acknowledge(each.consumer, messages))

    def reject(self, tag: int, *, requeue: bool = False, multiple: bool = False) -> None:
        kind = RETURNS if requeue else REJECTS
        self._settle(
            tag, multiple, kind, lambda each, messages: each.queue.reject(each.consumer, messages, requeue=requeue)
        )

    def holds(self, tag: int) -> bool:
        """True for a delivery that is still to be settled."""
        return tag in self._unsettled

    def depth(self, queue: str) -> Depth:
        """A passive declare on this channel."""
        target = self._request(queue)
        return Depth(target.message_count, target.consumer_count)

    def purge(self, queue: str) -> int:
        return self._request(queue).purge()

    def delete(self, queue: str) -> None:
        """Delete a queue with all that is in it; its consumers are told."""
        self._request(queue).delete()
        self._broker.remove(queue)

    def close(self) -> None:
        """In order: what was sent takes effect, what is held back does not; consumers leave, each queue in its time."""
        for line in self._broker.lines_of(self):
            line.held.clear()
            self._broker.drain(line)
        self._leave()

    def die(self, *, node_lost: bool = False) -> None:
        """What was sent and had no effect yet is lost; consumers leave, each queue in its time.

        Not where it dies with its node: see `Broker.lose`.
        """
        if not self.open:
            return  # how it ended stands, even where a queue has not taken note yet
        for line in self._broker.lines_of(self):
            line.held.clear()
            line.commands.clear()
        if node_lost:
            self.open = False
        else:
            self._leave()

    def _leave(self) -> None:
        if not self.open:
            return
        self.open = False
        for each in self._subscriptions.values():
            self._send(each.queue_name, partial(each.queue.leave, each.consumer))

    def _send(self, queue: str, command: Callable[[], None]) -> None:
        line = self._broker.line(self, queue)
        line.long = len(line.commands) >= self._broker.soft_limit
        line.commands.append(command)

    def _request(self, name: str) -> Queue:
        self._must_be_open()
        self._broker.drain(self._broker.line(self, name))
        queue = self._broker.queue(name)
        if queue is None:
            self.die()
            raise ChannelClosedByBrokerError(f"404: there is no queue {name!r}")
        return queue

    def _gone(self, name: str) -> None:
        self.cancelled.append(name)
        self.arrived()

    def _deliver(self, name: str, message: Message) -> None:
        if not self.open:
            return
        self._delivered += 1
        subscription = self._subscriptions[name]
        if not subscription.consumer.automatic:
            self._unsettled[self._delivered] = (subscription, message)
        redelivered = message.deliveries > 1
        self.deliveries.append(
            Delivery(
                tag=self._delivered,
                consumer=name,
                body=message.body,
                headers=message.headers,
                redelivered=redelivered,
                returns=message.deliveries - 1 if subscription.queue.quorum else 0,
            )
        )
        self.arrived()

    def _settle(
        self, tag: int, multiple: bool, kind: int, settle: Callable[[Subscription, list[Message]], None]
    ) -> None:
        self._must_be_open()
        if tag not in self._unsettled:
            self.die()
            raise ChannelClosedByBrokerError(f"406: unknown delivery tag {tag}")
        settled: dict[Subscription, list[Message]] = {}
        for each in [each for each in self._unsettled if each == tag or (multiple and each < tag)]:
            subscription, message = self._unsettled.pop(each)
            settled.setdefault(subscription, []).append(message)
        for subscription, messages in settled.items():
            line = self._broker.line(self, subscription.queue_name)
            command = partial(settle, subscription, messages)
            if line.long and subscription.queue.quorum:
                line.held.append((kind, command))
            else:
                self._send(subscription.queue_name, command)

    def _must_be_open(self) -> None:
        if not self.open:
            raise ClosedError("this channel is closed")


def _execute(held: list[tuple[int, Callable[[], None]]]) -> None:
    for _, command in held:
        command()
