"""When a segment counts as empty: by a fence of the reader that says so, while nothing of it is under way."""

import asyncio

import pytest

from partymq.amqp.frames import plain_header
from partymq.core.names import SPREAD
from partymq.errors import ConnectionLostError
from partymq.message.stamp import Stamper
from partymq.router.broker.memory_budget import Budget
from partymq.router.flow.segment_flow import Flow
from partymq.router.flow.segments import BACKLOG_PREFETCH, Segment, SegmentReader, Stray
from partymq.router.publish.outlet import UNLIMITED, Sink
from support.fake_kubernetes import in_virtual_time
from unit.router.doubles import FakeChannel, FakeConnection, FakeLink, FakeWay

MESSAGE = plain_header(0), b""


class Stage:
    """A reader, its channel, and an inbox that takes everything and confirms when it is told to."""

    def __init__(
        self,
        on_stray: Stray = lambda *_: None,
        *,
        budget: int = 1 << 28,
        aside: FakeConnection | None = None,
        prefetch: int = BACKLOG_PREFETCH,
        partition: int = 0,
    ) -> None:
        self.link = FakeLink(budget=Budget(budget))
        self.heavy: list[SegmentReader] = []
        self.channel = FakeChannel(self.link)
        self.closed = self.channel.closed
        self.reader = SegmentReader(
            link=self.link,
            segment=Segment(queue="backlog", partitions={partition}, prefetch=prefetch),
            channel=self.channel,
            on_stray=on_stray,
            aside=aside,
            on_heavy=self.heavy.append,
        )
        self.reader._opened = True
        inbox = FakeWay()
        self.unconfirmed = inbox.unconfirmed
        self._sink = Sink(inbox, b"", UNLIMITED)
        self.takes = True
        self._partition = partition
        self._stamper = Stamper(partition, 1)
        self._tag = 0

    @property
    def flow(self) -> Flow:
        flow = self.reader.flow(self._partition)
        flow.next_sink = lambda: self._sink if self.takes else None
        return flow

    def deliver(self, tag: int, body: bytes = b"") -> None:
        """A message of the segment comes."""
        self._tag = tag
        self.reader._on_delivery(tag, b"", self._stamper.stamp(plain_header(len(body)), tag, b"\x00\x00"), body)

    def confirm(self) -> None:
        """The oldest one is in its inbox."""
        flow, tag = self.unconfirmed.pop(0)
        flow.confirmed(tag)

    def confirmed(self, *tags: int) -> list[tuple[int, bool]]:
        """These are in their inbox; gives all acknowledgements."""
        for tag in tags:
            self.flow.confirmed(tag)
        self.link.chunk_over()
        return self.channel.acked

    def return_fence(self) -> None:
        """The last fence is confirmed and comes back."""
        fence = self.channel.published[-1]
        self.channel.take()  # which may send the next one
        self._tag += 1
        self.reader._on_delivery(self._tag, b"", fence, b"")
        self.link.chunk_over()


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _left(stage: Stage) -> None:
    """A reader whose session ends while its first fence is under way."""
    fence = asyncio.create_task(stage.reader.fence())
    await asyncio.sleep(0)
    fence.cancel()
    await asyncio.wait({fence})


async def test_an_earlier_session_s_fence_proves_nothing() -> None:
    for _ in range(100):  # one process, one session after the other: the same channel number, at times the same memory
        earlier, stage = Stage(), Stage()
        await _left(earlier)
        fence = asyncio.create_task(stage.reader.fence())
        await _turns()
        stage.channel.take()
        stage.reader._on_delivery(1, b"", earlier.channel.published[0], b"")
        stage.link.chunk_over()
        await _turns()
        assert not fence.done()
        assert stage.channel.acked == [(1, True)], "it is in nobody's way"
        stage.reader._on_delivery(2, b"", stage.channel.published[0], b"")
        stage.link.chunk_over()
        await fence
        assert stage.channel.acked == [(1, True), (2, True)]


@pytest.mark.parametrize("takes", [True, False], ids=["unconfirmed", "unpublished"])
async def test_what_comes_in_the_chunk_that_made_a_flow_idle_keeps_it_from_being_exhausted(takes: bool) -> None:
    """The waiter wakes up when the whole chunk was read, and the flow is not idle any more."""
    stage = Stage()
    flow = stage.flow
    stage.deliver(1)
    exhausted = asyncio.create_task(stage.reader.exhaust(flow))
    await _turns()
    stage.takes = takes
    stage.confirm()  # one chunk: the confirm of the first message, and the second one
    stage.deliver(2)
    stage.link.chunk_over()
    await _turns()
    if stage.channel.published:
        stage.return_fence()
    await _turns()
    assert not exhausted.done(), "its second message is not in the inbox"
    stage.takes = True
    flow.pump()
    stage.confirm()
    stage.link.chunk_over()
    await _turns()
    stage.return_fence()
    async with asyncio.timeout(1):
        await exhausted


async def test_what_is_confirmed_before_an_older_message_is_acknowledged_after_it() -> None:
    """A classic queue confirms small and large messages, or durable and other ones, each in their order."""
    stage = Stage()
    flow = stage.flow
    for tag in (1, 2, 3, 4):
        stage.deliver(tag)
    assert stage.confirmed(3, 2) == []
    assert stage.confirmed(1) == [(3, True)]
    assert stage.confirmed(4) == [(3, True), (4, True)]
    assert flow.idle.is_set()
    assert stage.reader.released == 4


