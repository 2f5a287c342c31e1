"""A queue on the model and on a broker, with the same clients on both, which are made to do the same.

Invariant: after each step both look the same to everybody, or it fails; the broker is given time to come to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from time import monotonic

from pamqp.common import FieldTable

from integration.model.raw_client import RawClient
from support.broker import amqp_url, unique
from unit.model.broker import Broker, Channel

DEADLINE = 5.0
EXPIRES_WITHIN = 2.0
STAMP = "x-partymq-epoch"
KEPT_FOR = 12.0
"""Seconds for which what the clients of a lost node hold is kept, where the broker does that."""
QUORUM: FieldTable = {
    "x-delivery-limit": 1_000_000,
    "x-consumer-disconnected-timeout": int(KEPT_FOR * 1000),
    "x-queue-leader-locator": "client-local",
}
"""4.0 takes no note of the second one; the leader is at the node of whoever declares."""


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
    node: int = 0
    """The node that the client connects to, if it is not connected."""


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


@dataclass
class Pair:
    """One client, on the model and on the broker."""

    model: Channel
    real: RawClient
    seen: list[tuple[int, str, bool]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    consumer: str | None = None
    node: int = 0


class Twin:
    """A queue on the model and on the broker, and the same clients on both."""

    def __init__(self, kind: str, admin: RawClient, urls: Sequence[str], *, keeps: bool = False) -> None:
        """`urls` are those of the broker's nodes; `keeps`: see `unit.model.broker`."""
        self.admin = admin
        self.urls = urls
        self.single_active = kind == "inbox"
        self.queue, self.dead, self.exchange = unique("model"), unique("model-dead"), unique("model-dlx")
        self.broker = Broker(
            requeue_activates=requeue_activates(urls[-1]),
            zombies=makes_zombies(urls[-1]),
            expires_behind_returned=expires_behind_returned(urls[-1]),
            keeps=keeps,
        )
        self.broker.declare(self.dead)
        self.broker.bind(self.exchange, self.dead, header=STAMP)
        self.broker.declare(
            self.queue,
            quorum=kind != "classic",
            single_active=self.single_active,
            dead_letters=self.exchange,
            disconnected_timeout=KEPT_FOR * 1000,
        )
        admin.declare(self.dead, {"x-queue-type": "quorum"})
        admin.headers_exchange(self.exchange, self.dead, header=STAMP)
        admin.declare(
            self.queue,
            {
                "x-queue-type": "classic" if kind == "classic" else "quorum",
                "x-dead-letter-exchange": self.exchange,
                **({} if kind == "classic" else QUORUM),
                **({"x-single-active-consumer": True} if self.single_active else {}),
            },
        )
        self.publisher = self.broker.connect().channel()
        self.pairs: dict[int, Pair] = {}
        self.published = 0
        self.names = 0
        self.did: list[object] = []

    def run(self, history: Sequence[Step]) -> None:
        for step in [*history, Publish(1)]:  # its confirm shows that the steps before have had their effect
            self.apply(step)
            self.agree(step)

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
            case Attach():
                self.attach(step)
            case Settle(client, which, how):
                if client in self.pairs and self.pairs[client].held:
                    self.settle(self.pairs[client], which, how)
            case Leave(client, how):
                if client in self.pairs:
                    self.leave(client, how)
            case Purge():
                self.publisher.purge(self.queue)
                self.admin.purge(self.queue)

    def attach(self, step: Attach) -> None:
        if step.client not in self.pairs:
            model = self.broker.connect(node=str(step.node)).channel()
            self.pairs[step.client] = Pair(model, RawClient(self.urls[step.node]), node=step.node)
        pair = self.pairs[step.client]
        # Between several consumers that compete a broker promises no order; of an inbox one is active at a time.
        competes = not self.single_active and any(each.consumer for each in self.pairs.values())
        if pair.consumer is None and not competes:
            self.names += 1
            pair.consumer = name = f"c{self.names}"
            prefetch, priority, automatic = step.prefetch, step.priority, step.automatic
            pair.model.consume(self.queue, name=name, prefetch=prefetch, priority=priority, automatic=automatic)
            pair.real.consume(self.queue, name, prefetch=prefetch, priority=priority, automatic=automatic)

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

    def lose(self, node: int) -> None:
        """The broker's node was killed, and its clients' connections with it."""
        for client in [client for client, pair in self.pairs.items() if pair.node == node]:
            pair = self.pairs.pop(client)
            pair.model.die(node_lost=True)
            pair.real.kill()
        self.broker.lose(str(node))
        self.agree("a node is lost")

    def wait(self, seconds: float) -> None:
        """What a broker does by the clock has been done."""
        self.broker.advance(seconds * 1000)
        self.agree(f"{seconds:g} s passed")

    def stuck(self, node: int) -> bool:
        """Whether, on the model, a consumer of the lost node holds messages and will not be found to be gone."""
        queue = self.broker.queue(self.queue)
        assert queue is not None
        return any(each.held and each.node == str(node) and not each.suspected for each in queue.consumers)

    def back(self, node: int) -> None:
        """The node is there again."""
        self.broker.back(str(node))
        self.agree("the node is back")

    def agree(self, what: object) -> None:
        """Wait for the broker to come to what the model shows after this."""
        self.did.append(what)
        self.broker.settle()
        self.broker.advance(10)
        for pair in self.pairs.values():
            taken = pair.model.take()
            pair.seen += [(each.tag, each.body, each.redelivered) for each in taken]
            pair.held += [each.tag for each in taken if pair.model.holds(each.tag)]
        expected = self.on_the_model()
        deadline = monotonic() + DEADLINE
        while (found := self.on_the_broker()) != expected:
            assert monotonic() < deadline, f"after {self.did}\nthe model has  {expected}\nthe broker has {found}"

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


