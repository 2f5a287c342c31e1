"""One simulated world: a broker, members, a producer, and real router sessions that may die at any moment.

Invariant: what a history shows is judged by the same auditor as any other run, and by the broker's own view of who
holds what. Nothing is excused but the limits that docs/guarantees.md states, each for the keys that it touches:

- a double fault: a router dies while it has taken an inbox over, and the connection of that inbox's client breaks with
  messages of it, or it cancels while some are on their way to it, before the next takeover, or during that, if its
  router dies as well: first deliveries of those keys may be out of order, the last one not newest;
- of a key with several messages on their way to an inbox that refuses one: those behind it may have been taken, so
  first deliveries may be out of order, the last one not newest;
- a client that gives a message back of its own accord (nack with requeue) is given it again, later than newer ones;
- who dies when it has cancelled a consumer of a quorum queue: of a key of which something was on its way to it then (a
  router: within a round trip of having asked), the last delivery may not be the newest; and if it was given something
  of it between asking and being cancelled, first deliveries may be out of order;
- a fence that an idle client sees is no defect if the router that sent it has been dead for less than `FENCE_SEEN`.

Not simulated, because a client that does it voids the promises: automatic acknowledgement, a lowered prefetch,
cancelling with unacknowledged messages and consuming again before they are settled.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import ModuleType
from typing import Any, Self
from unittest import mock

from partymq.amqp import lost_nodes
from partymq.amqp.connection import Connection
from partymq.amqp.frames import body_payload
from partymq.core.membership import Generation, Pod, PodState
from partymq.core.names import Names
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.errors import BrokerError
from partymq.message.stamp import read_fence, read_stamp
from partymq.router.broker.memory_budget import Budget
from partymq.router.failpoints import Point
from partymq.router.flow import inbox_queues, inboxes, source_acks, source_reader
from partymq.router.rebalance import listing, overdue, progress, rebalancer
from partymq.router.session import recovery
from support.auditor import Auditor
from support.events import Event, Kind
from support.message import identify
from unit.model.broker import SOFT_LIMIT, Channel, Delivery
from unit.model.queues import Message, Queue
from unit.sim.clients import POISON, Client, Producer, poison_of
from unit.sim.network import LiveBroker, Network
from unit.sim.nodes import Nodes
from unit.sim.router import Router, trace
from unit.sim.wire import Refusal, SimConnection, Wire

GROUP = GroupId(namespace="sim", name="g")
SOURCE = "orders"
FENCE_SEEN = 0.002
"""Seconds after the death of its sender in which an idle client may see a fence."""
SETTLES_WITHIN = 120.0
"""Virtual seconds within which everything must have come to rest once nothing goes wrong any more."""
MISSING_MEMBERS = 0.3
"""The share of looks at an inbox that was declared anew, by which a node has no member of it."""
STALE = frozenset({"stale"})
ORDER = frozenset({"out_of_order", "stale"})
REQUEUED = frozenset({"stale", "repeated", "held_twice"})
PROMISES = ("lost", "out_of_order", "stale", "held_twice", "repeated", "strays")
TIMED: tuple[ModuleType, ...] = (rebalancer, overdue, progress, listing, inboxes)
PURPOSES = ("topology", "source", "probe", "backlog", "deletion")
"""What the connections of a session are for, besides the one that publishes: as their names end."""
WHOLES = 1 << 28
"""Bytes that takeovers and transfers may have in memory: with fewer than they need, a session never gets on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a history is played in."""

    seed: int = 0
    pace: str = "even"
    members: int = 2
    prefetch: int = 2
    window: int = 6
    limit: int = 100_000
    """Of the backlogs."""
    partitions: int = 4
    routers: int = 1
    quorum_source: bool = True
    one_reader: bool = False
    """Whether the source has a single active consumer."""
    returning: bool = False
    """Whether members are a StatefulSet's pods, which come back under their names."""
    source_prefetch: int = source_reader.PREFETCH
    hasty: bool = False
    """Whether what is confirmed behind something that waits is acknowledged at once, and not a moment later."""
    shuffles: bool = False
    """Whether confirms come in any order: as those of a classic queue, where some messages are durable."""
    delivery_limit: int | None = None
    """Of the source."""
    strict: bool = True
    """Whether the broker refuses from the beginning what it is to refuse."""
    large: bool = False
    """Whether a broker that refuses a message refuses it in any form."""
    silences: bool = False
    """Whether quorum queues answer polls with zeros now and then, as they do when their leader is busy or gone."""
    soft_limit: int = SOFT_LIMIT
    """Commands without effect with which a channel holds acknowledgements back; a low one lets it happen often."""
    budget: int = 1 << 28
    """Bytes of messages that may be under way in a router."""
    listed: bool = True
    """Whether the management API lists the queues when the journal is lost."""
    beside: float = 0.25
    """The share of arrivals with which something of another channel arrives, in the same chunk: a busy client reads
    everything that its socket has."""
    generations: int = 0
    """So many pods, one after the other, are of one generation; 0 is a platform that has none."""
    zombies: bool = False
    """Whether a consumer that dies while it quiesces is served again, and what expires goes from behind what was
    returned, as with RabbitMQ 4.3."""
    keeps: bool = False
    """Whether queues may keep for a while what the consumers of a lost node hold, as with RabbitMQ 4.3."""
    older: bool = False
    """Whether our queues are as an older version has declared them: they keep that for five seconds, and several may
    read a segment."""
    nodes: bool = False
    """Whether connections are to several nodes, which may be lost."""
    fragile: bool = False
    """Whether the node of a queue's leader may be lost while the queue is deleted, over which the broker ends the
    connection (541)."""


