"""A broker that delivers without end, to whoever has to take what comes: it is noticed, and what is kept is bounded."""

import asyncio
import weakref
from collections.abc import Callable

import pytest

from partymq.amqp.channel import MAX_PREFETCH
from partymq.amqp.content import DeliveryCallback
from partymq.amqp.frames import body_frames, plain_header
from partymq.core.names import Names
from partymq.core.spec import GroupConfig, GroupId, GroupSpec
from partymq.errors import NotAmqpError, TooMuchAtOnceError
from partymq.message.stamp import Stamper, fence_header
from partymq.router.broker import fences, source_connection
from partymq.router.broker.holdings import MESSAGE
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.source_connection import SourceConnection
from partymq.router.broker.takeover import Takeover
from partymq.router.flow.segments import BACKLOG_PREFETCH, Segment, SegmentReader
from partymq.router.maintenance import dead_queue
from partymq.router.maintenance.dead_queue import DeadQueue
from partymq.router.reporting.consumer_scan import ConsumerScan
from partymq.router.reporting.reporter import Reporter
from support.fake_broker import ADDRESS
from unit.router.doubles import FakeChannel, FakeConnection, FakeLink, FakeTopology

HEADER = Stamper(0, 1).stamp(plain_header(0), 1, b"\x00\x00")
FENCE = fence_header("somebody's", expires=False)
LARGE = bytes(1_000_000)
NAMES = Names(GroupId(namespace="shop", name="orders"))


class _Stage:
    """One that reads without a limit of its own, and a link that says when it was too much."""

    def __init__(self, link: FakeLink, deliver: DeliveryCallback) -> None:
        self.link = link
        self._deliver = deliver
        self._tag = 0

    def come(self, header: bytes, body: bytes = b"") -> None:
        self._tag += 1
        self._deliver(self._tag, b"\x00\x00", header, body)


def _linked(total: int) -> tuple[FakeLink, FakeChannel]:
    link = FakeLink(budget=Budget(total))
    return link, FakeChannel(link)


def _takeover(total: int) -> _Stage:
    link, channel = _linked(total)
    takeover = Takeover(link=link, topology=FakeTopology(), channel=channel, inbox="inbox", epoch=1)
    return _Stage(link, takeover._on_delivery)


def _segment(
    total: int,
    *,
    prefetch: int = MAX_PREFETCH,
    opened: bool = True,
    heavy: Callable[[SegmentReader], None] | None = None,
) -> _Stage:
    link, channel = _linked(total)
    reader = SegmentReader(
        link=link,
        segment=Segment(queue="segment", partitions={0}, prefetch=prefetch),
        channel=channel,
        on_stray=lambda *_: None,
        on_heavy=heavy,
    )
    reader._opened = opened
    return _Stage(link, reader._on_delivery)


READERS: list[Callable[[int], _Stage]] = [_takeover, _segment]


@pytest.fixture(params=READERS)
def reads(request: pytest.FixtureRequest) -> Callable[[int], _Stage]:
    reader: Callable[[int], _Stage] = request.param
    return reader


async def test_what_weighs_too_much_ends_the_session(reads: Callable[[int], _Stage]) -> None:
    stage, came = reads(10 * len(LARGE)), 0
    while not stage.link.failed:
        stage.come(HEADER, LARGE)
        came += 1
    assert isinstance(stage.link.failed[0], TooMuchAtOnceError)
    assert came == 10


async def test_tiny_ones_weigh_what_they_take(reads: Callable[[int], _Stage]) -> None:
    stage, came = reads(1000 * MESSAGE), 0
    while not stage.link.failed:
        stage.come(HEADER)
        came += 1
    assert came < 1000


@pytest.mark.parametrize("header", [HEADER, FENCE], ids=["messages", "fences"])
async def test_more_than_was_asked_for_is_no_brokers_doing(header: bytes, reads: Callable[[int], _Stage]) -> None:
    stage = reads(1 << 40)
    for _ in range(fences.AGAIN * MAX_PREFETCH):
        stage.come(header)
    with pytest.raises(NotAmqpError, match="more than was asked for"):
        stage.come(header)


