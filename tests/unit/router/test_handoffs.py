"""A graceful stop gives back nothing that a handoff holds; a transfer that is refused stops nobody else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from partymq.amqp.frames import Arguments, plain_header
from partymq.amqp.lost_nodes import LostNodes
from partymq.amqp.topology import QueueState
from partymq.core.ledger import Handoff, Partition, Phase, empty
from partymq.core.membership import Pod, PodState
from partymq.errors import LimitReachedError
from partymq.message.rewrite import passable
from partymq.message.stamp import Stamper, read_fence
from partymq.router.broker import retry
from partymq.router.failpoints import Point
from partymq.router.flow.inboxes import Declaration, Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.rebalance import handoffs
from partymq.router.rebalance.listing import Listing
from support.conditions import eventually
from support.fake_broker import ADDRESS
from unit.router.doubles import (
    ZOMBIES,
    FakeChannel,
    FakeJournal,
    FakeLink,
    FakePublisher,
    FakeTopology,
    FakeWay,
    context,
    make_handoffs,
    make_member,
)


class Inbox(FakeChannel):
    """The donor's inbox, and the channel of its takeover; fences come back once no client holds anything."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        super().__init__()
        self.held: dict[int, bytes] = {}
        self.returned: list[bytes] = []
        self.attached = False
        self.quiet = False
        """True when no client holds anything."""
        self._messages = list(messages)
        self._tag = 0

    async def consumed(self) -> None:
        self.attached = True
        for header in self._messages:
            self._give(header)

    def _give(self, header: bytes) -> None:
        self._tag += 1
        self.held[self._tag] = header
        self.content.on_delivery(self._tag, b"", header, b"")

    def publish(self, frame: bytes, header: bytes, body_frames: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self.confirmed, 0, False)
        if self.quiet:
            loop.call_soon(self._give, header)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        for one in [one for one in self.held if one == tag or (multiple and one < tag)]:
            del self.held[one]

    async def close(self) -> None:
        self.returned = [header for header in self.held.values() if read_fence(header) is None]
        await super().close()


class Link(FakeLink):
    """Has the channel of the takeover, and nothing waits for the end of a chunk."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self._inbox = inbox

    async def channel(self) -> Inbox:
        return self._inbox

    def after_chunk(self, callback: Callable[[], None]) -> None:
        callback()


class Nodes(LostNodes):
    """Says when no client that was lost with its node holds anything."""

    def __init__(self) -> None:
        super().__init__(ADDRESS)
        self.settled = asyncio.Event()

    async def quiet(self) -> None:
        await self.settled.wait()


class Topology(FakeTopology):
    """One consumer everywhere, and a transfer that is refused now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.lost_nodes = self.nodes = Nodes()
        self.refusals = 0
        """How often the broker refuses the transfer from now on."""

    async def _declare(self, name: str, arguments: Arguments) -> None:
        if self.refusals:
            self.refusals -= 1
            raise LimitReachedError("queue limit in vhost '/' (9) is reached")

    async def poll(self, queue: str) -> QueueState:
        return QueueState(ready=0, consumers=1)


class Stage:
    """A handoff of `a`, which owns the only partition, to `b`."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        self.inbox = Inbox(messages)
        self.link = Link(self.inbox)
        self.topology = Topology()
        self.points: list[Point] = []
        copies = FakeWay()
        self.copied = copies.headers
        owned = replace(empty(1), partitions=(Partition(owner="a"),), members=frozenset({"a", "b"}), epoch=1)
        self.journal = FakeJournal(owned)
        parts = context(
            link=self.link,
            topology=self.topology,
            publisher=FakePublisher(copies),
            journal=self.journal,
            checkpoint=self._reached,
        )
        self.table = LaneTable(1)
        self.donor = self.table.inboxes["a"] = make_member("a")
        self.table.inboxes["b"] = make_member("b")
        self.table.follow(owned)
        self.inboxes = Inboxes(parts, self.table)
        listing = Listing(self.journal, clients=False)
        listing.set_pods((Pod(name="a", state=PodState.READY),))
        self.handoffs = make_handoffs(parts, self.table, self.inboxes, listing)

    def _reached(self, point: Point) -> None:
        self.points.append(point)
        if point is Point.EXTRACTED:
            self.inbox.quiet = False  # the broker takes its time to prove the acknowledgements

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The handoff, at the moment when it waits for the donor's client."""
        task = asyncio.create_task(self.handoffs.run())
        self.handoffs.start("a", {0: "b"})
        await eventually(lambda: self.inbox.attached, "the inbox is not taken over", every=0)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


HEADERS = [Stamper(0, 1).stamp(plain_header(5), seq, b"\0\0") for seq in (1, 2)]


async def _stops(stage: Stage) -> None:
    """A stop that begins before anything else happens."""
    stopping = asyncio.create_task(stage.handoffs.stop())
    await asyncio.sleep(0)
    stage.inbox.quiet = True
    await eventually(lambda: stopping.done() or Point.EXTRACTED in stage.points, "it is not extracted", every=0)
    stage.inbox.quiet = True
    await stopping


