"""Dead messages that are long on their way are waited for; those that somebody else has taken are not."""

import asyncio

import pytest

from partymq.amqp.frames import body_frames, plain_header
from partymq.amqp.topology import Silence
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.errors import BrokerError
from partymq.router.maintenance import dead_queue
from partymq.router.maintenance.dead_queue import DeadQueue
from support.fake_broker import ADDRESS
from unit.router.doubles import FakeChannel, FakeLink, FakeTopology

NAMES = Names(GroupId(namespace="test", name="g"))
SLOW = 5
"""Times the patience after which the queue is asked."""


class _Late(FakeChannel):
    """A channel whose messages come late, and whose answers stand behind them."""

    def __init__(self, messages: int) -> None:
        super().__init__()
        self._messages = messages
        self._arrived = asyncio.Event()
        asyncio.get_running_loop().call_later(SLOW * dead_queue.QUIET, self._arrive)

    def _arrive(self) -> None:
        for tag in range(1, self._messages + 1):
            self.content.on_delivery(tag, b"\0\0", plain_header(1), body_frames(b"x"))
        self._arrived.set()

    async def inspect(self, queue: str) -> tuple[int, int]:
        await self._arrived.wait()
        return 0, 1


class _Answering(FakeChannel):
    """A channel with an answer to whoever inspects a queue."""

    def __init__(self, answer: tuple[int, int]) -> None:
        super().__init__()
        self._answer = answer

    async def inspect(self, queue: str) -> tuple[int, int]:
        return self._answer


class _Link(FakeLink):
    """A connection with one channel."""

    def __init__(self, channel: FakeChannel) -> None:
        super().__init__()
        self._only = channel

    async def channel(self) -> FakeChannel:
        return self._only


@pytest.mark.parametrize("taken", [0, 2])
async def test_what_is_on_its_way_counts_as_there(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr(dead_queue, "QUIET", 0.01)
    queue = DeadQueue(
        link=FakeLink(),
        topology=FakeTopology(),
        channel=_Late(5 - taken),
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
    monkeypatch.setattr(dead_queue, "QUIET", 0.01)
    link, topology = _Link(_Answering(answer)), FakeTopology()
    topology.states[NAMES.dead] = Silence.ZERO
    if empty:
        assert await dead_queue._depth(link, topology, NAMES.dead) == 0
    else:
        with pytest.raises(BrokerError, match="does not answer"):
            await dead_queue._depth(link, topology, NAMES.dead)
