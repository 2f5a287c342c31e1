"""A segment on a real broker, read by one reader after the other."""

import asyncio
from typing import Any, cast

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.frames import plain_header, publish_frame
from partymq.amqp.stamp import Stamper, read_stamp
from partymq.amqp.topology import Topology
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.router.link import Link
from partymq.router.release import Releaser
from partymq.router.segments import SegmentReader
from support.broker import unique
from support.conditions import eventually
from support.group import address

ROUNDS = 150
"""Without the wait for the last reader, one in some hundreds goes wrong; test_release.py has the certain test."""
MESSAGES, PREFETCH = 20, 10


async def test_what_a_reader_held_comes_first_to_the_next_one() -> None:
    """However short the time between them is: the close is not even waited for, as where a handoff interrupts it."""
    topology = await Topology.open(address(), name="test")
    connection = await Connection.open(address(), name="test")
    link = Link(connection)
    releaser = Releaser(
        link=link,
        topology=topology,
        journal=cast(Any, None),
        publisher=cast(Any, None),
        names=Names(GroupId(namespace="test", name="segments")),
        backlogs=cast(Any, None),
        lanes={},
        go_direct=lambda _: None,
        any_sink=lambda: None,
        on_stray=lambda *_: None,
        pace=cast(Any, None),
        checkpoint=lambda _: None,
    )
    outlet = await link.channel()
    for round_ in range(ROUNDS):
        segment = unique("segment")
        await topology.declare_quorum(segment)
        _fill(outlet, segment)
        first = await releaser._reader(segment, prefetch=PREFETCH)
        await _received(first, PREFETCH)
        closing = asyncio.create_task(releaser._close(first))
        await asyncio.sleep(0)
        closing.cancel()
        second = await releaser._reader(segment, prefetch=MESSAGES)
        await _received(second, MESSAGES)
        got = [stamp.seq for _, header, _ in second.flow(0).pending if (stamp := read_stamp(header)) is not None]
        assert got == list(range(MESSAGES)), f"round {round_}"
        await releaser._close(second)
        await topology.delete(segment)
    await connection.close()
    await topology.close()


def _fill(outlet: Channel, segment: str) -> None:
    frame, stamper = publish_frame(outlet.number, "", segment), Stamper(0, 1)
    for seq in range(MESSAGES):
        outlet.publish(frame, stamper.stamp(plain_header(0), seq, b"\x00\x00"), b"")


async def _received(reader: SegmentReader, count: int) -> None:
    await eventually(lambda: reader.flow(0).received == count, f"the reader does not get {count} messages", every=0.001)
