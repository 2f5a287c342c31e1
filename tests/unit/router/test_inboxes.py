"""Credit is given for what an inbox has room for, however old and however fast the polls are."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from partymq.amqp.topology import QueueState
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.router.inboxes import Inboxes
from partymq.router.lanes import Member
from partymq.router.publisher import Sink

WINDOW = 256


class Stage:
    """One member's inbox; `during` happens between a poll and its answer."""

    def __init__(self) -> None:
        self.ready = 0
        self.during: Callable[[], None] = lambda: None
        self.outlet = SimpleNamespace(publish=self._publish)
        self.inboxes = Inboxes(
            topology=cast(Any, SimpleNamespace(declare_quorum=_done)),
            names=Names(GroupId(namespace="shop", name="orders")),
            publisher=cast(Any, SimpleNamespace(sink=lambda _queue, *, left: Sink(cast(Any, self.outlet), b"", left))),
            window=WINDOW,
            pace=cast(Any, SimpleNamespace(calm=False, poll=self._poll, stir=lambda: None, on_look=lambda _: None)),
            on_polled=lambda _member: None,
        )

    def _publish(self, sink: Sink, *_: object) -> None:
        sink.unconfirmed += 1

    async def _poll(self, _queue: str) -> QueueState:
        answer = QueueState(self.ready, 1)
        self.during()
        return answer

    async def member(self) -> Member:
        await self.inboxes.ensure(["a"])
        return self.inboxes.members["a"]


async def _done(*_: object, **__: object) -> None:
    """Nothing to do."""


def _publish(member: Member, messages: int) -> None:
    for _ in range(messages):
        member.sink.publish(b"", b"")


async def test_a_poll_that_overtakes_publishes_gives_no_credit_for_them() -> None:
    """The broker is busy: what was published has not reached the inbox."""
    stage = Stage()
    member = await stage.member()
    _publish(member, 100)
    await stage.inboxes._poll(member)
    assert member.sink.left == WINDOW - 100
    stage.ready, member.sink.unconfirmed = 100, 0
    await stage.inboxes._poll(member)
    assert member.sink.left == WINDOW - 100


async def test_nor_does_one_that_publishes_overtake() -> None:
    stage = Stage()
    member = await stage.member()
    _publish(member, 10)
    stage.during = lambda: _publish(member, 20)
    await stage.inboxes._poll(member)
    assert member.sink.left == WINDOW - 30


async def test_what_is_on_its_way_fills_no_inbox() -> None:
    """Its partitions do not wait in backlogs for that: the next confirm shows that there is room."""
    stage = Stage()
    member = await stage.member()
    _publish(member, WINDOW)
    await stage.inboxes._poll(member)
    assert not member.takes
    assert not member.full
    stage.ready, member.sink.unconfirmed = WINDOW, 0
    await stage.inboxes._poll(member)
    assert member.full


async def test_a_poll_is_due_when_half_of_what_the_last_one_gave_is_used() -> None:
    stage = Stage()
    member = await stage.member()
    stage.ready = WINDOW - 40
    await stage.inboxes._poll(member)
    _publish(member, 20)
    stage.inboxes.look()
    assert not stage.inboxes._wanted
    _publish(member, 1)
    stage.inboxes.look()
    assert stage.inboxes._wanted == {"a"}