def _held_by(client: RawClient, admin: RawClient, *, single_active: bool) -> str:
    """A queue whose only message the client holds."""
    queue = unique("model-probe")
    arguments: FieldTable = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    admin.declare(queue, {**arguments, **({"x-single-active-consumer": True} if single_active else {})})
    admin.publish(queue, "m1", {})
    client.consume(queue, "client", prefetch=1, priority=0)
    while not client.deliveries:
        client.pump()
    return queue


@cache
def requeue_activates(url: str) -> bool:
    """Which of the two kinds of broker this is: see `unit.model.queues`."""
    admin, client, takeover = (RawClient(url) for _ in range(3))
    queue = _held_by(client, admin, single_active=True)
    takeover.consume(queue, "takeover", prefetch=0, priority=5)
    client.reject(1, requeue=True)
    client.publish(queue, "m2", {})  # confirmed after the requeue took effect: until then the client itself is counted
    active = admin.depth(queue)[1] == 1
    admin.delete(queue)
    for each in (admin, client, takeover):
        each.kill()
    return active


@cache
def makes_zombies(url: str) -> bool:
    """Whether a consumer that dies while it quiesces is served again: see `unit.model.queues`."""
    admin, client, takeover, heir = (RawClient(url) for _ in range(4))
    queue = _held_by(client, admin, single_active=True)
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
def expires_behind_returned(url: str) -> bool:
    """Whether what was returned does not keep the next message from expiring: see `unit.model.queues`."""
    admin, client = RawClient(url), RawClient(url)
    queue = _held_by(client, admin, single_active=False)
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
    pair = Twin(kind, admin, [amqp_url()])
    try:
        yield pair
    finally:
        pair.close()
        admin.kill()


def attach(client: int, *, prefetch: int = 0, priority: int = 0, automatic: bool = False, node: int = 0) -> Attach:
    """A consumer of a client, which connects to the node, if it is not connected."""
    return Attach(client, prefetch, priority, automatic, node)