async def test_a_takeover_of_rabbitmq_4_3_waits_until_no_lost_client_holds_anything() -> None:
    stage = Stage(HEADERS)
    stage.link.connection.server_version = ZOMBIES
    task = asyncio.create_task(stage.handoffs.run())
    stage.handoffs.start("a", {0: "b"})
    await eventually(lambda: Point.DRAIN in stage.points, "it does not begin", every=0)
    with pytest.raises(AssertionError):
        await eventually(lambda: stage.inbox.attached, "", 0.1, every=0)
    stage.topology.nodes.settled.set()
    await eventually(lambda: stage.inbox.attached, "the inbox is not taken over", every=0)
    task.cancel()
    await asyncio.wait({task})


async def test_a_stop_lets_a_handoff_commit_that_holds_the_inboxs_messages() -> None:
    """A client that is given them and leaves puts them behind what is newer."""
    stage = Stage(HEADERS)
    async with stage.running():
        await _stops(stage)
    assert stage.inbox.returned == []
    assert stage.copied == HEADERS
    assert stage.journal.ledger.partitions[0].owner == "b"
    assert not stage.journal.ledger.handoffs


async def test_a_stop_lets_a_handoff_commit_that_has_extracted() -> None:
    stage = Stage(HEADERS)
    async with stage.running():
        stage.inbox.quiet = True
        await eventually(lambda: Point.EXTRACTED in stage.points, "it is not extracted", every=0)
        await _stops(stage)
    assert stage.journal.ledger.partitions[0].owner == "b"
    assert not stage.journal.ledger.handoffs


async def test_a_stop_does_not_wait_for_a_donor_that_has_everything() -> None:
    stage = Stage([])
    async with stage.running():
        await asyncio.wait_for(stage.handoffs.stop(), 1.0)
    assert stage.inbox.closed.done()
    assert stage.journal.ledger.partitions[0].owner == "a"
    assert list(stage.journal.ledger.handoffs) == ["1.1"], "the next session goes on with it"


async def test_what_somebody_else_put_into_an_inbox_after_a_crash_is_not_acknowledged_with_the_copies() -> None:
    stray = plain_header(5)
    stage = Stage([*HEADERS, stray])
    handoff = Handoff(id="1.1", donor="a", targets={0: "b"}, phase=Phase.EXTRACTED, found=frozenset({0}))
    stage.journal.ledger = replace(stage.journal.ledger, handoffs={"1.1": handoff})
    stage.inbox.quiet = True
    task = asyncio.create_task(stage.handoffs.run())
    stage.handoffs.resume(handoff)
    await eventually(lambda: Point.COMMITTED in stage.points, "it does not end", every=0)
    assert stage.copied == [passable(stray)], "to `dead`, and nothing else"
    task.cancel()
    await asyncio.wait({task})


async def test_a_transfer_that_is_refused_is_tried_again_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.05)
    stage = Stage(HEADERS)
    stage.topology.refusals = 2
    async with stage.running():
        stage.inbox.quiet = True
        (progress,) = stage.handoffs.running.values()
        await eventually(lambda: "queue limit" in progress.waiting_for, "it is not named", every=0)
        await eventually(lambda: Point.EXTRACTED in stage.points, "it does not go on", every=0)
        stage.inbox.quiet = True
        await eventually(lambda: not stage.handoffs.running, "it does not end", every=0)
    assert stage.copied == HEADERS
    assert stage.journal.ledger.partitions[0].owner == "b"


async def test_a_transfer_that_is_refused_and_not_needed_holds_nothing_up() -> None:
    stage = Stage([])
    stage.topology.refusals = 1_000_000
    async with stage.running():
        stage.inbox.quiet = True
        await eventually(lambda: not stage.handoffs.running, "it waits for the transfer", every=0)
    assert stage.journal.ledger.partitions[0].owner == "b"


async def test_a_stop_does_not_wait_for_a_transfer_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.05)
    monkeypatch.setattr(handoffs, "COMMITS_WITHIN", 0.1)
    stage = Stage(HEADERS)
    stage.topology.refusals = 1_000_000
    async with stage.running():
        stage.inbox.quiet = True
        (progress,) = stage.handoffs.running.values()
        await eventually(lambda: "queue limit" in progress.waiting_for, "it is not named", every=0)
        await asyncio.wait_for(stage.handoffs.stop(), 5.0)
    assert len(stage.inbox.returned) == len(HEADERS), "what it held goes back to the inbox"
    assert list(stage.journal.ledger.handoffs) == ["1.1"], "the next session goes on with it"


async def _mended(stage: Stage, fixed: "asyncio.Future[bool]") -> bool:
    await fixed
    stage.table.unbar(stage.donor)
    return True


async def test_a_donor_without_an_inbox_waits_for_it() -> None:
    stage = Stage([])
    fixed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    stage.table.bar(stage.donor)
    mended = asyncio.create_task(_mended(stage, fixed))
    stage.inboxes._declaring["a"] = Declaration(mended, asyncio.Event(), asyncio.Event())
    task = asyncio.create_task(stage.handoffs.run())
    stage.handoffs.start("a", {0: "b"})
    (progress,) = stage.handoffs.running.values()
    await eventually(lambda: "the inbox of a" in progress.waiting_for, "it is not named", every=0)
    assert not stage.journal.ledger.handoffs
    fixed.set_result(True)
    stage.inbox.quiet = True
    await eventually(lambda: not stage.handoffs.running, "it does not go on", every=0)
    task.cancel()
    await asyncio.wait({task})
    assert stage.journal.ledger.partitions[0].owner == "b"
