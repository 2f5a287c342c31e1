"""Stand-ins for what a part of a session asks of others, and a session's context that is made of them.

Invariant: each is a subclass of what it stands in for, so what a part calls has the signature that it really has. There
is no broker behind any: nothing leaves, and what is answered is said here or by a test's own subclass.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from itertools import count

from partymq.amqp.channel import Channel, ConfirmCallback
from partymq.amqp.connection import Connection
from partymq.amqp.content import DeliveryCallback
from partymq.amqp.frames import Arguments
from partymq.amqp.lost_nodes import LostNodes
from partymq.amqp.nodes import Endpoint
from partymq.amqp.output import Output
from partymq.amqp.replies import settle
from partymq.amqp.topology import Look, QueueState, Topology
from partymq.core.ledger import Ledger, empty
from partymq.core.names import Names
from partymq.core.spec import GroupConfig, GroupId, GroupSpec
from partymq.errors import BrokerError
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.polling import Polling
from partymq.router.broker.queue_troubles import Troubles
from partymq.router.context import Context
from partymq.router.failpoints import Checkpoint
from partymq.router.flow.backlogs import Backlogs
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.keyless import Keyless
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Member
from partymq.router.flow.release import Releaser
from partymq.router.journal import Change, Journal
from partymq.router.listener import Listener
from partymq.router.publish.outlet import UNLIMITED, Refused, Settled, Sink, Way
from partymq.router.publish.publisher import Publisher
from partymq.router.rebalance.handoffs import Handoffs
from partymq.router.rebalance.listing import Listing
from partymq.router.session.session import Session
from partymq.router.signals import Signal
from support.fake_broker import ADDRESS

GROUP = GroupId(namespace="shop", name="orders")
SPEC = GroupSpec(source_queue="orders")
VERSION = (4, 0, 5)
ZOMBIES = (4, 3, 0)
"""A version that serves dead consumers."""
HERE = Endpoint(host="broker", port=5672, info=(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5672)))


class FakeConnection(Connection):
    """Keeps whether it is to be read."""

    def __init__(self) -> None:
        super().__init__(ADDRESS, HERE)
        self.server_version = VERSION
        self._channel_max = 2047
        self.holds: list[bool] = []

    @property
    def held(self) -> bool:
        return self.holds[-1:] == [True]

    def hold(self, on: bool) -> None:
        self.holds.append(on)


class FakeLink(DataConnection):
    """Says when a chunk is over, and keeps what would end the session."""

    def __init__(self, *, budget: Budget | None = None) -> None:
        self.failed: list[BaseException] = []
        self.connection = FakeConnection()
        super().__init__(self.connection, budget=budget)

    async def channel(self) -> Channel:
        return FakeChannel(self)

    def fail(self, error: BaseException) -> None:
        self.failed.append(error)

    def chunk_over(self) -> None:
        self.connection.ring()


class FakeChannel(Channel):
    """Keeps what leaves; confirms and refuses when it is told to."""

    def __init__(self, link: FakeLink | None = None, number: int = 9) -> None:
        super().__init__(number, Output(asyncio.get_running_loop()), lambda _number: None)
        self._link = link
        self.published: list[bytes] = []
        """Headers, by their numbers less one."""
        self.bodies: list[bytes] = []
        self.acked: list[tuple[int, bool]] = []
        self.sent: list[str] = []
        """What left, in order."""
        self.consumes = ""
        """The queue that is consumed."""

    async def confirm_select(self, on_confirm: ConfirmCallback, on_nack: ConfirmCallback) -> None:
        self.confirm(on_confirm, on_nack)

    def confirm(self, on_confirm: ConfirmCallback, on_nack: ConfirmCallback) -> None:
        self.confirmed, self.nacked = on_confirm, on_nack

    async def consume(
        self,
        queue: str,
        on_delivery: DeliveryCallback,
        *,
        prefetch: int = 0,
        arguments: Arguments | None = None,
        exclusive: bool = False,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        self.content.on_delivery = on_delivery
        self.consumes = queue
        await self.consumed()

    async def consumed(self) -> None:
        """What the broker does when a consumer has come."""

    def publish(self, frame: bytes, header: bytes, body_frames: bytes) -> None:
        self.published.append(header)
        self.bodies.append(body_frames)
        self.sent.append("fence")

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.acked.append((tag, multiple))
        self.sent.append(f"all to {tag}" if multiple else str(tag))

    async def delete_queue(self, queue: str) -> int:
        return 0

    async def close(self) -> None:
        settle(self.closed, None)

    def take(self) -> None:
        """The last publish is confirmed."""
        self.confirmed(len(self.published), False)
        self._chunk_over()

    def refuse(self) -> None:
        """The last publish is refused."""
        self.nacked(len(self.published), False)
        self._chunk_over()

    def _chunk_over(self) -> None:
        if self._link is not None:
            self._link.chunk_over()


class FakeTopology(Topology):
    """Queues as a test says that they are."""

    def __init__(self) -> None:
        self.lost_nodes = LostNodes(ADDRESS)
        self._declaring = asyncio.Semaphore(100)
        self.states: dict[str, Look] = {}
        """What polls say of queues; those that were declared are empty and nobody's."""
        self.declared: list[str] = []
        self.refused: dict[str, BrokerError] = {}
        """What the broker says to the declarations of these."""

    async def _declare(self, name: str, arguments: Arguments) -> None:
        self.declared.append(name)
        if (error := self.refused.get(name)) is not None:
            raise error
        self.states.setdefault(name, QueueState(0, 0))

    async def poll(self, queue: str) -> Look:
        return self.states.get(queue)

    async def poll_all(self, queues: Sequence[str]) -> list[Look]:
        return [await self.poll(queue) for queue in queues]

    async def purge(self, queue: str) -> int:
        return 0

    async def delete(self, queue: str) -> int:
        del self.states[queue]
        return 0


