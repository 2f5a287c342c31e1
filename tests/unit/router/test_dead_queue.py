"""Dead messages that are long on their way are waited for; those that somebody else has taken are not."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.content import DeliveryCallback
from partymq.amqp.frames import body_frames, plain_header
from partymq.amqp.topology import Silence
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.errors import BrokerError
from partymq.router import dead
from partymq.router.dead import DeadQueue
from partymq.router.link import Link
from support.fake_broker import ADDRESS

NAMES = Names(GroupId(namespace="test", name="g"))
SLOW = 5
"""Times the patience after which the queue is asked."""


class _Channel:
    """A channel whose messages come late, and whose answers stand behind them."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._arrived = asyncio.Event()

    async def consume(self, _queue: str, on_delivery: DeliveryCallback, **_options: object) -> None:
        asyncio.get_running_loop().call_later(SLOW * dead.QUIET, self._arrive, on_delivery)

    def _arrive(self, on_delivery: DeliveryCallback) -> None:
        for tag in range(1, self._messages + 1):
            on_delivery(tag, b"\0\0", plain_header(1), body_frames(b"x"))
        self._arrived.set()

    async def inspect(self, _queue: str) -> tuple[int, int]:
        await self._arrived.wait()
        return 0, 1


@pytest.mark.parametrize("taken", [0, 2])
async def test_what_is_on_its_way_counts_as_there(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr(dead, "QUIET", 0.01)
    link: Any = type("_Link", (), {"cancelled": lambda _self, _queue: lambda: None})()
    queue = DeadQueue(
        link=cast(Link, link),
        topology=cast(Any, None),
        channel=cast(Channel, _Channel(5 - taken)),
        address=ADDRESS,
        names=NAMES,
        there=5,
        key_of=lambda _header, _body, _origin: None,
    )
    async with asyncio.timeout(10):
        assert len(await queue.list(None, limit=None)) == 5 - taken


@pytest.mark.parametrize(("answer", "empty"), [((0, 1), True), ((0, 0), False), ((3, 1), False)])
async def test_a_silent_queue_is_empty_only_by_an_answer_that_counts_us(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, int], empty: bool
) -> None:
    monkeypatch.setattr(dead, "QUIET", 0.01)
    channel = SimpleNamespace(
        consume=lambda *_, **__: asyncio.sleep(0),
        inspect=lambda _queue: asyncio.sleep(0, answer),
        close=lambda: asyncio.sleep(0),
    )
    link: Any = SimpleNamespace(channel=lambda: asyncio.sleep(0, channel), cancelled=lambda _queue: None)
    topology: Any = SimpleNamespace(poll=lambda _queue: asyncio.sleep(0, Silence.ZERO))
    if empty:
        assert await dead._depth(link, topology, NAMES.dead) == 0
    else:
        with pytest.raises(BrokerError, match="does not answer"):
            await dead._depth(link, topology, NAMES.dead)