async def test_what_was_refused_or_stays_holds_nothing_back() -> None:
    stage = Stage()
    flow = stage.flow
    for tag in (1, 2, 3):
        stage.deliver(tag)
    assert stage.confirmed(3) == []
    stage.takes = False
    flow.take_back(1, *MESSAGE)
    assert stage.confirmed() == []
    flow.stays(2)
    assert stage.confirmed() == [(3, False)]


async def test_keyless_messages_wait_for_no_other() -> None:
    stage = Stage(partition=SPREAD)
    assert stage.flow.idle.is_set()
    for tag in (1, 2):
        stage.deliver(tag)
    assert stage.confirmed(2) == [(2, False)]


async def test_a_fence_that_is_back_and_not_confirmed_proves_nothing() -> None:
    stage = Stage()
    fence = asyncio.create_task(stage.reader.fence())
    await _turns()
    stage.reader._on_delivery(1, b"", stage.channel.published[0], b"")
    stage.link.chunk_over()
    await _turns()
    assert not fence.done()
    stage.channel.take()
    await fence


async def test_partitions_of_one_segment_share_a_fence() -> None:
    stage = Stage()
    asked = [asyncio.create_task(stage.reader.fence()) for _ in range(3)]
    await _turns()
    later = [asyncio.create_task(stage.reader.fence()) for _ in range(50)]
    await _turns()
    assert len(stage.channel.published) == 1, "one at a time"
    stage.return_fence()
    await _turns()
    assert [task.done() for task in asked] == [True, False, False], (
        "one that was sent before proves nothing to the others"
    )
    stage.return_fence()
    async with asyncio.timeout(1):
        await asyncio.gather(*asked, *later)
    assert len(stage.channel.published) == 2


async def test_a_message_of_a_partition_that_is_not_in_the_segment_is_a_stray() -> None:
    """It would wait for an owner for ever, and what stands behind it with it."""
    strays: list[int] = []
    stage = Stage(lambda _header, _body, _reader, tag: strays.append(tag))
    for tag, partition in enumerate((0, 4, 99, -1, 0), 1):
        stage.reader._on_delivery(tag, b"", Stamper(partition, 7).stamp(plain_header(0), tag, b"\0\0"), b"")
    assert strays == [2, 3, 4]
    assert [pending[0] for pending in stage.reader.flow(0).pending] == [1, 5]


async def test_a_reader_that_keeps_too_much_says_so_once_and_keeps_nothing_that_counts_as_read() -> None:
    stage = Stage(budget=1000)
    flow = stage.flow
    stage.deliver(1)
    exhausted = asyncio.create_task(stage.reader.exhaust(flow))
    stage.takes = False
    for tag in range(2, 10):
        stage.deliver(tag, bytes(100))
    assert stage.heavy == [stage.reader]
    stage.reader.drop()
    stage.deliver(10, bytes(100))
    assert not flow.pending
    assert stage.link.budget.free == 1000
    stage.confirm()
    stage.link.chunk_over()
    await _turns()
    assert not exhausted.done(), "what was dropped is still in the segment"
    assert not stage.channel.published
    exhausted.cancel()


async def test_a_reader_with_a_connection_of_its_own_reads_on_when_its_owner_has_taken_enough() -> None:
    aside = FakeConnection()
    stage = Stage(budget=1000, aside=aside)
    flow = stage.flow
    stage.takes = False
    for tag in range(1, 9):
        stage.deliver(tag, bytes(100))
    assert aside.holds == [True]
    assert not stage.heavy
    stage.takes = True
    flow.pump()
    stage.reader.weigh()
    assert aside.holds == [True, False]
    assert [tag for _, tag in stage.unconfirmed] == list(range(1, 9))


@in_virtual_time
async def test_a_connection_of_its_own_does_not_wait_for_so_long_that_the_broker_gives_it_up() -> None:
    stage = Stage(budget=1000, aside=FakeConnection())
    _ = stage.flow
    stage.takes = False
    for tag in range(1, 9):
        stage.deliver(tag, bytes(100))
    await asyncio.sleep(9)
    assert not stage.heavy
    await asyncio.sleep(2)
    assert stage.heavy == [stage.reader]


async def test_a_message_that_weighs_more_than_all_there_is_has_to_be_read() -> None:
    aside = FakeConnection()
    stage = Stage(budget=1000, aside=aside)
    _ = stage.flow
    stage.deliver(1, bytes(5000))
    assert len(stage.unconfirmed) == 1
    assert aside.holds == []


async def test_the_budget_outlives_a_reader_whose_channel_is_lost() -> None:
    stage = Stage(budget=10_000)
    _ = stage.flow
    stage.takes = False
    stage.deliver(1, bytes(4000))
    assert stage.link.budget.free < 6000
    stage.closed.set_exception(ConnectionLostError("gone"))
    await _turns()
    assert stage.link.budget.free == 10_000
    stage.closed.exception()


async def test_who_proves_does_not_wait_for_a_channel_that_somebody_else_closes() -> None:
    """A transfer is deleted as garbage just as the session stops."""
    stage = Stage()
    proving = asyncio.create_task(stage.reader.prove())
    await _turns()
    assert not proving.done()
    stage.closed.set_result(None)
    await asyncio.wait_for(proving, 1.0)
    await asyncio.wait_for(stage.reader.prove(), 1.0)
