"""Credit is for what an inbox has room for, however old or fast the polls are; and a slow new one stops nobody."""

import asyncio
from collections.abc import Callable

import pytest

from partymq.amqp.frames import Arguments
from partymq.amqp.topology import QueueState
from partymq.core.ledger import empty
from partymq.core.report import Notice
from partymq.core.spec import GroupSpec
from partymq.errors import BrokerError, ConnectionLostError, ForeignQueueError
from partymq.router.broker import retry
from partymq.router.broker.deletions import Deletions
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.queue_troubles import Troubles
from partymq.router.flow import inboxes as module
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Member
from support.conditions import eventually
from unit.router.doubles import FakeJournal, FakeLink, FakeTopology, context, make_member

WINDOW = 256


class _Table(LaneTable):
    """Says who was polled."""

    def __init__(self, told: list[Member]) -> None:
        super().__init__(1)
        self._told = told

    def polled(self, member: Member, *, ready: int, consuming: bool, uncounted: int, now: float, room: int) -> None:
        self._told.append(member)
        super().polled(member, ready=ready, consuming=consuming, uncounted=uncounted, now=now, room=room)


class Broker(FakeTopology):
    """Queues by their members' names; `during` happens between a poll and its answer, `before` before a declaration."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = 0
        self.consumers = 1
        self.before: Callable[[], None] = lambda: None
        self.during: Callable[[], None] = lambda: None
        self.stuck: asyncio.Future[None] | None = None
        """What the declaration of b's inbox waits for."""

    async def _declare(self, name: str, arguments: Arguments) -> None:
        self.before()
        name = name.rpartition(".")[2]
        if self.stuck is not None and name == "b":
            self.declared.append(name)
            await self.stuck
        else:
            await super()._declare(name, arguments)

    async def poll(self, queue: str) -> QueueState:
        answer = QueueState(self.ready, self.consumers)
        self.during()
        return answer


class Stage:
    """One member's inbox."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.polled: list[Member] = []
        self.notices: list[Notice] = []
        self.troubles = Troubles(on_notice=self.notices.append, on_change=lambda: None)
        self.journal = FakeJournal(empty(1))
        self.inboxes = Inboxes(
            context(
                journal=self.journal,
                spec=GroupSpec(source_queue="orders", inbox_window=WINDOW),
                topology=self.broker,
                link=FakeLink(budget=Budget(4 << 30)),
                troubles=self.troubles,
            ),
            _Table(self.polled),
        )

    async def member(self) -> Member:
        await self.inboxes.ensure("a")
        return self.inboxes.members["a"]


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
    stage.broker.ready, member.sink.unconfirmed = 100, 0
    await stage.inboxes._poll(member)
    assert member.sink.left == WINDOW - 100


async def test_nor_does_one_that_publishes_overtake() -> None:
    stage = Stage()
    member = await stage.member()
    _publish(member, 10)
    stage.broker.during = lambda: _publish(member, 20)
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
    stage.broker.ready, member.sink.unconfirmed = WINDOW, 0
    await stage.inboxes._poll(member)
    assert member.full


async def test_a_poll_is_due_when_half_of_what_the_last_one_gave_is_used() -> None:
    stage = Stage()
    member = await stage.member()
    stage.broker.ready = WINDOW - 40
    await stage.inboxes._poll(member)
    _publish(member, 20)
    stage.inboxes.look()
    assert not stage.inboxes._wanted
    _publish(member, 1)
    stage.inboxes.look()
    assert stage.inboxes._wanted == {"a"}


async def test_an_inbox_that_is_slow_to_come_keeps_nobody_waiting_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    stage = Stage()
    stage.broker.stuck = asyncio.get_running_loop().create_future()
    await stage.inboxes.expect(["a", "b"])
    assert stage.inboxes.members.keys() == {"a"}
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    await stage.inboxes.expect(["a", "b", "c"])  # not again for b
    assert stage.inboxes.members.keys() == {"a", "c"}
    assert stage.broker.declared == ["a", "b", "c"]
    stage.broker.stuck.set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await stage.inboxes.expect(["a", "b", "c"])
    assert stage.inboxes.members.keys() == {"a", "b", "c"}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.01)


@pytest.mark.usefixtures("hasty")
async def test_one_that_is_refused_keeps_nobody_waiting_and_joins_once_it_is_mended() -> None:
    stage = Stage()
    stage.broker.refused["b"] = ForeignQueueError("declared by a stranger, delete it")
    await stage.inboxes.expect(["a", "b", "c"])
    assert stage.inboxes.members.keys() == {"a", "c"}
    assert "b cannot join: declared by a stranger" in stage.troubles.of("partymq.shop.orders.inbox.b")
    await eventually(lambda: stage.broker.declared.count("b") > 3, "it is not tried again", every=0)
    assert [notice.reason for notice in stage.notices] == ["ForeignQueue"], "told again and again"
    del stage.broker.refused["b"]
    await eventually(lambda: "b" in stage.inboxes.members, "it does not join", every=0)
    await stage.inboxes.expect(["a", "b", "c"])
    assert not stage.troubles.statistics


@pytest.mark.usefixtures("hasty")
async def test_one_that_is_refused_is_not_tried_for_a_pod_that_has_gone() -> None:
    stage = Stage()
    stage.broker.refused["b"] = BrokerError("541")
    await stage.inboxes.expect(["b"])
    await stage.inboxes.expect([])
    assert not stage.troubles.statistics
    tries = stage.broker.declared.count("b")
    await eventually(stage.inboxes._declaring["b"].task.done, "it is tried again", every=0)
    await stage.inboxes.expect([])
    assert not stage.inboxes._declaring
    assert stage.broker.declared.count("b") <= tries + 1


async def test_the_journal_names_who_an_inbox_is_for_before_it_is_declared_and_until_it_is_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def delete(_: Deletions, queue: str) -> None:
        assert queue == "partymq.shop.orders.inbox.a"

    monkeypatch.setattr(Deletions, "delete", delete)
    stage = Stage()
    named: list[frozenset[str]] = []
    stage.broker.before = lambda: named.append(stage.journal.ledger.visitors)
    await stage.member()
    assert named == [frozenset("a")]
    await stage.inboxes.discard("a")
    assert "a" in stage.journal.ledger.visitors, "somebody consumes it"
    stage.broker.consumers = 0
    await stage.inboxes._poll(stage.inboxes.members["a"])
    await stage.inboxes.discard("a")
    assert not stage.journal.ledger.visitors


@pytest.mark.parametrize(
    ("error", "named"), [(ForeignQueueError("a stranger's"), False), (ConnectionLostError("541"), True)]
)
async def test_nobody_is_named_for_an_inbox_that_the_broker_has_refused(error: BrokerError, named: bool) -> None:
    """The next session would delete what is somebody else's; one over which the connection was lost may be ours."""
    stage = Stage()
    stage.broker.refused["a"] = error
    with pytest.raises(type(error)):
        await stage.inboxes.ensure("a")
    assert ("a" in stage.journal.ledger.visitors) == named


