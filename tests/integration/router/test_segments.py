"""A segment on a real broker, read by one reader after the other."""

import asyncio

import pytest

from partymq.amqp.channel import MAX_PREFETCH, Channel
from partymq.amqp.connection import Connection
from partymq.amqp.frames import plain_header, publish_frame
from partymq.amqp.topology import Topology
from partymq.message.stamp import Stamper, read_stamp
from partymq.router.broker.data_connection import DataConnection
from partymq.router.flow.readers import Readers
from partymq.router.flow.segments import Segment, SegmentReader
from partymq.router.publish.outlet import UNLIMITED, Sink
from support.broker import QUORUM, amqp_url, temporary_queue, unique
from support.broker_script import NoBrokerError
from support.conditions import eventually
from support.group import address
from support.suspend import suspended
from unit.router.doubles import FakePublisher, FakeWay, context

ROUNDS = 150
"""Without the wait for the last reader, one in some hundreds goes wrong; test_release.py has the certain test."""
MESSAGES, PREFETCH = 20, 10
SPARSE = 400


async def test_what_a_reader_held_comes_first_to_the_next_one() -> None:
    """However short the time between them is: the close is not even waited for, as where a handoff interrupts it."""
    topology = await Topology.open(address(), name="test")
    connection = await Connection.open(address(), name="test")
    link = DataConnection(connection)
    readers = Readers(context(link=link, topology=topology, publisher=FakePublisher()), on_stray=lambda *_: None)
    outlet = await link.channel()
    for round_ in range(ROUNDS):
        segment = unique("segment")
        await topology.declare_segment(segment)
        _fill(outlet, segment)
        first = await readers.get(Segment(queue=segment, partitions={0}, prefetch=PREFETCH))
        await _received(first, PREFETCH)
        closing = asyncio.create_task(readers.close(first))
        await asyncio.sleep(0)
        closing.cancel()
        second = await readers.get(Segment(queue=segment, partitions={0}, prefetch=MESSAGES))
        await _received(second, MESSAGES)
        got = [stamp.seq for _, header, _ in second.flow(0).pending if (stamp := read_stamp(header)) is not None]
        assert got == list(range(MESSAGES)), f"round {round_}"
        await readers.close(second)
        await topology.delete(segment)
    await connection.close()
    await topology.close()


def _fill(outlet: Channel, segment: str, count: int = MESSAGES, *, partition: int = 0, first: int = 0) -> None:
    frame, stamper = publish_frame(outlet.number, "", segment), Stamper(partition, 1)
    for seq in range(first, first + count):
        outlet.publish(frame, stamper.stamp(plain_header(0), seq, b"\x00\x00"), b"")


async def _received(reader: SegmentReader, count: int) -> None:
    await eventually(lambda: reader.flow(0).received == count, f"the reader does not get {count} messages", every=0.001)


class _Inbox(FakeWay):
    """A destination that takes everything, and confirms what it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = Sink(self, b"", UNLIMITED)

    def confirm(self) -> None:
        for origin, tag in self.unconfirmed:
            origin.confirmed(tag)
        self.unconfirmed.clear()


async def test_a_message_in_the_chunk_that_makes_a_flow_idle_is_not_forgotten() -> None:
    """A confirm and the delivery of the last message are read at once, as they are by a router that has much to do."""
    topology = await Topology.open(address(), name="test")
    connection = await Connection.open(address(), name="test")
    link = DataConnection(connection)
    segment = unique("segment")
    await topology.declare_segment(segment)
    outlet, inbox = await link.channel(), _Inbox()
    confirms: list[int] = []
    outlet.confirm(lambda tag, _multiple: confirms.append(tag), lambda _tag, _multiple: None)
    reader = await SegmentReader.open(
        link=link, segment=Segment(queue=segment, partitions=(0, 1), prefetch=PREFETCH), on_stray=lambda *_: None
    )
    flow = reader.flow(0)
    flow.next_sink = lambda: inbox.sink
    _fill(outlet, segment, 1)
    await _received(reader, 1)

    def arrives(tag: int, _origin: bytes, header: bytes, body: bytes) -> None:
        inbox.confirm()  # in the same chunk, before
        reader._on_delivery(tag, b"", header, body)

    exhausted = asyncio.create_task(reader.exhaust(flow))
    await asyncio.sleep(0)
    reader._channel.redirect(arrives)
    _fill(outlet, segment, 1)
    await _received(reader, 2)
    reader._channel.redirect(reader._on_delivery)
    await asyncio.wait({exhausted}, timeout=0.5)
    assert not exhausted.done(), "its last message is in no inbox"
    inbox.confirm()
    link._chunk_over()
    await asyncio.wait_for(exhausted, 10.0)
    await reader.close()
    assert await _came_back(link, segment) == 0
    await topology.delete(segment)
    await connection.close()
    await topology.close()


async def test_single_acknowledgements_are_not_lost_with_a_fence_behind_them() -> None:
    """Every second message waits: so many are acknowledged one by one, while the segment's queue does nothing."""
    topology = await Topology.open(address(), name="test")
    connection = await Connection.open(address(), name="test")
    link = DataConnection(connection)
    async with temporary_queue(amqp_url(), "segment", QUORUM) as segment:
        outlet = await link.channel()
        reader = await SegmentReader.open(
            link=link,
            segment=Segment(queue=segment, partitions=(0, 1), prefetch=MAX_PREFETCH),
            on_stray=lambda *_: None,
        )
        inbox = _Inbox()
        reader.flow(1).next_sink = lambda: inbox.sink
        for seq in range(SPARSE):
            _fill(outlet, segment, 1, partition=seq % 2, first=seq)
        await eventually(lambda: len(inbox.unconfirmed) == SPARSE // 2, "not everything is read")
        try:
            async with suspended(segment):
                inbox.confirm()
                fences = [asyncio.create_task(reader.fence()) for _ in range(64)]
                link._chunk_over()
                await asyncio.sleep(0)
        except NoBrokerError as error:
            pytest.skip(str(error))
        await asyncio.wait(fences, return_when=asyncio.FIRST_COMPLETED)
        await reader.close()
        for fence in fences:
            fence.cancel()
        await asyncio.wait(fences)
        assert await _came_back(link, segment, partition=1) == 0
        await connection.close()
    await topology.close()


async def _came_back(link: DataConnection, segment: str, *, partition: int = 0) -> int:
    """How many messages of the partition the next reader gets."""
    reader = await SegmentReader.open(
        link=link, segment=Segment(queue=segment, partitions=(0, 1), prefetch=MAX_PREFETCH), on_stray=lambda *_: None
    )
    await reader.fence()
    await reader.close()
    return reader.flow(partition).received
