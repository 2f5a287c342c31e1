"""What leaves a reader of a queue, in which order: acknowledgements in few commands, and nothing behind a fence."""

import asyncio
from collections.abc import Callable

from partymq.amqp.replies import settle
from partymq.router.broker import fences
from partymq.router.broker.fences import Fences
from support.conditions import eventually
from unit.router.doubles import FakeChannel, FakeLink


class Stage:
    def __init__(self) -> None:
        self.link = FakeLink()
        self.channel = FakeChannel(self.link)
        self.fences = Fences(link=self.link, channel=self.channel, queue="q", prefetch=5)
        self.proven: list[str] = []

    def acks(self, *tags: int) -> None:
        """One chunk."""
        for tag in tags:
            self.fences.ack(tag)
        self.link.chunk_over()

    def send(self, name: str, *, returns: bool = True) -> None:
        fence = self.fences.send(name, b"", returns=returns)
        fence.proven.append(lambda: self.proven.append(name))


async def test_acknowledgements_without_a_gap_are_one_command() -> None:
    stage = Stage()
    stage.acks(1, 3, 2, 4)
    stage.acks(5)
    assert stage.channel.sent == ["all to 4", "all to 5"]


async def test_those_behind_a_gap_go_one_by_one_and_are_not_named_again() -> None:
    stage = Stage()
    stage.acks(1, 3, 4)
    stage.acks(6, 2)
    stage.acks(5)
    stage.acks(7)
    assert stage.channel.sent == ["all to 1", "3", "4", "all to 2", "6", "all to 5", "all to 7"]


async def test_nothing_is_sent_behind_a_fence_until_it_is_confirmed() -> None:
    stage = Stage()
    stage.fences.ack(1)
    stage.send("a")
    stage.send("b")
    stage.acks(2, 4)
    assert stage.channel.sent == ["all to 1", "fence"]
    stage.channel.take()
    assert stage.channel.sent == ["all to 1", "fence", "all to 2", "4", "fence"]


async def test_everything_is_acknowledged_behind_a_fence_when_that_is_confirmed() -> None:
    stage = Stage()
    stage.acks(1)
    stage.send("a")
    stage.fences.ack_all(5)
    stage.send("b")
    assert stage.channel.sent == ["all to 1", "fence"]
    stage.channel.take()
    stage.channel.take()
    stage.acks(6)
    assert stage.channel.sent == ["all to 1", "fence", "all to 5", "fence", "all to 6"]


async def test_a_fence_proves_when_it_is_confirmed_and_back_in_either_order() -> None:
    stage = Stage()
    stage.send("a")
    assert stage.fences.back("a")
    assert stage.proven == []
    stage.channel.take()
    assert stage.proven == ["a"]
    stage.send("b")
    stage.channel.take()
    assert stage.proven == ["a"]
    assert stage.fences.back("b")
    assert stage.proven == ["a", "b"]
    assert not stage.fences.back("b"), "none that is waited for"


async def test_a_refused_fence_is_sent_again_and_keeps_no_acknowledgement_from_making_room() -> None:
    stage = Stage()
    stage.send("a")
    stage.acks(1)
    stage.channel.refuse()
    assert stage.channel.sent == ["fence", "all to 1"]
    await eventually(lambda: len(stage.channel.published) == 2, "it is not sent again", every=fences.REFUSED_FOR / 5)
    stage.channel.take()
    stage.fences.back("a")
    assert stage.proven == ["a"]


async def test_who_leaves_does_not_wait_for_a_queue_that_refuses() -> None:
    stage = Stage()
    stage.send("last", returns=False)
    await asyncio.sleep(0)
    stage.channel.refuse()
    assert stage.proven == ["last"]


async def _left(stage: Stage, how: Callable[[], None]) -> None:
    """Somebody waits until nothing is on its way, while a fence is out and another one waits."""
    stage.send("a")
    stage.send("b")
    stage.fences.stop()
    waiting = asyncio.create_task(stage.fences.confirmed())
    await asyncio.sleep(0)
    assert not waiting.done()
    how()
    await waiting
    assert stage.channel.sent == ["fence"]


async def test_who_leaves_waits_until_no_fence_is_on_its_way() -> None:
    confirmed, refused, closed = Stage(), Stage(), Stage()
    await _left(confirmed, confirmed.channel.take)
    await _left(refused, refused.channel.refuse)
    await _left(closed, lambda: settle(closed.channel.closed, None))


async def test_where_no_fence_is_out_nobody_waits() -> None:
    stage = Stage()
    stage.fences.stop()
    await stage.fences.confirmed()