async def test_the_same_delivery_again_and_again_is_none(reads: Callable[[int], _Stage]) -> None:
    stage = reads(1 << 40)
    stage.come(HEADER)
    stage._tag = 0
    with pytest.raises(NotAmqpError, match="out of turn"):
        stage.come(HEADER)


async def test_what_is_acknowledged_does_not_count() -> None:
    link, channel = _linked(1 << 40)
    reader = SegmentReader(
        link=link,
        segment=Segment(queue="q", partitions={0}, prefetch=5),
        channel=channel,
        on_stray=lambda *_: None,
    )
    for tag in range(1, 1000):
        reader._on_delivery(tag, b"\x00\x00", FENCE, b"")
        link.chunk_over()
    for tag in range(1000, 1000 + fences.AGAIN * 5):
        reader._on_delivery(tag, b"\x00\x00", HEADER, b"")
    with pytest.raises(NotAmqpError):
        reader._on_delivery(1000 + fences.AGAIN * 5, b"\x00\x00", HEADER, b"")


async def test_a_backlogs_reader_counts_before_it_is_open_and_waits_at_the_broker_then() -> None:
    heavy: list[SegmentReader] = []
    stage = _segment(10 * len(LARGE), prefetch=BACKLOG_PREFETCH, opened=False, heavy=heavy.append)
    while not stage.link.failed:
        stage.come(HEADER, LARGE)
    assert not heavy
    stage = _segment(10 * len(LARGE), prefetch=BACKLOG_PREFETCH, heavy=heavy.append)
    while not heavy:
        stage.come(HEADER, LARGE)
    assert not stage.link.failed


async def test_what_somebody_else_puts_into_a_segment_counts_until_it_is_elsewhere() -> None:
    link, channel = _linked(10 * len(LARGE))
    came: list[tuple[bytes, bytes, SegmentReader, int]] = []
    reader = SegmentReader(
        link=link,
        segment=Segment(queue="q", partitions={0}, prefetch=MAX_PREFETCH),
        channel=channel,
        on_stray=lambda *stray: came.append(stray),
    )
    reader._opened = True
    for tag in range(1, 30):
        reader._on_delivery(tag, b"\x00\x00", plain_header(len(LARGE)), LARGE)
        header, body, _, _ = came[-1]
        reader.stray_over(tag, header, body)
    assert not link.failed
    assert reader.weight == 0
    for tag in range(30, 41):
        reader._on_delivery(tag, b"\x00\x00", plain_header(len(LARGE)), LARGE)
    assert link.failed


async def test_a_takeover_that_is_over_holds_nothing() -> None:
    link, channel = _linked(1 << 30)
    takeover = Takeover(link=link, topology=FakeTopology(), channel=channel, inbox="inbox", epoch=1)
    takeover._on_delivery(1, b"\x00\x00", HEADER, LARGE)
    assert link.budget.wholes.held > len(LARGE)
    channel.closed.set_result(None)
    await asyncio.sleep(0)
    assert link.budget.wholes.held == 0
    assert not takeover.late


# The source.


def _source(total: int) -> tuple[FakeLink, SourceConnection]:
    link = FakeLink(budget=Budget(total))
    return link, SourceConnection(FakeConnection(), FakeChannel(link), link.budget, link.whole.part())


async def test_a_source_that_gives_more_than_was_asked_for_is_given_up() -> None:
    _, source = _source(1 << 40)
    source.account(source_connection.MOST, 1, idle=False)
    with pytest.raises(NotAmqpError, match="more of the source"):
        source.account(source_connection.MOST + 1, 1, idle=False)


async def test_so_is_one_of_which_nothing_is_handed_on() -> None:
    _, source = _source(1 << 40)
    source.let_go()
    for _ in range(source_connection.MOST):
        source.keep(HEADER, b"")
    with pytest.raises(NotAmqpError, match="more of the source"):
        source.keep(HEADER, b"")


