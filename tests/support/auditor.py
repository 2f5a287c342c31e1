"""The judge of what PartyMQ promises, from nothing but what plain clients report.

Invariant: it reads the events of all actors in the order of time, remembers per key and per message in flight only, and
each verdict follows from the events alone. What it proves:

- lost: every confirmed message was acknowledged by some consumer;
- order: first deliveries of a key in the order of sending; and the last delivery of each key is its newest message;
- one holder: nobody is given a message of a key while another consumer holds an unacknowledged one of it. A hold lasts
  until the ack, or `GONE`; a consumer whose reports just end (a pod killed without grace) holds until its last one;
- repeats: a message delivered again is excused only if the consumer of its first delivery went without having
  acknowledged it (or died within `in_doubt` seconds of saying so: the ack may never have left), or if it was in flight
  when the router was killed, which a test marks with `ROUTER_DOWN` and `ROUTER_UP`: sent before, and not settled for
  longer than `in_doubt`. That time stands still from `NODE_STILL` to `NODE_BACK`, which a test marks around what it
  does to a broker's node: a queue that has its leader there takes note of no ack, and one that died with its
  consumer's connection meanwhile never had an effect. Nothing else is excused by that.

What a SIGKILL hides: a message that arrived in the client's socket, but was not reported, is unknown here until it is
delivered again. That hides no loss and no disorder (its next delivery is then the first known one, and reports of one
consumer are lost only from the end on), only a hold that ended with the process.

Messages without a key (the empty key) have no order and no holder; they may still be lost or repeated.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, TypeAlias

from support.events import CLOSED, Event, Kind
from support.verdict import ConsumerCount, Histogram, Pauses, Verdict, clipped

Ident: TypeAlias = tuple[str, int]
"""A message: its key and its number among the key's messages."""
SILENT: Final = "silent"


@dataclass(slots=True)
class _Consumer:
    name: str
    received: int = 0
    acked: int = 0
    held: dict[Ident, int] = field(default_factory=dict)
    gone_at: int = 0
    """By the clock of what is in doubt, as `_Delivery.acked_clock`."""
    ended: str = ""


@dataclass(slots=True)
class _Delivery:
    """The latest delivery of a message that may still come again with an excuse."""

    consumer: _Consumer
    at: int
    acked_at: int = 0
    acked_clock: int = 0
    returned: bool = False


@dataclass(slots=True)
class _Key:
    undelivered: dict[int, int] = field(default_factory=dict)
    """Sequence number -> when sent."""
    newest_sent: int = -1
    newest_delivered: int = -1
    last_delivered: int = -1
    last_consumer: str = ""
    holders: dict[str, int] = field(default_factory=dict)
    """Consumer -> how many messages of the key it holds."""


def audit(streams: Iterable[Iterable[Event]], *, in_doubt: float = 3.0, examples: int = 5) -> Verdict:
    """The verdict on complete streams, one per actor and each in the order of its actor."""
    auditor = Auditor(in_doubt=in_doubt, examples=examples)
    for event in heapq.merge(*map(_to_its_end, streams)):
        auditor.feed(event)
    return auditor.verdict()


def _to_its_end(stream: Iterable[Event]) -> Iterator[Event]:
    """The stream with a clock that never steps back, and with the end of a consumer that does not tell of it."""
    at, actor, consumes = 0, "", False
    for event in stream:
        at, actor = max(at, event.at), event.actor
        if event.kind >= Kind.RECEIVED:
            consumes = True
        elif event.kind is Kind.GONE:
            consumes = False
        yield event if event.at == at else event._replace(at=at)
    if consumes:
        yield Event(at, Kind.GONE, actor, note=SILENT)


