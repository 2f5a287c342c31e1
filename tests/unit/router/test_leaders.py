"""A queue whose leader does not answer is not consumed over the session's connection, which RabbitMQ would end."""

import asyncio

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.topology import Look, QueueState, Silence
from partymq.errors import BrokerError, ConnectionLostError, LimitReachedError
from partymq.router.broker import leaders
from partymq.router.broker.leaders import await_leader
from partymq.router.broker.takeover import Takeover
from support.conditions import eventually
from unit.router.doubles import FakeChannel, FakeLink, FakeTopology


class Topology(FakeTopology):
    """A queue, and what its leader says when it is asked; it answers once nothing is left of that."""

    def __init__(self, look: Look, *failures: BrokerError) -> None:
        super().__init__()
        self.states["inbox"] = look
        self.failures = list(failures)
        self.asked = 0

    async def answered(self, queue: str) -> None:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)


class Link(FakeLink):
    """Counts its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def channel(self) -> Channel:
        self.opened += 1
        return FakeChannel(self)


async def test_a_queue_that_says_something_is_not_asked() -> None:
    topology = Topology(QueueState(0, 1))
    await await_leader(topology, "inbox")
    await await_leader(topology, "none")
    assert topology.asked == 0


@pytest.mark.parametrize("silence", Silence)
async def test_a_silent_one_is_asked_until_its_leader_answers(
    monkeypatch: pytest.MonkeyPatch, silence: Silence
) -> None:
    monkeypatch.setattr(leaders, "AGAIN", 0.001)
    topology = Topology(silence, ConnectionLostError("541"), ConnectionLostError("541"))
    await await_leader(topology, "inbox")
    assert topology.asked == 3


async def test_where_no_connection_is_left_it_is_not_waited_for() -> None:
    topology = Topology(Silence.LATE, LimitReachedError("no connection is left"))
    await await_leader(topology, "inbox")
    assert topology.asked == 1


async def test_a_takeover_begins_when_the_leader_answers() -> None:
    topology, link = Topology(Silence.LATE, ConnectionLostError("541")), Link()
    attaching = asyncio.create_task(Takeover.attach(link=link, topology=topology, inbox="inbox", epoch=1))
    await eventually(lambda: topology.asked == 1, "its leader is not asked")
    assert not link.opened, "nothing was asked over the session's connection"
    await attaching
    assert (topology.asked, link.opened) == (2, 1)


async def test_a_takeover_does_not_remind_a_queue_without_a_leader() -> None:
    """Zeros in the middle of a takeover: nobody was activated, or the leader's node has just been lost."""
    topology, link = Topology(QueueState(0, 1)), Link()
    takeover = await Takeover.attach(link=link, topology=topology, inbox="inbox", epoch=1)
    topology.states["inbox"] = Silence.LATE
    topology.failures = [ConnectionLostError("541")]
    collecting = asyncio.create_task(takeover.collect())
    await eventually(lambda: topology.asked == 1, "its leader is not asked")
    assert link.opened == 1, "nothing was asked over the session's connection"
    await eventually(lambda: link.opened > 1, "the broker is not reminded once the leader answers")
    collecting.cancel()
    await asyncio.wait({collecting})
