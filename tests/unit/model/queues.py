"""A RabbitMQ queue as it was measured: which consumer is given which message, and when.

Invariant: a message is in one place: ready, returned, or held by one consumer. What a consumer held and gave back goes
to the *back* of a list of returns that is served before the rest (a quorum queue), or to where it stood (a classic
one).

With a single active consumer one of them is served and the others wait, by priority. One that waits with a higher
priority makes the active one quiesce: it gets nothing more, and waits itself when it holds nothing. Quiescing outlasts
its cause: if the other goes away, the old one is served again only after it held nothing.

In RabbitMQ 4.3 one that dies while it quiesces, and holds something, waits, too: a zombie, which nothing removes but
the end of the queue. It is served when its turn comes, and keeps what it is given.
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

    @property
    def has_credit(self) -> bool:
        return self.status is Status.UP and (self.prefetch == 0 or len(self.held) < self.prefetch)


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
    ) -> None:
        """A quorum queue drops what has come back more often than `delivery_limit`."""
        self._clock = clock
        self._dead_letter = dead_letter
        self._quorum = quorum
        self._single_active = single_active
        self._delivery_limit = delivery_limit
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
            self._give_back(consumer.held)
            if self._zombies and consumer.status is Status.QUIESCING and consumer.held:
                self._wait(replace(consumer, deliver=_nobody, gone=_nobody, held=[]))
            consumer.held = []
        self._change()

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
        if active is not None and self._waiting and self._waiting[0].priority > active.priority:
            if active.held:
                active.status = Status.QUIESCING
            else:
                self._serviced.remove(active)
                self._wait(active)
                active = None
        if active is None and self._waiting:
            self._serviced.append(self._waiting.pop(0))

    def _wait(self, consumer: Consumer) -> None:
        """Who comes next: the highest priority, then the most credit, then who attached first."""
        consumer.status = Status.UP
        self._waiting.append(consumer)
        self._waiting.sort(key=lambda each: (-each.priority, -(each.prefetch or UNLIMITED), each.place))

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