class _Management:
    """Stands in for the management API."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def __aenter__(self) -> Self:
        if not self._world.setting.listed:
            raise BrokerError("nobody lists the queues")
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def queues(self) -> list[str]:
        await asyncio.sleep(self._world.network.latency(0.01))
        return self._world.broker.names()

    async def members(self, _queue: str) -> Mapping[str, bool]:
        """Where a broker has several nodes, one that came up while the last queue of that name was ending has none."""
        world = self._world
        await asyncio.sleep(world.network.latency(0.01))
        lacks = world.setting.fragile and world.network.random.random() < MISSING_MEMBERS
        return {"here": True, "there": not lacks} if world.setting.fragile else {"here": True}


async def _same_broker(*_: object, **__: object) -> None:
    """There is only one."""


class _Clock:
    """Stands in for the module `time`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.monotonic = self.time = loop.time


class World:
    """Everything there is in one history."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.random = Random(setting.seed)
        self.loop = asyncio.get_running_loop()
        self.network = Network(self.random, setting.pace, beside=setting.beside)
        self.broker = LiveBroker(
            self.network,
            on_double_fault=self._double_fault,
            on_overtaken=self._overtaken,
            silences=setting.silences,
            soft_limit=setting.soft_limit,
            zombies=setting.zombies,
            keeps=setting.keeps,
        )
        self.wire = Wire(self.network, self.broker)
        self.nodes = Nodes(self, several=setting.nodes)
        self.wire.place, self.wire.older, self.wire.shuffles = self.nodes.place, setting.older, setting.shuffles
        self.wire.fragile = setting.fragile
        self.wire.on_refused = self._refused
        self.wire.refuses = self._refusal
        self.strict = setting.strict
        if setting.delivery_limit is not None:
            self.broker.delivery_limits[SOURCE] = setting.delivery_limit
        self.names = Names(GROUP)
        self.config = GroupConfig(
            group=GROUP,
            spec=GroupSpec(
                source_queue=SOURCE,
                partitions=setting.partitions,
                inbox_window=setting.window,
                backlog_limit=setting.limit,
                rejoin_seconds=1.5,
                rebalance_delay=0.1,
            ),
            broker=BrokerAddress(host="sim"),
        )
        self.pods: dict[str, Pod] = {}
        self.listed: tuple[Pod, ...] = ()
        """The pods as the routers know them."""
        self.known_epoch = 0
        self.known_members: Mapping[str, tuple[int, ...]] = {}
        """As the status has it."""
        self.ever_members: set[str] = set()
        """All that any status has had since the journal was lost last."""
        self._forgotten: set[str] = set()
        """Of whom nobody may know any more that there is an inbox: the journal was lost."""
        self.clients: dict[str, Client] = {}
        self.routers: list[Router] = []
        self.producer = Producer(self.wire, self, SOURCE)
        self.defects: list[str] = []
        self.points: set[Point] = set()
        self.kills = self.handoffs = 0
        self.unsent = 0
        self.ended = False
        self.lines: list[str] = []
        self._events: list[Event] = []
        self._acked: set[tuple[str, int]] = set()
        self._exempt: dict[str, frozenset[str]] = defaultdict(frozenset)
        self._down: Router | None = None
        self._number = 0
        self._joined = 0

    # -- doing things -------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        self.broker.declare(SOURCE, quorum=self.setting.quorum_source, single_active=self.setting.one_reader)
        await self.producer.open()
        for number in range(self.setting.members):
            self.join("abc"[number])
        for number in range(self.setting.routers):
            self.start_router(f"r{number}")

    def _refusal(self, queue: str, header: bytes, body: bytes) -> Refusal | None:
        if not self.strict or queue == SOURCE or (read_stamp(header) is None and read_fence(header) is not None):
            return None
        if self.setting.large and body_payload(body) == POISON:
            return Refusal.WORDS
        kind = poison_of(header)
        return Refusal[kind] if kind else None

    def poison(self, key: str, kind: Refusal, *, later: float) -> None:
        """Have the producer publish a message that the broker will refuse to take again."""
        self.loop.call_later(later, self.producer.poison, key, kind.name)

    @property
    def poisoned(self) -> list[str]:
        """The queues in which such messages are, or whose consumers hold some."""
        found = []
        for name in self.broker.names():
            queue = self.broker.queue(name)
            assert queue is not None
            held = [message for consumer in queue.consumers for message in consumer.held]
            bodies = [self.wire.content(message.body).body for message in [*queue._returned, *queue._ready, *held]]
            found += [name for body in bodies if body_payload(body) == POISON]
        return sorted(found)

    @property
    def kept(self) -> list[str]:
        """What the session that routes has left where it was."""
        router = self.router
        routing = router.session._assembly if router is not None and router.session is not None else None
        return list(routing.isolation.statistics.kept) if routing is not None else []

    def publish(self, key: str, *, later: float) -> None:
        """Have the producer publish one more message of the key in a moment."""
        self.unsent += 1
        self.loop.call_later(later, self._publish, key)

    def _publish(self, key: str) -> None:
        self.unsent -= 1
        self.producer.publish(key)

    def start_router(self, identity: str) -> None:
        self.routers = [router for router in self.routers if not router.killed and not router.stopping]
        router = Router(self, f"{identity}.{self._next()}", budget=Budget(self.setting.budget, wholes=WHOLES))
        self.routers.append(router)
        router.start()

    def revive(self) -> None:
        """The platform starts a process where none is left."""
        if self.router is None and not self.ended:
            self.start_router("next")

    def lose_node(self, whose: str, seconds: float) -> None:
        """A node is killed: the one that the router, or a client, is connected to."""
        if whose == "router":
            connection = self.router.data if self.router is not None else None
        else:
            connection = self.clients[whose].connection if whose in self.clients else None
        if connection is not None and not connection.lost.done():
            self.nodes.lose(connection.node, seconds)

    def lose_journal(self) -> None:
        """Somebody deletes the journal."""
        if self.broker.queue(self.names.journal) is not None:
            Channel(self.broker).delete(self.names.journal)
            self.ever_members.clear()
            self._forgotten |= self.clients.keys()

    @property
    def router(self) -> Router | None:
        """The process that routes, or else any that lives."""
        alive = [router for router in self.routers if not router.killed and not router.stopping]
        return next((router for router in alive if router.routes), alive[0] if alive else None)

    def join(self, name: str) -> None:
        """A pod comes up, or comes back."""
        client = self.clients.get(name)
        if client is None:
            client = self.clients[name] = Client(
                self.wire, self, name=name, inbox=self.names.inbox(name), prefetch=self.setting.prefetch
            )
        if name in self.pods or client.running:
            return
        self._joined += 1
        self.pods[name] = replace(self._pod(name, PodState.READY), generation=self._generation)
        client.unstick()
        client.start()
        self.tell_pods()

    def terminate(self, name: str) -> None:
        """The platform asks the pod to end."""
        if name in self.pods:
            generation = self.pods[name].generation
            self.pods[name] = replace(self._pod(name, PodState.TERMINATING), generation=generation)
            self.tell_pods()

    def _pod(self, name: str, state: PodState) -> Pod:
        now = self.loop.time()
        return Pod(name=name, state=state, returns=self.setting.returning, created=now, changed=now)

    @property
    def _generation(self) -> Generation | None:
        size = self.setting.generations
        return Generation(owner="Deployment sim", name=f"{self._joined // size}") if size else None

    def remove(self, name: str) -> None:
        """The pod is gone."""
        client = self.clients.get(name)
        if client is not None and client.running:
            client.kill()
        if self.pods.pop(name, None) is not None:
            self.tell_pods()

    def tell_pods(self) -> None:
        """The routers learn of the pods as they are, a little later."""
        self.loop.call_later(self.random.uniform(0.0, 0.05), self._list)

    def _list(self) -> None:
        self.listed = tuple(sorted(self.pods.values()))
        for router in self.routers:
            if router.session is not None and not router.killed:
                router.session.set_pods(self.listed)

    # -- what is seen -------------------------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        self.lines.append(f"{self.loop.time() - 1000:9.4f} {text}")

    def report(self, kind: Kind, actor: str, key: str = "", seq: int = 0, note: str = "") -> None:
        if kind is Kind.ACKED:
            self._acked.add((key, seq))
        self._events.append(Event(int(self.loop.time() * 1e9), kind, actor, key, seq, note))
        self.log(f"{kind.name.lower()} {actor} {key}{seq or ''} {note}")

    def given(self, actor: str, delivery: Delivery) -> None:
        key = self._key(delivery.body)
        if not key:
            return
        name = actor.partition("#")[0]
        for other in self.clients:
            queue = self.broker.queue(self.names.inbox(other))
            if other == name or queue is None:
                continue
            for consumer in queue.consumers:
                if consumer.priority == 0 and any(self._key(message.body) == key for message in consumer.held):
                    self.defects.append(f"{actor} is given {self._describe(delivery.body)} while {other} holds {key}")

    def fence_seen(self, actor: str, delivery: Delivery) -> None:
        sender, now = self.wire.content(delivery.body).sender, self.loop.time()
        if sender.died_at is None or now - sender.died_at > FENCE_SEEN:
            ago = "lives" if sender.died_at is None else f"died {now - sender.died_at:.4f} s ago"
            self.defects.append(f"{actor} is given a fence of a router that {ago}")

    def requeued(self, key: str, seq: int) -> None:
        self._exempt[_subject(key, seq)] |= REQUEUED

    def refuse(self, name: str) -> None:
        """The member's inbox takes no messages for now."""
        self.broker.refusing.add(self.names.inbox(name))

    def accept(self, name: str) -> None:
        """It takes them again."""
        self.broker.refusing.discard(self.names.inbox(name))

    def hush(self, what: str, *, silent: float, deaf: float) -> None:
        """The leaders of the source, or of all segments that there are, are busy."""
        segments = [name for name in self.broker.names() if ".backlog." in name or ".transfer." in name]
        for queue in [SOURCE] if what == "source" else segments:
            self.broker.hush(queue, silent=silent, deaf=deaf)

    def _refused(self, message: str) -> None:
        queue, key = self.wire.content(message).queue, self._key(message)
        # What was sent there after it, before anybody knew, may have been taken.
        if any(content.queue == queue and self._key(name) == key for name, content in self.wire.since(message)):
            self._exempt[key] |= ORDER

    def _double_fault(self, held: list[Message], returned: list[Message]) -> None:
        for key in {self._key(each.body) for each in held} & {self._key(each.body) for each in returned}:
            self._exempt[key] |= ORDER

    def _overtaken(self, held: list[Message], before: list[Message]) -> None:
        for key in {self._key(each.body) for each in held} & {self._key(each.body) for each in before}:
            late = any(each.body in self.wire.late for each in held if self._key(each.body) == key)
            self._exempt[key] |= ORDER if late else STALE

    def router_goes_down(self, router: Router) -> None:
        if router.session is not None and router.session._assembly is not None:
            self._down = router
            self.report(Kind.ROUTER_DOWN, "test")

    def router_changed(self, router: Router) -> None:
        if router.routes and router.session is not None and router.session._assembly is not None:
            ledger = router.session._assembly.journal.ledger
            self.known_epoch = ledger.epoch
            self.known_members = {member: tuple(sorted(ledger.owned_by(member))) for member in ledger.members}
            self.ever_members |= ledger.members
        if (self._down is not None and self._down is not router and router.routes) or (
            self._down is router and router.routes and router.data is not None and not router.data.lost.done()
        ):
            self._up()

    def _up(self) -> None:
        self._down = None
        self.report(Kind.ROUTER_UP, "test")

    def committed(self, donor: str, moved: int, _seconds: float) -> None:
        self.handoffs += 1
        self.log(f"handoff of {donor} committed, {moved} moved")

    def _key(self, name: str) -> str:
        return self._key_or_none(name) or ""

    def _describe(self, name: str) -> str:
        ident = identify(body_payload(self.wire.content(name).body), {})
        return f"{ident[0]}{ident[1]}" if ident is not None else "something"

    def _next(self) -> int:
        self._number += 1
        return self._number

    # -- coming to rest -----------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Nothing goes wrong any more: everything must come to rest."""
        for router in self.routers:
            router.crash_after, router.crash_at = -1, None
        self.nodes.back()
        if self.router is None:
            self.start_router("last")
        self.tell_pods()
        deadline = self.loop.time() + SETTLES_WITHIN
        while waits := self._unsettled():
            if self.loop.time() > deadline:
                self.defects.append(f"does not come to rest: {waits}")
                return
            if not any(pod.state is PodState.READY for pod in self.pods.values()):
                self.join(next((name for name in "abc" if name not in self.pods), "d"))
            for name, client in self.clients.items():
                client.unstick()
                self.accept(name)
                if name in self.pods and self.pods[name].state is PodState.READY:
                    client.start()
            await asyncio.sleep(0.25)

    def _unsettled(self) -> str:
        if len(self._acked) < self.producer.sent + self.unsent:
            missing = {(e.key, e.seq) for e in self._events if e.kind is Kind.SENT} - self._acked
            places = {n: c for n in self.broker.names() if (q := self.broker.queue(n)) and (c := q.message_count)}
            return f"not acknowledged: {sorted(missing)[:8]}; ready: {places}; {self._running()}"
        router = self.router
        if router is None or not router.routes or router.session is None or router.session._assembly is None:
            return self._running()
        routing = router.session._assembly
        if not routing.rebalancer.balanced:
            return f"not balanced: {self._running()}"
        ledger = routing.journal.ledger
        transfers = [name for name in self.broker.names() if ".transfer." in name]
        if ledger.handoffs or ((transfers or ledger.backlogs) and not self.kept):  # a segment may be what keeps it
            return f"left over: {transfers} {ledger.handoffs} {ledger.backlogs}"
        forgotten = self._forgotten - self.ever_members
        gone = self.clients.keys() - ledger.members - self.pods.keys() - forgotten
        if left := [name for name in sorted(gone) if self.broker.queue(self.names.inbox(name)) is not None]:
            return f"the inboxes of {left} stay"
        for name in self.broker.names():
            queue = self.broker.queue(name)
            if queue is not None and name != self.names.journal and self._holds(queue):
                return f"{name} holds messages"
        return ""

    def _holds(self, queue: Queue) -> bool:
        """Whether messages of a producer are in the queue: a fence left in a segment is nobody's."""
        held = [message for consumer in queue.consumers for message in consumer.held]
        return any(self._key_or_none(each.body) is not None for each in [*queue._returned, *queue._ready, *held])

    def _key_or_none(self, name: str) -> str | None:
        ident = identify(body_payload(self.wire.content(name).body), {})
        return None if ident is None else ident[0]

    def _running(self) -> str:
        router = self.router
        if router is None or router.session is None or router.session._assembly is None:
            alive = [(each.identity, each.stopping, each.stalled) for each in self.routers if not each.killed]
            return f"nobody routes: {alive}"
        routing = router.session._assembly
        running = {donor: progress.waiting_for for donor, progress in routing.handoffs.running.items()}
        states = {name: str(member.state) for name, member in routing.rebalancer.membership.members.items()}
        owners = [partition.owner for partition in routing.journal.ledger.partitions]
        clients = [name for name, client in self.clients.items() if client.running]
        return f"handoffs: {running}; members: {states}; owners: {owners}; pods: {self.listed}; clients: {clients}"

    async def end(self) -> None:
        self.ended = True
        for router in self.routers:
            await router.stop()
            if not router.killed and router.budget.free != router.budget.total:
                self.defects.append(f"{router.identity} has ended, and {router.budget} is not free")
        for client in self.clients.values():
            client.kill()
        await self.producer.close()

    def violations(self) -> list[str]:
        """What was promised and broken."""
        found = [*self.defects, *self.wire.defects]
        groups: dict[frozenset[str], set[str]] = defaultdict(set)
        for event in self._events:
            if subject := _subject(event.key, event.seq):
                groups[self._exempt.get(subject, frozenset())].add(subject)
        for exempt, keys in groups.items():
            auditor = Auditor(in_doubt=2.0)
            for event in self._events:
                if (subject := _subject(event.key, event.seq)) in keys or not subject:
                    auditor.feed(event)
            verdict = auditor.verdict()
            if any(getattr(verdict, promise) for promise in PROMISES if promise not in exempt):
                found.append(verdict.report())
        return found


