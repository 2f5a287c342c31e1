"""A fence that a queue refuses is sent again, but not to a queue that is about to be deleted or was left."""

import asyncio

import pytest

from partymq.router.broker import fences as module
from partymq.router.broker.fences import Fences
from unit.router.doubles import FakeChannel, FakeLink


async def _refused(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeChannel, Fences]:
    monkeypatch.setattr(module, "REFUSED_FOR", 0.001)
    link = FakeLink()
    channel = FakeChannel(link)
    fences = Fences(link=link, channel=channel, queue="q", prefetch=1)
    fences.send("one", b"one")
    channel.refuse()
    return channel, fences


async def test_it_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    channel, _ = await _refused(monkeypatch)
    async with asyncio.timeout(5):
        while len(channel.published) < 2:  # noqa: ASYNC110 - a timer of its own
            await asyncio.sleep(0.001)
    assert channel.published == [b"one", b"one"]


async def test_it_is_not_once_nothing_is_to_be_proven_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    channel, fences = await _refused(monkeypatch)
    fences.stop()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, over.set)  # long after it would have been sent
    await over.wait()
    assert channel.published == [b"one"]
