"""What lies between clients and queues: time, order and loss.

Invariant: what one pipe carries arrives in the order in which it was put in, late, and each thing at most once; between
pipes there is no order. All chance comes from one seeded generator, so a history repeats exactly.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from unit.model.broker import DISCONNECTED_TIMEOUT, Broker, Channel, Line
from unit.model.queues import Consumer, Message, Queue

PACES: Final = {"even": (0.0003,), "uneven": (0.0003, 0.0003, 0.004), "rough": (0.0003, 0.003, 0.015), "slow": (0.2,)}
"""Mean seconds that a pipe takes, one of them for each pipe: queues that differ in speed show what order rests on."""


SPEAKS_FOR: Final = 1.0
SILENT_EVERY: Final = 2.0
"""Seconds between two silences of a queue: at least, and besides that on the average."""


class Network:
    """Makes pipes, and draws how long they take."""

    def __init__(self, random: Random, pace: str, *, beside: float = 0.25) -> None:
        """`beside` is the share of arrivals with which something of another pipe arrives, in the same chunk."""
        self.random = random
        self.beside = beside
        self.loop = asyncio.get_running_loop()
        self._means = PACES[pace]

    def mean(self) -> float:
        """The mean latency of a new pipe, in seconds."""
        return self.random.choice(self._means)

    def latency(self, mean: float) -> float:
        """Seconds that one thing takes."""
        return min(self.random.expovariate(1 / mean), 20 * mean)


class Pipe:
    """One way of a channel: things take effect in order, later.

    What comes to one client by several pipes may come at once, as frames of several channels do in one chunk: nothing
    else runs in between.
    """

    def __init__(
        self, network: Network, after: Callable[[], None] = lambda: None, beside: "list[Pipe] | None" = None
    ) -> None:
        """`beside` are the pipes of the same client, to which this one is added."""
        self._network = network
        self._beside: list[Pipe] = [] if beside is None else beside
        self._beside.append(self)
        self._after = after
        """Called after each effect."""
        self._mean = network.mean()
        self._things: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._held = False

    def put(self, thing: Callable[[], None]) -> None:
        self._things.append(thing)
        self._schedule()

    def stall(self) -> None:
        """Nothing arrives any more."""
        self._stalled = True

    def hold(self, on: bool) -> None:
        """Nothing arrives for as long as `on`."""
        self._held = on
        self._schedule()

    def cut(self, keep: int = 0) -> None:
        """The first `keep` things still have their effect, at once; the rest is lost."""
        things, self._things = self._things, deque()
        self._stalled = True
        for _ in range(min(keep, len(things))):
            things.popleft()()

    def __len__(self) -> int:
        return len(self._things)

    def _schedule(self) -> None:
        if self._timer is None and self._things and not self._stalled and not self._held:
            self._timer = self._network.loop.call_later(self._network.latency(self._mean), self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        self._take()
        for pipe in self._beside:
            if pipe is not self and pipe._things and self._network.random.random() < self._network.beside:
                pipe._take()
        self._schedule()

    def _take(self) -> None:
        for _ in range(self._network.random.randint(1, 4)):
            if self._things and not self._stalled and not self._held:
                self._things.popleft()()
                self._after()


OnMixed = Callable[[list[Message], list[Message]], None]


class CancelledQueue(Queue):
    """Tells when what was on its way to a consumer that cancelled comes before what that consumer held."""

    def __init__(self, *, on_overtaken: OnMixed, **settings: object) -> None:
        """`on_overtaken` is given what the consumer held when it died, and what came to stand before that."""
        super().__init__(**settings)  # type: ignore[arg-type] # whatever a queue takes
        self._on_overtaken = on_overtaken
        self._taken_back: dict[Consumer, list[Message]] = {}

    def cancel(self, consumer: Consumer, *, coming: Collection[Message] = ()) -> None:
        self._taken_back[consumer] = list(coming)
        super().cancel(consumer, coming=coming)

    def _returns_of(self, consumer: Consumer) -> None:
        if (taken_back := self._taken_back.pop(consumer, None)) and consumer.held:
            self._on_overtaken(consumer.held, taken_back)
        super()._returns_of(consumer)


class InboxQueue(CancelledQueue):
    """Tells of a double fault: a router died with messages of the queue, and then the client that got some of them.

    One that cancels does the same to what was on its way to it. If the next router has the queue in its hands by then,
    that is no fault until it dies as well: it would have put them in order.
    """

    def __init__(self, *, on_double_fault: OnMixed, on_overtaken: OnMixed, **settings: object) -> None:
        """`on_double_fault` is given what the client held, and what stands before that now."""
        super().__init__(on_overtaken=on_overtaken, **settings)
        self._on_double_fault = on_double_fault
        self._by_router: set[int] = set()
        self._mixed: list[tuple[list[Message], list[Message]]] = []
        """What was given back by a client while a router was taking over, and what stood before it then."""

    def cancel(self, consumer: Consumer, *, coming: Collection[Message] = ()) -> None:
        self._given_back(consumer, coming)
        super().cancel(consumer, coming=coming)

    def _returns_of(self, consumer: Consumer) -> None:
        if consumer.priority > 0:
            self._by_router.update(message.place for message in consumer.held)
            self._lost_again(consumer)
        else:
            self._given_back(consumer, consumer.held)
        super()._returns_of(consumer)

    def _given_back(self, consumer: Consumer, messages: Collection[Message]) -> None:
        if consumer.priority > 0 or not any(m.place in self._by_router for m in self._returned):
            return
        if any(each.priority > 0 for each in self.consumers):
            self._mixed.append((list(messages), list(self._returned)))
        else:
            self._on_double_fault(list(messages), list(self._returned))

    def _lost_again(self, router: Consumer) -> None:
        held = {message.place for message in router.held}
        for late, before in self._mixed:
            if any(message.place in held for message in late):
                self._on_double_fault(late, before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A time in which a queue's leader says nothing: polls are answered with zeros."""

    since: float
    until: float
    late: bool
    """Whether these come when the broker has waited in vain, and not at once."""


