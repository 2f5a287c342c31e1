"""A RabbitMQ queue as it was measured: which consumer is given which message, and when.

Invariant: a message is in one place: ready, returned, or held by one consumer. What a consumer held and gave back goes
to the *back* of a list of returns that is served before the rest (a quorum queue), or to where it stood (a classic
one).

With a single active consumer one of them is served and the others wait, by priority. One that waits with a higher
priority makes the active one quiesce: it gets nothing more, and waits itself when it holds nothing. Quiescing outlasts
its cause: if the other goes away, the old one is served again only after it held nothing.

In RabbitMQ 4.3 one that dies while it quiesces, and holds something, waits, too: a zombie, which nothing removes but
the end of the queue. It is served when its turn comes, and keeps what it is given.

Whether the consumers of a lost node are gone a quorum queue does not know until the node is back: they are *suspected*,
given nothing, and counted, if they were. What they held returns at once, and a single active one waits then (4.0); or
it stays with them for a while, and only then returns (4.3). When the node is back, they are served again, until the
queue finds that they are gone. But for two kinds, which stay with what they hold: in 4.0 one that was cancelled (where
several consume), in 4.3 one that is made to quiesce while it is suspected.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

UNLIMITED: Final = 1 << 16
"""A prefetch of 0, where it is compared with others."""


@dataclass(slots=True, eq=False)
class Message:
    """A message in a queue; `expires` is a time of the broker's clock, `place` its position among all of this queue."""

    body: str
    headers: Mapping[str, object] = field(default_factory=dict)
    expires: float | None = None
    place: int = 0
    deliveries: int = 0


class Status(Enum):
    """What a consumer is to its queue."""

    UP = auto()
    QUIESCING = auto()
    CANCELLED = auto()
    """Cancelled while it held messages: it is counted, and keeps them, until they are settled."""


@dataclass(slots=True, eq=False)
class Consumer:
    """One basic.consume; prefetch 0 is no limit."""

    deliver: Callable[[Message], None]
    gone: Callable[[], None] = lambda: None
    """Called when the queue is deleted under it."""
    prefetch: int = 0
    priority: int = 0
    automatic: bool = False
    """Automatic acknowledgement: what it is given is settled at once, whatever the client has done with it."""
    status: Status = Status.UP
    held: list[Message] = field(default_factory=list)
    place: int = 0
    """Its position among all that attached to this queue."""
    node: str = ""
    """Where its channel is."""
    suspected: bool = False
    """Whether that node is lost."""
    until: float | None = None
    """Until when it keeps what it holds, by the broker's clock, where it is suspected."""

    @property
    def has_credit(self) -> bool:
        up = self.status is Status.UP and not self.suspected
        return up and (self.prefetch == 0 or len(self.held) < self.prefetch)