def _subject(key: str, seq: int) -> str:
    """What is judged as one: a key, or a message that has none; nothing for an event that is about no message."""
    return key or (f"message {seq}" if seq else "")


@contextlib.contextmanager
def inhabited(setting: Setting) -> Iterator[World]:
    """A world in which `Connection.open` and the clock are the simulation's."""
    world = World(setting)

    async def connect(_address: BrokerAddress, *, name: str, **_settings: object) -> SimConnection:
        await asyncio.sleep(world.network.latency(0.001))
        router = next(router for router in world.routers if router.identity in name.split())
        purpose = next(
            (word for word in ("topology", "source", "probe", "backlog", "deletion") if name.endswith(word)), ""
        )
        on_cut: Callable[[], None] = (lambda: world.router_goes_down(router)) if not purpose else (lambda: None)
        beside = router.data.node if purpose and router.data is not None else None
        node = world.nodes.place(beside)
        connection = SimConnection(world.wire, on_effect=router.effect, on_cut=on_cut, hasty=True, node=node)
        if world.setting.zombies or world.setting.keeps:
            connection.server_version = (4, 3, 6)
        router.opened(connection, purpose)
        if router.killed:
            connection.cut("killed")
        return connection

    def defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if (error := context.get("exception")) is not None and "never retrieved" not in context["message"]:
            world.defects.append(f"{context['message']}: {trace(error)}")

    world.loop.set_exception_handler(defect)
    with contextlib.ExitStack() as stack:
        for module in TIMED:
            stack.enter_context(mock.patch.object(module, "time", _Clock(world.loop)))
        stack.enter_context(mock.patch.object(Connection, "open", connect))
        stack.enter_context(mock.patch.object(source_reader, "PREFETCH", setting.source_prefetch))
        if setting.hasty:
            stack.enter_context(mock.patch.object(source_acks, "BEHIND_AFTER", 0.0))
        stack.enter_context(mock.patch.object(recovery, "Management", return_value=_Management(world)))
        stack.enter_context(mock.patch.object(inbox_queues, "Management", return_value=_Management(world)))
        stack.enter_context(mock.patch.object(lost_nodes, "Management", return_value=contextlib.nullcontext()))
        stack.enter_context(mock.patch.object(lost_nodes, "sight", world.nodes.sight))
        stack.enter_context(mock.patch.object(recovery, "prove", _same_broker))
        yield world