class LiveBroker(Broker):
    """The model of a broker, whose lines move by themselves and whose clock is the loop's.

    Where queues fall silent, each does now and then, and a while after it has answered again.
    """

    def __init__(
        self,
        network: Network,
        *,
        on_double_fault: OnMixed,
        on_overtaken: OnMixed,
        silences: bool,
        soft_limit: int,
        zombies: bool,
        keeps: bool,
    ) -> None:
        self._network = network
        self._silences = silences
        self._silent: dict[str, Silence] = {}
        self._deaf: dict[tuple[Channel, str], float] = {}
        """Until when a queue does not hear that a channel has ended."""
        self._on_double_fault = on_double_fault
        self._on_overtaken = on_overtaken
        self._means: dict[tuple[Channel, str], float] = {}
        self.delivery_limits: dict[str, int] = {}
        """Of queues that are to be declared; others have none."""
        super().__init__(soft_limit=soft_limit, zombies=zombies, expires_behind_returned=zombies, keeps=keeps)

    @property
    def now(self) -> float:
        return self._network.loop.time() * 1000

    @now.setter
    def now(self, _milliseconds: float) -> None:
        pass

    def declare(
        self,
        name: str,
        *,
        quorum: bool = True,
        single_active: bool = False,
        dead_letters: str | None = None,
        disconnected_timeout: float = DISCONNECTED_TIMEOUT,
    ) -> None:
        if name in self._queues:
            return
        settings: dict[str, Any] = {
            "clock": lambda: self.now,
            "dead_letter": lambda message, reason: self._dead_letter(name, dead_letters, message, reason),
            "on_overtaken": self._on_overtaken,
            "expires_behind_returned": self._expires_behind_returned,
            "disconnected_timeout": disconnected_timeout if self._keeps else None,
        }
        if name in self.delivery_limits:
            settings["delivery_limit"] = self.delivery_limits[name]
        if single_active:
            settings |= {"single_active": True, "zombies": self._zombies, "on_double_fault": self._on_double_fault}
            self._queues[name] = InboxQueue(**settings)
        else:
            self._queues[name] = CancelledQueue(quorum=quorum, **settings)

    def silence(self, name: str) -> Silence | None:
        """Whether a quorum queue says nothing at the moment."""
        queue = self.queue(name)
        if queue is None or not queue.quorum:
            return None
        now, random = self._network.loop.time(), self._network.random
        silence = self._silent.get(name)
        if self._silences and (silence is None or silence.until <= now):
            since = now + (0.0 if silence is None else SPEAKS_FOR) + random.expovariate(1 / SILENT_EVERY)
            until = since + random.choice([0.01, 0.1, 0.6, 1.5])
            silence = self._silent[name] = Silence(since=since, until=until, late=random.random() < 0.5)
        return silence if silence is not None and silence.since <= now < silence.until else None

    def hush(self, name: str, *, silent: float, deaf: float) -> None:
        """A queue answers no polls for `silent` seconds, and takes no note for `deaf` of the end of those it knows."""
        now = self._network.loop.time()
        self._silent[name] = Silence(since=now, until=now + silent, late=False)
        for channel, queue in self._means:
            if queue == name and channel.open:
                self._deaf[channel, queue] = now + deaf

    def names(self) -> list[str]:
        return list(self._queues)

    def _lose(self, queue: Queue, node: str) -> None:
        super()._lose(queue, node)
        if (seconds := queue.next_return()) is not None:
            self._network.loop.call_later(seconds, queue.serve)

    def _back(self, queue: Queue, node: str) -> None:
        for consumer in queue.back(node):
            self._network.loop.call_later(self._network.latency(self._network.mean()), queue.leave, consumer)

    def line(self, channel: Channel, queue: str) -> Line:
        line = super().line(channel, queue)
        mean = self._means.get((channel, queue))
        if mean is None:
            mean = self._means[channel, queue] = self._network.mean()
        if not line.commands:
            delay = self._network.latency(mean)
            if not channel.open:  # its end is all that may still be on its way
                delay += max(0.0, self._deaf.get((channel, queue), 0.0) - self._network.loop.time())
            self._network.loop.call_later(delay, self._move, line, mean)
        return line

    def _move(self, line: Line, mean: float) -> None:
        for _ in range(self._network.random.randint(1, 4)):
            if line.commands:
                self.step(line)
        if line.commands:
            self._network.loop.call_later(self._network.latency(mean), self._move, line, mean)