@pytest.mark.usefixtures("hasty")
async def test_one_that_a_ledger_names_is_barred_until_it_is_mended() -> None:
    stage = Stage()
    stage.broker.refused["b"] = BrokerError("541")
    await stage.inboxes.restore(["a", "b"])
    barred = stage.inboxes.members["b"]
    stage.inboxes.wake(barred)
    await stage.inboxes.expect([])  # the pod may be gone: its partitions are not
    assert barred.barred
    assert not barred.takes
    assert [member.name for member in stage.polled] == ["a"]
    assert stage.inboxes.queues == ["partymq.shop.orders.inbox.a"]
    waiting = asyncio.create_task(stage.inboxes.usable(barred))
    await asyncio.sleep(0)
    assert not waiting.done()
    del stage.broker.refused["b"]
    await waiting
    assert barred.takes
    assert not stage.troubles.statistics


async def test_who_asks_for_an_inbox_is_told_why_there_is_none() -> None:
    stage = Stage()
    stage.broker.refused["b"] = ForeignQueueError("a stranger's")
    with pytest.raises(ForeignQueueError, match="stranger"):
        await stage.inboxes.ensure("b")
    assert not stage.inboxes.members


async def test_the_end_of_a_session_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    stage = Stage()
    stage.broker.stuck = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(stage.inboxes.run())
    await stage.inboxes.expect(["b"])
    running.cancel()
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()
    assert stage.broker.stuck.cancelled()


async def test_two_who_ask_at_once_get_one_member() -> None:
    stage = Stage()
    stage.broker.stuck = asyncio.get_running_loop().create_future()
    binding = asyncio.create_task(stage.inboxes.ensure("b"))
    expecting = asyncio.create_task(stage.inboxes.expect(["b"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.broker.stuck.set_result(None)
    await asyncio.wait({binding, expecting})
    assert stage.broker.declared == ["b", "b"]
    assert stage.polled == [stage.inboxes.members["b"]]


def test_an_inbox_that_has_refused_a_message_is_given_one_at_a_time() -> None:
    member = make_member("a", left=0, window=WINDOW)
    member.polled(ready=0, consuming=True, uncounted=0, now=1.0)
    assert member.sink.left == WINDOW
    member.refused(2.0)
    assert not member.takes
    member.polled(ready=5, consuming=True, uncounted=0, now=2.01)
    assert member.full, "it has just refused one"
    member.polled(ready=5, consuming=True, uncounted=0, now=2.2)
    assert (member.was_full, member.full, member.sink.left) == (True, False, 1)
    member.sink.left, member.sink.unconfirmed = 0, 1
    member.polled(ready=5, consuming=True, uncounted=1, now=2.3)
    assert not member.takes, "it has not taken that one yet"
    member.sink.unconfirmed = 0
    member.polled(ready=6, consuming=True, uncounted=0, now=2.4)
    assert member.sink.left == 1
    assert member.credit.window == WINDOW, "what it is given says nothing of its rate"
    pauses = []
    for at in (10.0, 20.0, 30.0, 40.0):
        member.refused(at)
        pauses.append(member.pause)
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
