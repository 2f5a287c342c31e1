"""The model of a queue is worth what the broker confirms: short random histories run on both and must look the same."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.model.raw_client import RawClient
from support.broker import amqp_url, unique
from unit.model.broker import Broker, Channel

DEADLINE = 5.0
EXPIRES_WITHIN = 2.0
STAMP = "x-partymq-epoch"


@dataclass(frozen=True)
class Publish:
    count: int


@dataclass(frozen=True)
class Fence:
    """A message that expires at once and has no stamp."""


@dataclass(frozen=True)
class Attach:
    client: int
    prefetch: int
    priority: int
    automatic: bool


@dataclass(frozen=True)
class Settle:
    """Settle the first, the last or all of what the client holds."""

    client: int
    which: str
    how: str


@dataclass(frozen=True)
class Leave:
    client: int
    how: str


@dataclass(frozen=True)
class Purge:
    pass


Step = Publish | Fence | Attach | Settle | Leave | Purge

CLIENTS = 3

CONSUMING: dict[str, st.SearchStrategy[Any]] = {
    "prefetch": st.sampled_from([0, 1, 2, 3]),
    "priority": st.sampled_from([0, 0, 5]),
    "automatic": st.just(False),
}

clients = st.integers(0, CLIENTS - 1)
steps = st.one_of(
    st.builds(Publish, st.integers(1, 4)),
    st.builds(
        Attach,
        clients,
        prefetch=st.sampled_from([0, 1, 2]),
        priority=st.sampled_from([0, 0, 5]),
        automatic=st.just(False),
    ),
    st.builds(Attach, clients, prefetch=st.just(0), priority=st.sampled_from([0, 5]), automatic=st.just(True)),
    st.builds(Settle, clients, which=st.sampled_from(["first", "last", "all"]), how=st.just("ack")),
    st.builds(Settle, clients, which=st.sampled_from(["first", "last"]), how=st.sampled_from(["reject", "requeue"])),
    st.builds(Leave, clients, how=st.sampled_from(["cancel", "close", "kill"])),
    st.builds(Fence),
    st.builds(Purge),
)
openings = st.tuples(st.just(Publish(4)), *(st.builds(Attach, st.just(client), **CONSUMING) for client in range(2)))
histories = st.builds(lambda opening, rest: [*opening, *rest], openings, st.lists(steps, max_size=12))


@dataclass
class Pair:
    """One client, on the model and on the broker."""

    model: Channel
    real: RawClient
    seen: list[tuple[int, str, bool]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    consumer: str | None = None


class Twin:
    """A queue on the model and on the broker, and the same clients on both."""

    def __init__(self, kind: str, admin: RawClient) -> None:
        self.admin = admin
        self.single_active = kind == "inbox"
        self.queue, self.dead, self.exchange = unique("model"), unique("model-dead"), unique("model-dlx")
        self.broker = Broker(
            requeue_activates=requeue_activates(),
            zombies=makes_zombies(),
            expires_behind_returned=expires_behind_returned(),
        )
        self.broker.declare(self.dead)
        self.broker.bind(self.exchange, self.dead, header=STAMP)
        self.broker.declare(
            self.queue, quorum=kind != "classic", single_active=self.single_active, dead_letters=self.exchange
        )
        admin.declare(self.dead, {"x-queue-type": "quorum"})
        admin.headers_exchange(self.exchange, self.dead, header=STAMP)
        admin.declare(
            self.queue,
            {
                "x-queue-type": "classic" if kind == "classic" else "quorum",
                "x-dead-letter-exchange": self.exchange,
                **({} if kind == "classic" else {"x-delivery-limit": 1_000_000}),
                **({"x-single-active-consumer": True} if self.single_active else {}),
            },
        )
        self.publisher = self.broker.connect().channel()
        self.pairs: dict[int, Pair] = {}
        self.published = 0
        self.names = 0

    def run(self, history: list[Step]) -> None:
        history = [*history, Publish(1)]  # its confirm shows that the steps before have had their effect
        for number, step in enumerate(history):
            self.apply(step)
            self.broker.settle()
            self.broker.advance(10)
            self.agree(history[: number + 1])

    def apply(self, step: Step) -> None:
        match step:
            case Publish(count):
                for _ in range(count):
                    self.published += 1
                    self.publisher.publish(self.queue, f"m{self.published}", headers={STAMP: 1})
                    self.admin.publish(self.queue, f"m{self.published}", {STAMP: 1})
            case Fence():
                self.published += 1
                self.publisher.publish(self.queue, f"f{self.published}", expiration=0)
                self.admin.publish(self.queue, f"f{self.published}", {}, expiration="0")
            case Attach(client, prefetch, priority, automatic):
                self.attach(client, prefetch, priority, automatic=automatic)
            case Settle(client, which, how):
                if client in self.pairs and self.pairs[client].held:
                    self.settle(self.pairs[client], which, how)
            case Leave(client, how):
                if client in self.pairs:
                    self.leave(client, how)
            case Purge():
                self.publisher.purge(self.queue)
                self.admin.purge(self.queue)

    def attach(self, client: int, prefetch: int, priority: int, *, automatic: bool) -> None:
        if client not in self.pairs:
            self.pairs[client] = Pair(self.broker.connect().channel(), RawClient(amqp_url()))
        pair = self.pairs[client]
        # Between several consumers that compete a broker promises no order; of an inbox one is active at a time.
        competes = not self.single_active and any(each.consumer for each in self.pairs.values())
        if pair.consumer is None and not competes:
            self.names += 1
            pair.consumer = f"c{self.names}"
            pair.model.consume(
                self.queue, name=pair.consumer, prefetch=prefetch, priority=priority, automatic=automatic
            )
            pair.real.consume(self.queue, pair.consumer, prefetch=prefetch, priority=priority, automatic=automatic)

    def settle(self, pair: Pair, which: str, how: str) -> None:
        if which == "all":
            tag = pair.held[-1]
            pair.held.clear()
        else:
            tag = pair.held.pop(0 if which == "first" else -1)
        if how == "ack":
            pair.model.ack(tag, multiple=which == "all")
            pair.real.ack(tag, multiple=which == "all")
        else:
            pair.model.reject(tag, requeue=how == "requeue")
            pair.real.reject(tag, requeue=how == "requeue")

    def leave(self, client: int, how: str) -> None:
        pair = self.pairs[client]
        if how == "cancel":
            if pair.consumer is not None:
                pair.model.cancel(pair.consumer)
                pair.real.cancel(pair.consumer)
                pair.consumer = None
            return
        del self.pairs[client]
        if how == "close":
            pair.model.close()
            pair.real.close_channel()
        else:
            pair.model.die()
        pair.real.kill()

    def agree(self, history: list[Step]) -> None:
        """Wait for the broker to come to what the model shows."""
        for pair in self.pairs.values():
            taken = pair.model.take()
            pair.seen += [(each.tag, each.body, each.redelivered) for each in taken]
            pair.held += [each.tag for each in taken if pair.model.holds(each.tag)]
        expected = self.on_the_model()
        deadline = monotonic() + DEADLINE
        while (found := self.on_the_broker()) != expected:
            assert monotonic() < deadline, f"after {history}\nthe model has  {expected}\nthe broker has {found}"

    def on_the_model(self) -> object:
        depth = self.publisher.depth(self.queue)
        dead = self.publisher.depth(self.dead).messages
        return (depth.messages, depth.consumers), dead, {client: pair.seen for client, pair in self.pairs.items()}

    def on_the_broker(self) -> object:
        for pair in self.pairs.values():
            pair.real.depth(self.queue)
            pair.real.pump()
        depth, (dead, _) = self.admin.depth(self.queue), self.admin.depth(self.dead)
        return depth, dead, {client: pair.real.deliveries for client, pair in self.pairs.items()}

    def close(self) -> None:
        for pair in self.pairs.values():
            pair.real.kill()
        self.admin.delete(self.queue)
        self.admin.delete(self.dead)
        self.admin.delete_exchange(self.exchange)


@cache
def requeue_activates() -> bool:
    """Which of the two kinds of broker this is: see `unit.model.queues`."""
    admin, client, takeover = (RawClient(amqp_url()) for _ in range(3))
    queue = unique("model-probe")
    admin.declare(queue, {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 1_000_000})
    admin.publish(queue, "m1", {})
    client.consume(queue, "client", prefetch=1, priority=0)
    while not client.deliveries:
        client.pump()
    takeover.consume(queue, "takeover", prefetch=0, priority=5)
    client.reject(1, requeue=True)
    client.publish(queue, "m2", {})  # confirmed after the requeue took effect: until then the client itself is counted
    active = admin.depth(queue)[1] == 1
    admin.delete(queue)
    for each in (admin, client, takeover):
        each.kill()
    return active


@cache
def makes_zombies() -> bool:
    """Whether a consumer that dies while it quiesces is served again: see `unit.model.queues`."""
    admin, client, takeover, heir = (RawClient(amqp_url()) for _ in range(4))
    queue = unique("model-probe")
    admin.declare(queue, {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 1_000_000})
    admin.publish(queue, "m1", {})
    client.consume(queue, "client", prefetch=1, priority=0)
    while not client.deliveries:
        client.pump()
    takeover.consume(queue, "takeover", prefetch=0, priority=5)
    client.kill()
    while not takeover.deliveries:
        takeover.pump()
    heir.consume(queue, "heir", prefetch=1, priority=0)
    takeover.ack(1)
    takeover.close_channel()
    admin.publish(queue, "m2", {})
    deadline = monotonic() + DEADLINE
    while not heir.deliveries and admin.depth(queue)[0]:  # it is ready until somebody is given it
        assert monotonic() < deadline
        heir.pump()
    heir.depth(queue)
    heir.pump()
    zombie = not heir.deliveries
    admin.delete(queue)
    for each in (admin, takeover, heir):
        each.kill()
    return zombie


@cache
def expires_behind_returned() -> bool:
    """Whether what was returned does not keep the next message from expiring: see `unit.model.queues`."""
    admin, client = RawClient(amqp_url()), RawClient(amqp_url())
    queue = unique("model-probe")
    admin.declare(queue, {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000})
    admin.publish(queue, "m1", {})
    client.consume(queue, "client", prefetch=1, priority=0)
    while not client.deliveries:
        client.pump()
    client.kill()
    deadline = monotonic() + DEADLINE
    while admin.depth(queue) != (1, 0):
        assert monotonic() < deadline
    admin.publish(queue, "fence", {}, expiration="0")
    admin.publish(queue, "m2", {})  # confirmed after the fence
    until = monotonic() + EXPIRES_WITHIN
    while (ready := admin.depth(queue)[0]) == 3 and monotonic() < until:
        pass
    admin.delete(queue)
    admin.kill()
    return ready < 3


@contextmanager
def twin(kind: str) -> Iterator[Twin]:
    admin = RawClient(amqp_url())
    pair = Twin(kind, admin)
    try:
        yield pair
    finally:
        pair.close()
        admin.kill()


def attach(client: int, *, prefetch: int = 0, priority: int = 0, automatic: bool = False) -> Attach:
    return Attach(client, prefetch, priority, automatic)


FACTS: dict[str, tuple[str, list[Step]]] = {
    "a takeover waits for the client's acks": (
        "inbox",
        [Publish(5), attach(0, prefetch=2), attach(1, priority=9), Settle(0, "first", "ack"), Settle(0, "all", "ack")],
    ),
    "a takeover that closes gives back in order": (
        "inbox",
        [Publish(5), attach(0, prefetch=2), attach(1, priority=9), Settle(0, "all", "ack"), Leave(1, "close")],
    ),
    "returns go to the back of earlier returns": (
        "inbox",
        [Publish(5), attach(0), Leave(0, "kill"), attach(0, prefetch=1), Leave(0, "kill"), attach(0)],
    ),
    "a reader that changes its prefetch reorders": (
        "backlog",
        [Publish(6), attach(0, prefetch=10), Leave(0, "kill"), attach(0, prefetch=2), Leave(0, "kill"), attach(0)],
    ),
    "returns to a classic queue stay where they stood": (
        "classic",
        [Publish(6), attach(0, prefetch=10), Leave(0, "kill"), attach(0, prefetch=2), Leave(0, "kill"), attach(0)],
    ),
    "quiescing outlasts the takeover": (
        "inbox",
        [
            Publish(4),
            attach(0, prefetch=3),
            attach(1, priority=9),
            Leave(1, "close"),
            Settle(0, "first", "ack"),
            Settle(0, "all", "ack"),
        ],
    ),
    "a cancelled client is counted, and its messages come last": (
        "inbox",
        [
            Publish(12),
            attach(0, prefetch=5),
            attach(1, priority=9),
            Leave(0, "cancel"),
            Settle(0, "first", "ack"),
            Leave(0, "kill"),
        ],
    ),
    "who cancels without credit left gives back in order": (
        "backlog",
        [Publish(9), attach(0, prefetch=3), Leave(0, "cancel"), Publish(2), Leave(0, "kill"), attach(0)],
    ),
    "a classic queue does not count who cancelled": (
        "classic",
        [Publish(2), attach(0), Leave(0, "cancel"), Leave(0, "kill")],
    ),
    "automatic acknowledgement hides what a client has": (
        "inbox",
        [Publish(9), attach(0, automatic=True), attach(1, priority=9), Publish(1)],
    ),
    "a standby of the journal waits, then sees old before new": (
        "inbox",
        [Publish(1), attach(0), attach(1), Publish(1), Leave(0, "kill"), Publish(1)],
    ),
    "of equals that wait the one with more credit is next": (
        "inbox",
        [Publish(1), attach(0, prefetch=1), attach(1, prefetch=1), attach(2), Leave(0, "kill")],
    ),
    "a requeue under a takeover": (
        "inbox",
        [
            Publish(2),
            attach(0, prefetch=1),
            attach(1, priority=9),
            Settle(0, "first", "requeue"),
            Publish(1),
            attach(2),
        ],
    ),
    "a fence reaches an active consumer, and none that has no credit": (
        "inbox",
        [attach(0), Fence(), Settle(0, "all", "ack"), attach(1, prefetch=1, priority=9), Publish(1), Fence()],
    ),
    "a fence is nobody's dead letter, a rejected message is one": (
        "inbox",
        [Fence(), Publish(2), attach(0), Settle(0, "first", "reject"), Fence(), Settle(0, "last", "reject")],
    ),
    "who dies while it quiesces": (
        "inbox",
        [
            Publish(5),
            attach(0, prefetch=2),
            attach(1, priority=9),
            Leave(0, "kill"),
            Settle(1, "all", "ack"),
            Leave(1, "close"),
            attach(2),
            Publish(5),
        ],
    ),
    "who leaves while it quiesces": (
        "inbox",
        [Publish(3), attach(0), attach(1, priority=9), Leave(0, "close"), Leave(1, "kill"), attach(2), Publish(2)],
    ),
    "who dies while it quiesces for a second takeover": (
        "inbox",
        [
            Publish(5),
            attach(0, prefetch=2),
            attach(1, priority=9),
            Leave(1, "close"),
            attach(1, priority=9),
            Leave(0, "kill"),
            Settle(1, "all", "ack"),
            Leave(1, "close"),
            attach(2),
            Publish(5),
        ],
    ),
    "who cancels while it quiesces": (
        "inbox",
        [
            Publish(3),
            attach(0),
            attach(1, priority=9),
            Leave(0, "cancel"),
            Leave(0, "kill"),
            Leave(1, "kill"),
            attach(2),
        ],
    ),
    "a purge misses what consumers hold": (
        "backlog",
        [Publish(5), attach(0, prefetch=3), Purge(), Leave(0, "kill"), attach(0)],
    ),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_the_same_on_the_model_and_on_the_broker(fact: str) -> None:
    kind, history = FACTS[fact]
    with twin(kind) as pair:
        pair.run(history)


@settings(
    max_examples=int(os.environ.get("PARTYMQ_MODEL_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@pytest.mark.parametrize("kind", ["inbox", "backlog", "classic"])
@given(history=histories)
def test_the_model_and_the_broker_look_the_same(kind: str, history: list[Step]) -> None:
    with twin(kind) as pair:
        pair.run(history)