async def test_what_comes_before_the_answer_weighs_too() -> None:
    link, source = _source(10 * len(LARGE))
    for _ in range(10):
        source.keep(HEADER, LARGE)
    assert isinstance(link.failed[0], TooMuchAtOnceError)
    link, source = _source(10 * len(LARGE))
    source.keep(HEADER, LARGE)
    source.account(1, 1, idle=False)
    assert link.budget.wholes.held == 0


async def test_what_is_still_handed_on_of_a_source_that_is_let_go_weighs_and_the_rest_does_not() -> None:
    link, source = _source(1_000_000)
    connection = source.connection
    source.account(0, 1, idle=True)
    source.let_go()
    for last in range(1, 5):
        connection.received += 200_000
        source.account(last, 1, idle=False)
    assert not link.failed
    connection.received += 10_000_000  # nobody is given it
    source.account(4, 1, idle=False)
    assert not link.failed
    connection.received += 300_000
    source.account(5, 1, idle=False)
    assert isinstance(link.failed[0], TooMuchAtOnceError)


# The dead queue, on a connection of its own: it can wait.


class _Reading(FakeLink):
    """Says when it is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.on_read: Callable[[], None] = lambda: None

    def hold(self, on: bool) -> None:
        if self.held and not on:
            asyncio.get_running_loop().call_soon(self.on_read)
        self.held = on


class _Dead(FakeChannel):
    """A channel to which more comes whenever its connection is read."""

    def __init__(self, link: _Reading) -> None:
        super().__init__(link)
        self.most = 0
        self._reading = link
        self._tag = 0
        link.on_read = self._come

    async def consumed(self) -> None:
        self._come()

    def _come(self) -> None:
        came = 0
        while not self._reading.held and came < 500:
            came += 1
            self._tag += 1
            self.content.on_delivery(self._tag, b"\x00\x00", plain_header(len(LARGE)), body_frames(LARGE))
        self.most = max(self.most, came)


async def test_dead_messages_wait_at_the_broker() -> None:
    link = _Reading()
    channel = _Dead(link)
    queue = DeadQueue(
        link=link,
        topology=FakeTopology(),
        channel=channel,
        address=ADDRESS,
        names=NAMES,
        there=1000,
        key_of=lambda *_: None,
    )
    found = await queue.list(None, limit=None)
    assert len(found) == 1000
    assert channel.most <= dead_queue.ARRIVED_MOST // len(LARGE) + 1
    assert not link.held, "answers come again"


async def test_no_more_is_listed_than_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_queue, "LISTED_MOST", 10)
    link = _Reading()
    channel = _Dead(link)
    queue = DeadQueue(
        link=link,
        topology=FakeTopology(),
        channel=channel,
        address=ADDRESS,
        names=NAMES,
        there=2**32 - 1,
        key_of=lambda *_: None,
    )
    assert len(await queue.list(None, limit=None)) == 10


# What is over.


class _Large(bytearray):
    """Something that a session had, of which can be told whether it is still there."""


async def test_a_session_that_has_failed_leaves_nothing_of_it_in_memory() -> None:
    def session() -> "weakref.ref[_Large]":
        had = _Large(1000)
        try:
            try:
                raise ConnectionResetError(had)
            except ConnectionResetError as error:
                raise NotAmqpError("no broker") from error
        except NotAmqpError as error:
            reporter.failed(error)
        return weakref.ref(had)

    config = GroupConfig(
        group=GroupId(namespace="shop", name="orders"), spec=GroupSpec(source_queue="q"), broker=ADDRESS
    )
    reporter = Reporter(
        config,
        scan=ConsumerScan(lambda: (), on_news=lambda _: None),
        on_report=lambda _: None,
        on_notice=lambda _: None,
    )
    had = session()
    assert reporter._error is not None, "it is told"
    assert had() is None