class FakeWay:
    """The way to a queue, which has what was published to it; nothing is confirmed."""

    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self.tags: list[int] = []
        self.unconfirmed: list[tuple[Settled, int]] = []
        """What has an origin, with its tag there."""

    def arrival(self, sink: Sink, header: bytes, _body: bytes, tag: int) -> None:
        sink.unconfirmed += 1
        self.headers.append(header)
        self.tags.append(tag)

    def publish(self, sink: Sink, header: bytes, body: bytes, origin: Settled | None, tag: int) -> None:
        self.arrival(sink, header, body, tag)
        if origin is not None:
            self.unconfirmed.append((origin, tag))


class FakePublisher(Publisher):
    """All sinks go one way, and whoever waits for confirms has them."""

    def __init__(self, way: Way | None = None) -> None:
        super().__init__(FakeLink(), FakeChannel())
        self.way: Way = way or FakeWay()
        self.marked: list[str] = []

    def sink(
        self,
        queue: str,
        *,
        exchange: str = "",
        left: int = UNLIMITED,
        refused: Callable[[Refused], None] | None = None,
    ) -> Sink:
        return Sink(self.way, b"", left, exchange=exchange, queue=queue)

    async def mark(self, queue: str) -> None:
        """A fence is there."""
        self.marked.append(queue)

    async def confirmed(self) -> None:
        """Everything is."""

    async def settled(self, *sinks: Sink) -> None:
        """So are these."""


class FakeJournal(Journal):
    """A journal that is ours, and takes every change as soon as it may."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ids = count(1)
        self.session = "s"
        self.changed = Signal[[]]()
        self.answers = asyncio.Event()
        self.answers.set()

    @property
    def ledger(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    @ledger.setter
    def ledger(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def write(self, change: Change) -> Ledger:
        await self.answers.wait()
        self.ledger = after = change(self.ledger)
        return after


class FakeSession(Session):
    """A session that routes."""

    def __init__(self, ledger: Ledger) -> None:
        self._routes = ledger
        self.standing_by = False

    @property
    def ledger(self) -> Ledger:
        return self._routes


def make_member(name: str, *, left: int = 10, window: int = 10) -> Member:
    """One whose inbox nothing is published to."""
    return Member(name, Sink(FakeWay(), b"", left), window)


def quiet_listener() -> Listener:
    """One that tells nobody."""
    return Listener(
        standby=lambda: None,
        trouble=lambda _error: None,
        wanted=lambda _identity: None,
        rival=lambda _identity: None,
        changed=lambda: None,
        notice=lambda _notice: None,
        committed=lambda *_: None,
    )


def context(
    *,
    spec: GroupSpec = SPEC,
    link: DataConnection | None = None,
    topology: Topology | None = None,
    publisher: Publisher | None = None,
    journal: Journal | None = None,
    troubles: Troubles | None = None,
    listener: Listener | None = None,
    checkpoint: Checkpoint = lambda _: None,
) -> Context:
    """With these parts, and stand-ins for all others."""
    topology = topology or FakeTopology()
    return Context(
        config=GroupConfig(group=GROUP, spec=spec, broker=ADDRESS),
        names=Names(GROUP),
        link=link or FakeLink(),
        topology=topology,
        publisher=publisher or FakePublisher(),
        journal=journal or FakeJournal(empty(1)),
        polling=Polling(topology),
        troubles=troubles or Troubles(on_notice=lambda _: None, on_change=lambda: None),
        listener=listener or quiet_listener(),
        checkpoint=checkpoint,
    )


def make_releaser(of: Context, table: LaneTable) -> Releaser:
    """With backlogs and keyless messages of its own."""
    return Releaser(of, table, Backlogs(of, table), Keyless(of, table))


def make_handoffs(of: Context, table: LaneTable, inboxes: Inboxes, listing: Listing) -> Handoffs:
    """With a releaser of its own."""
    return Handoffs(of, table, inboxes=inboxes, releaser=make_releaser(of, table), listing=listing)