class Queue:
    """One queue; `dead_letter` is given what is rejected or expires, and why."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = lambda: 0.0,
        dead_letter: Callable[[Message, str], None] = lambda _message, _reason: None,
        quorum: bool = True,
        single_active: bool = False,
        requeue_activates: bool = False,
        zombies: bool = False,
        expires_behind_returned: bool = False,
        delivery_limit: int | None = None,
        disconnected_timeout: float | None = None,
    ) -> None:
        """A quorum queue drops what has come back more often than `delivery_limit`.

        `disconnected_timeout` is for how many milliseconds it keeps what the consumers of a lost node hold, as RabbitMQ
        4.3 does; None is 4.0.
        """
        self._clock = clock
        self._dead_letter = dead_letter
        self._quorum = quorum
        self._single_active = single_active
        self._delivery_limit = delivery_limit
        self._disconnected_timeout = disconnected_timeout
        self._zombies = zombies
        """True as in RabbitMQ 4.3.0 to 4.3.6."""
        self._expires_behind_returned = expires_behind_returned
        """True as in RabbitMQ 4.3: what was returned does not keep the first of the others from expiring."""
        self._requeue_activates = requeue_activates
        """False as in RabbitMQ 4.0 (rabbitmq-server issue 14141): a consumer that requeues the last message it held
        while it quiesces leaves nobody active, until some consumer attaches or goes."""
        self._places = 0
        self._ready: deque[Message] = deque()
        self._returned: deque[Message] = deque()
        self._serviced: list[Consumer] = []
        """Consumers that may be served or hold messages; those of the same priority take turns."""
        self._waiting: list[Consumer] = []
        """Those that wait to be the single active one, the next one first."""

    @property
    def quorum(self) -> bool:
        return self._quorum

    @property
    def message_count(self) -> int:
        """Ready messages, as in declare-ok: what consumers hold is not in it."""
        return len(self._returned) + len(self._ready)

    @property
    def consumer_count(self) -> int:
        """As in declare-ok: who is active, or was cancelled while it held messages. Who waits is not counted.

        A classic queue does not count who was cancelled.
        """
        return sum(self._quorum or each.status is not Status.CANCELLED for each in self._serviced)

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        return (*self._serviced, *self._waiting)

    def publish(self, message: Message) -> None:
        self._places += 1
        message.place = self._places
        self._ready.append(message)
        self.serve()

    def attach(self, consumer: Consumer) -> None:
        self._places += 1
        consumer.place = self._places
        if self._single_active:
            self._wait(consumer)
        else:
            self._serviced.append(consumer)
        self._change()

    def cancel(self, consumer: Consumer, *, coming: Collection[Message] = ()) -> None:
        """basic.cancel: the successor is served at once, even while this one holds messages.

        What is still `coming` to its channel a quorum queue takes back at once: it will stand before what the consumer
        holds, which is older, should that be given back.
        """
        if consumer in self._waiting:
            self._waiting.remove(consumer)
        elif consumer.held:
            consumer.status = Status.CANCELLED
            self._give_back(self._release(consumer, coming))
        else:
            self._serviced.remove(consumer)
        self._change()

    def leave(self, consumer: Consumer) -> None:
        """The consumer's channel is gone: what it held returns, in order."""
        if consumer in self._waiting:
            self._waiting.remove(consumer)
        elif consumer in self._serviced:
            self._serviced.remove(consumer)
            if self._zombies and consumer.status is Status.QUIESCING and consumer.held:
                self._wait(replace(consumer, deliver=_nobody, gone=_nobody, held=[]))
            self._returns_of(consumer)
        self._change()

    def lose(self, node: str) -> None:
        """The node is lost: whether its consumers are gone is not known."""
        lost = [consumer for consumer in self.consumers if consumer.node == node]
        for consumer in lost:
            if not self._quorum:
                self.leave(consumer)
            elif consumer in self._waiting:
                consumer.suspected = True
            elif self._disconnected_timeout is not None:
                consumer.suspected, consumer.until = True, self._clock() + self._disconnected_timeout
            elif self._single_active:
                self._suspect(consumer)
            elif consumer.status is Status.UP:
                consumer.suspected = True
                self._returns_of(consumer)
        self._sort()
        if self._disconnected_timeout is None:
            self._change()
        else:
            self.serve()  # who is next is not looked at

    def back(self, node: str) -> list[Consumer]:
        """The node is back, and its consumers are served; those that are returned have to `leave`, if they are gone."""
        found = [consumer for consumer in self.consumers if consumer.node == node and consumer.suspected]
        for consumer in found:
            consumer.suspected, consumer.until = False, None
            if consumer in self._serviced and consumer.status is Status.QUIESCING and not consumer.held:
                self._serviced.remove(consumer)
                self._wait(consumer)
        self._sort()
        self._change()
        return found

    def acknowledge(self, consumer: Consumer, messages: list[Message]) -> None:
        self._release(consumer, messages)
        self._change()

    def reject(self, consumer: Consumer, messages: list[Message], *, requeue: bool = False) -> None:
        messages = self._release(consumer, messages)
        if requeue:
            self._give_back(messages)
        else:
            for message in messages:
                self._dead_letter(message, "rejected")
        if requeue and not self._requeue_activates:
            self.serve()
        else:
            self._change()

    def next_return(self) -> float | None:
        """Seconds until what a lost node's consumer holds is kept no more; `serve` then lets that have its effect."""
        times = [each.until for each in self._serviced if each.until is not None]
        return (min(times) - self._clock()) / 1000 + 0.001 if times else None

    def purge(self) -> int:
        """Drop what is ready; what consumers hold may return later."""
        count = self.message_count
        self._ready.clear()
        self._returned.clear()
        return count

    def delete(self) -> None:
        for consumer in self.consumers:
            consumer.gone()
        self._serviced.clear()
        self._waiting.clear()

    def serve(self) -> None:
        """Let time and credit have their effect; who is active stays."""
        self._disconnect()
        self._expire()
        while (message := self._head) is not None and (consumer := self._next()) is not None:
            (self._returned or self._ready).popleft()
            message.deliveries += 1
            if not consumer.automatic:
                consumer.held.append(message)
            consumer.deliver(message)
            self._expire()

    @property
    def _head(self) -> Message | None:
        line = self._returned or self._ready
        return line[0] if line else None

    def _next(self) -> Consumer | None:
        """Who is served next. Several that compete take turns; in which order, a broker does not promise."""
        able = [consumer for consumer in self._serviced if consumer.has_credit]
        if not able:
            return None
        consumer = max(able, key=lambda each: each.priority)
        self._serviced.remove(consumer)
        self._serviced.append(consumer)
        return consumer

    def _change(self) -> None:
        """Let a change of consumers, or of what they hold, have its effect."""
        if self._single_active:
            self._activate()
        self.serve()

    def _activate(self) -> None:
        active = next((each for each in self._serviced if each.status is not Status.CANCELLED), None)
        following = next(iter(self._waiting), None)
        if following is None or following.suspected:
            return
        if active is not None and following.priority > active.priority:
            if active.held:
                active.status = Status.QUIESCING
                active.suspected, active.until = False, None  # forgotten: see above
            else:
                self._serviced.remove(active)
                self._wait(active)
                active = None
        if active is None:
            self._waiting.remove(following)
            self._serviced.append(following)

    def _wait(self, consumer: Consumer) -> None:
        consumer.status = Status.UP
        self._waiting.append(consumer)
        self._sort()

    def _sort(self) -> None:
        """Who comes next: who is not suspected, the highest priority, then the most credit, then who attached first."""
        self._waiting.sort(key=lambda each: (each.suspected, -each.priority, -(each.prefetch or UNLIMITED), each.place))

    def _suspect(self, consumer: Consumer) -> None:
        """A single active one of a lost node lets go of what it holds, and waits."""
        self._serviced.remove(consumer)
        cancelled = consumer.status is Status.CANCELLED
        self._returns_of(consumer)
        consumer.suspected, consumer.until = True, None
        if not cancelled:
            self._wait(consumer)

    def _disconnect(self) -> None:
        """Who is suspected keeps what it holds for a while only."""
        over = [each for each in self._serviced if each.until is not None and each.until <= self._clock()]
        for consumer in over:
            consumer.until = None
            if self._single_active:
                self._suspect(consumer)
            else:
                self._returns_of(consumer)
                if consumer.status is Status.CANCELLED:
                    self._serviced.remove(consumer)
        if over and self._single_active:
            self._activate()

    def _returns_of(self, consumer: Consumer) -> None:
        """What a consumer held that is gone, or believed to be, returns."""
        self._give_back(consumer.held)
        consumer.held = []

    def _release(self, consumer: Consumer, messages: Collection[Message]) -> list[Message]:
        """Take messages from their holder; one that was returned or deleted meanwhile is nobody's to settle."""
        if consumer not in self._serviced:
            return []
        messages = [message for message in messages if message in consumer.held]
        consumer.held = [message for message in consumer.held if message not in messages]
        if consumer.status is Status.CANCELLED and not consumer.held:
            self._serviced.remove(consumer)
        elif consumer.status is Status.QUIESCING and not consumer.held:
            self._serviced.remove(consumer)
            self._wait(consumer)
        return messages

    def _give_back(self, messages: list[Message]) -> None:
        if self._quorum:
            limit = self._delivery_limit
            for message in messages:
                if limit is not None and message.deliveries > limit:
                    self._dead_letter(message, "delivery_limit")
                else:
                    self._returned.append(message)
        else:
            self._ready = deque(sorted([*self._ready, *messages], key=lambda message: message.place))

    def _expire(self) -> None:
        """Only the head of a queue expires; what stands behind it is counted until its turn."""
        self._drop_expired(self._returned)
        if self._expires_behind_returned or not self._returned:
            self._drop_expired(self._ready)

    def _drop_expired(self, line: deque[Message]) -> None:
        while line and (expires := line[0].expires) is not None and expires <= self._clock():
            self._dead_letter(line.popleft(), "expired")


def _nobody(*_: object) -> None:
    """A zombie's client: there is none."""