class Auditor:
    """Takes events in the order of time, one by one; `audit` is the usual way to feed it."""

    def __init__(self, *, in_doubt: float = 3.0, examples: int = 5) -> None:
        self._in_doubt = int(in_doubt * 1e9)
        self._most_examples = examples
        self._examples: dict[str, list[str]] = {}
        """What was broken -> the first sentences about it."""
        self._started = 0
        self._now = 0
        self._keys: dict[str, _Key] = {}
        self._consumers: dict[str, _Consumer] = {}
        self._recent: dict[Ident, _Delivery] = {}
        self._settled: deque[tuple[int, int, Ident]] = deque()
        """By the clock of what is in doubt, and by the events'."""
        self._still_since = 0
        self._still = 0
        """For how long nodes did nothing, but for the one that does nothing now."""
        self._confirmed = 0
        self._owed: set[Ident] = set()
        """Confirmed, not acknowledged."""
        self._ahead: set[Ident] = set()
        """Acknowledged before the producer knew of its confirm."""
        self._router_down = False
        self._doubtful: set[Ident] = set()
        """In flight when a router was killed."""
        self._pauses = Histogram()
        self._longest = (0, "")
        self._held_twice: set[str] = set()
        self._deliveries = self._out_of_order = self._repeated = self._strays = 0
        self._excused_by_consumer = self._excused_by_router = self._violations = 0
        self._handlers: tuple[Callable[[Event], None], ...] = (
            self._on_acked,
            self._on_gone,
            self._on_router_down,
            self._on_router_up,
            self._on_alive,
            self._on_node_still,
            self._on_node_back,
            self._on_sent,
            self._on_confirmed,
            self._on_received,
            self._on_received,
            self._on_stray,
        )

    def feed(self, event: Event) -> None:
        """Take the next event; none may be older than the one before."""
        if event.at < self._now:
            raise ValueError(f"{event} is older than what was fed before: merge the streams by time first")
        if not self._started:
            self._started = event.at
        self._now = event.at
        self._handlers[event.kind](event)

    def verdict(self) -> Verdict:
        """What was found in all that was fed; reports that end are complete."""
        stale = self._stale_keys()
        for ident in sorted(self._owed):
            self._violation("lost", self._describe_lost(ident))
        return Verdict(
            messages=self._confirmed,
            keys=len(self._keys),
            deliveries=self._deliveries,
            lost=len(self._owed),
            out_of_order=self._out_of_order,
            stale=stale,
            held_twice=len(self._held_twice),
            repeated=self._repeated,
            strays=self._strays,
            excused_by_consumer=self._excused_by_consumer,
            excused_by_router=self._excused_by_router,
            seconds=(self._now - self._started) / 1e9,
            pauses=Pauses(
                p50=self._pauses.seconds_at(0.5),
                p99=self._pauses.seconds_at(0.99),
                longest=self._longest[0] / 1e9,
                longest_key=self._longest[1],
            ),
            consumers=tuple(
                ConsumerCount(name=c.name, received=c.received, acked=c.acked, ended=c.ended)
                for c in sorted(self._consumers.values(), key=lambda c: c.name)
            ),
            violations=clipped(chain.from_iterable(self._examples.values()), self._violations),
        )

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_sent(self, event: Event) -> None:
        key = self._keys.get(event.key)
        if key is None:
            key = self._keys[event.key] = _Key()
        if event.seq <= key.newest_sent:
            raise ValueError(f"{event.actor} sent {event.seq} of {event.key!r} after {key.newest_sent}: they must grow")
        key.newest_sent = event.seq
        key.undelivered[event.seq] = event.at
        if self._router_down:
            self._doubtful.add((event.key, event.seq))

    def _on_confirmed(self, event: Event) -> None:
        ident = (event.key, event.seq)
        self._confirmed += 1
        if ident in self._ahead:
            self._ahead.remove(ident)
        else:
            self._owed.add(ident)

    def _on_received(self, event: Event) -> None:
        key = self._keys.get(event.key)
        if key is None or event.seq > key.newest_sent:
            self._on_stray(event._replace(note=f"message {event.seq} of {event.key!r}"))
            return
        self._deliveries += 1
        consumer = self._consumer(event.actor)
        consumer.received += 1
        ident = (event.key, event.seq)
        if event.key:
            self._check_holders(key, event)
        key.holders[consumer.name] = key.holders.get(consumer.name, 0) + 1
        consumer.held[ident] = consumer.held.get(ident, 0) + 1
        sent = key.undelivered.pop(event.seq, None)
        if sent is None:
            self._check_repeat(event, self._recent.get(ident))
        else:
            self._first_delivery(key, event, sent)
        key.last_delivered = event.seq
        key.last_consumer = consumer.name
        self._recent[ident] = _Delivery(consumer, event.at)

    def _on_acked(self, event: Event) -> None:
        ident = (event.key, event.seq)
        consumer = self._consumer(event.actor)
        consumer.acked += 1
        if ident in self._owed:
            self._owed.remove(ident)
        else:
            self._ahead.add(ident)
        self._release(consumer, ident)
        delivery = self._recent.get(ident)
        if delivery is not None and delivery.consumer is consumer and not delivery.acked_at:
            delivery.acked_at, delivery.acked_clock = event.at, self._clock()
            self._settled.append((delivery.acked_clock, event.at, ident))
        self._forget_settled()

    def _on_gone(self, event: Event) -> None:
        consumer = self._consumer(event.actor)
        for ident in list(consumer.held):
            while ident in consumer.held:
                self._release(consumer, ident)
            delivery = self._recent.get(ident)
            if delivery is not None and delivery.consumer is consumer:
                delivery.returned = True
        consumer.gone_at = self._clock()
        if event.note != SILENT or not consumer.ended:
            consumer.ended = event.note

    def _on_router_down(self, _: Event) -> None:
        self._router_down = True
        self._doubt_what_is_in_flight()

    def _on_router_up(self, _: Event) -> None:
        self._router_down = False
        self._doubt_what_is_in_flight()

    def _on_alive(self, event: Event) -> None:
        pass

    def _on_node_still(self, event: Event) -> None:
        if self._still_since:
            raise ValueError("a node does nothing while another one does nothing")
        self._still_since = event.at

    def _on_node_back(self, event: Event) -> None:
        self._still += event.at - self._still_since
        self._still_since = 0

    def _clock(self) -> int:
        """Now, in nanoseconds of which those do not count in which a node did nothing."""
        return (self._still_since or self._now) - self._still

    def _on_stray(self, event: Event) -> None:
        self._strays += 1
        when = self._when(event.at)
        self._violation("stray", f"{event.actor} was given at {when} what no producer had sent: {event.note}")

    # -- checks ---------------------------------------------------------------------------------------------------

    def _first_delivery(self, key: _Key, event: Event, sent: int) -> None:
        waited = event.at - sent
        self._pauses.add(waited)
        if waited > self._longest[0]:
            self._longest = (waited, event.key)
        if event.seq > key.newest_delivered:
            key.newest_delivered = event.seq
        elif event.key:
            self._out_of_order += 1
            newer = f"{key.last_consumer} had been given message {key.newest_delivered}"
            self._violation("order", f"{self._given(event)} for the first time, after {newer}")

    def _check_holders(self, key: _Key, event: Event) -> None:
        for name in key.holders:
            if name != event.actor:
                self._held_twice.add(event.key)
                theirs = sorted(seq for of, seq in self._consumers[name].held if of == event.key)
                self._violation(
                    "held twice",
                    f"{self._given(event)} while {name} held {', '.join(map(str, theirs))} of it",
                )

    def _check_repeat(self, event: Event, before: _Delivery | None) -> None:
        if before is not None and self._consumer_is_the_excuse(before):
            self._excused_by_consumer += 1
        elif self._router_down or (event.key, event.seq) in self._doubtful:
            self._excused_by_router += 1
        else:
            self._repeated += 1
            how = "redelivered by the broker" if event.kind is Kind.REDELIVERED else "published again"
            self._violation(
                "repeat",
                f"{self._given(event)}, {how}, although {self._describe_delivery(before)}",
            )

    def _consumer_is_the_excuse(self, before: _Delivery) -> bool:
        if before.returned:
            return True
        return self._ack_in_doubt(before)

    def _ack_in_doubt(self, delivery: _Delivery) -> bool:
        """Whether its consumer died so soon after saying that it acknowledges that the ack may never have left."""
        consumer = delivery.consumer
        died = consumer.ended not in ("", CLOSED)
        return died and delivery.acked_at > 0 and consumer.gone_at - delivery.acked_clock <= self._in_doubt

    def _stale_keys(self) -> int:
        stale = 0
        for name, key in self._keys.items():
            if name and key.last_delivered != key.newest_delivered:
                stale += 1
                last = f"the last message of {name}, seen by {key.last_consumer}, is {key.last_delivered}"
                self._violation("stale", f"{last}, not {key.newest_delivered}")
        return stale

    # -- state ----------------------------------------------------------------------------------------------------

    def _consumer(self, name: str) -> _Consumer:
        consumer = self._consumers.get(name)
        if consumer is None:
            consumer = self._consumers[name] = _Consumer(name)
        return consumer

    def _release(self, consumer: _Consumer, ident: Ident) -> None:
        copies = consumer.held.pop(ident, 0)
        if not copies:
            return
        if copies > 1:
            consumer.held[ident] = copies - 1
        holders = self._keys[ident[0]].holders
        holders[consumer.name] -= 1
        if not holders[consumer.name]:
            del holders[consumer.name]

    def _forget_settled(self) -> None:
        """Drop what was acknowledged so long ago that nothing excuses a repeat of it.

        An ack in doubt is remembered: what it was for comes again when somebody consumes there again.
        """
        until = self._clock() - self._in_doubt
        while self._settled and self._settled[0][0] < until:
            _, at, ident = self._settled.popleft()
            delivery = self._recent.get(ident)
            if delivery is not None and delivery.acked_at == at and not self._ack_in_doubt(delivery):
                del self._recent[ident]

    def _doubt_what_is_in_flight(self) -> None:
        self._forget_settled()
        self._doubtful.update(self._recent)
        for name, key in self._keys.items():
            self._doubtful.update((name, seq) for seq in key.undelivered)

    # -- sentences ------------------------------------------------------------------------------------------------

    def _violation(self, what: str, sentence: str) -> None:
        self._violations += 1
        examples = self._examples.setdefault(what, [])
        if len(examples) < self._most_examples:
            examples.append(sentence)

    def _given(self, event: Event) -> str:
        return f"{event.actor} was given message {event.seq} of {event.key} at {self._when(event.at)}"

    def _when(self, at: int) -> str:
        return f"{(at - self._started) / 1e9:+.3f} s"

    def _describe_lost(self, ident: Ident) -> str:
        name, seq = ident
        if seq in self._keys[name].undelivered:
            return f"message {seq} of {name} was confirmed, but never delivered"
        delivery = self._describe_delivery(self._recent.get(ident))
        return f"message {seq} of {name} was confirmed, but never acknowledged: {delivery}"

    def _describe_delivery(self, delivery: _Delivery | None) -> str:
        if delivery is None:
            return "it was acknowledged long before"
        text = f"{delivery.consumer.name} was given it at {self._when(delivery.at)}"
        if delivery.acked_at:
            return f"{text} and acknowledged it at {self._when(delivery.acked_at)}"
        return f"{text} and {'went without acknowledging it' if delivery.returned else 'still held it'}"
