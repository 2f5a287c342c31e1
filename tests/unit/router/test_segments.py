"""Whose fence it is: a segment counts as empty only by a fence of the reader that says so."""

import asyncio
from typing import Any, cast

from partymq.router.segments import SegmentReader


class FakeChannel:
    """A channel that keeps the headers of what is published."""

    number = 9

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.acked: list[int] = []

    def publish(self, _frame: bytes, header: bytes, _body: bytes) -> None:
        self.published.append(header)

    def ack(self, tag: int) -> None:
        self.acked.append(tag)


def _reader(channel: FakeChannel) -> SegmentReader:
    return SegmentReader(queue="backlog", channel=cast(Any, channel), whole=False, on_stray=lambda *_: None)


async def _left(channel: FakeChannel) -> None:
    """A reader whose session ends while its first fence is under way."""
    fence = asyncio.create_task(_reader(channel).fence())
    await asyncio.sleep(0)
    fence.cancel()
    await asyncio.wait({fence})


async def test_an_earlier_session_s_fence_proves_nothing() -> None:
    for _ in range(100):  # one process, one session after the other: the same channel number, at times the same memory
        earlier, channel = FakeChannel(), FakeChannel()
        await _left(earlier)
        reader = _reader(channel)
        fence = asyncio.create_task(reader.fence())
        await asyncio.sleep(0)
        reader._on_delivery(1, b"", earlier.published[0], b"")
        await asyncio.sleep(0)
        assert not fence.done()
        assert channel.acked == [1], "it is in nobody's way"
        reader._on_delivery(2, b"", channel.published[0], b"")
        await fence
        assert channel.acked == [1, 2]
