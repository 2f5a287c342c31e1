"""An overdue handoff is told once, and its donor's connection is asked for again and again, at intervals."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import pytest

from partymq.core.consumers import OUR_TAG, Consumer
from partymq.core.ledger import Handoff, empty
from partymq.core.names import Names
from partymq.core.report import Notice
from partymq.core.spec import BrokerAddress, GroupSpec, OnTimeout
from partymq.errors import ConnectionLostError
from partymq.router.broker.takeover import Takeover
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.rebalance import overdue
from partymq.router.rebalance.listing import Listing
from partymq.router.rebalance.overdue import OverdueHandoffs
from partymq.router.rebalance.progress import Progress
from support.conditions import eventually
from unit.router.doubles import (
    GROUP,
    ZOMBIES,
    FakeChannel,
    FakeJournal,
    FakeLink,
    FakeTopology,
    context,
    make_handoffs,
    quiet_listener,
)

STUCK = Consumer(connection="10.0.0.5:1 -> 10.0.0.1:5672", client="10.0.0.5:1", tag="t", active=True, acknowledges=True)
WAITING = Consumer(
    connection="10.0.0.5:2 -> 10.0.0.1:5672", client="10.0.0.5:2", tag="u", active=False, acknowledges=True
)
OURS = Consumer(connection="router", client="10.0.0.9:1", tag=OUR_TAG, active=True, acknowledges=True)


class _Management:
    """The API, as the test has it."""

    listed: list[Consumer]
    session: str
    failure: Exception | None
    asked: list[float]
    running: dict[str, bool]
    closed: list[tuple[str, str]]

    def __init__(self, _address: BrokerAddress) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def consumers(self, queue: str) -> list[Consumer]:
        if queue == Names(GROUP).journal:
            return [replace(OURS, session=self.session)]
        self.asked.append(time.monotonic())
        if self.failure is not None:
            raise self.failure
        return self.listed

    async def all_consumers(self) -> dict[str, tuple[Consumer, ...]]:
        return {Names(GROUP).inbox("pod-1"): tuple(await self.consumers(Names(GROUP).inbox("pod-1")))}

    async def members(self, _queue: str) -> dict[str, bool]:
        return self.running

    async def close_connection(self, name: str, *, reason: str) -> bool:
        self.closed.append((name, reason))
        return True


@pytest.fixture(autouse=True)
def management(monkeypatch: pytest.MonkeyPatch) -> type[_Management]:
    _Management.listed, _Management.failure = [OURS, STUCK, WAITING], None
    _Management.running = {"rabbit@n1": True, "rabbit@n2": True}
    _Management.asked, _Management.closed, _Management.session = [], [], "s"
    monkeypatch.setattr(overdue, "Management", _Management)
    monkeypatch.setattr(overdue, "AGAIN_AFTER", 0.1)
    return _Management


class Scene:
    """One donor's handoff under way, and what is told of it."""

    def __init__(
        self,
        on_timeout: OnTimeout,
        timeout: float,
        remembered: tuple[Consumer, ...],
        since: float,
        *,
        makes_zombies: bool,
    ) -> None:
        self.told: list[Notice] = []
        spec = GroupSpec(source_queue="orders", handoff_timeout=timeout, on_timeout=on_timeout)
        handoff = Handoff(id="4.1", donor="pod-1", targets={0: "b", 1: "b", 2: "b", 7: None})
        link, table = FakeLink(), LaneTable(1)
        if makes_zombies:
            link.connection.server_version = ZOMBIES
        parts = context(
            spec=spec,
            link=link,
            journal=FakeJournal(replace(empty(8), handoffs={"4.1": handoff})),
            listener=replace(quiet_listener(), notice=self.told.append),
        )
        handoffs = make_handoffs(parts, table, Inboxes(parts, table), Listing(parts.journal, clients=False))
        self.takeover = Takeover(link=link, topology=FakeTopology(), channel=FakeChannel(link), inbox="inbox", epoch=1)
        self.progress = Progress("4.1", "pod-1", since)
        self.progress.takeover = self.takeover
        self.running = handoffs.running
        self.running["pod-1"] = self.progress
        self.overdue = OverdueHandoffs(
            parts,
            handoffs=handoffs,
            remembered=lambda _: remembered,
        )

    def reasons(self) -> list[str]:
        return [notice.reason for notice in self.told]


@asynccontextmanager
async def scene(
    on_timeout: OnTimeout = OnTimeout.CLOSE_CONNECTION,
    after: float = 0.05,
    remembered: tuple[Consumer, ...] = (),
    since: float = 0.0,
    *,
    makes_zombies: bool = False,
) -> AsyncIterator[Scene]:
    made = Scene(on_timeout, after, remembered, since, makes_zombies=makes_zombies)
    task = asyncio.create_task(made.overdue.run())
    yield made
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_who_waits_is_told_once_with_pod_partitions_and_age() -> None:
    async with scene(OnTimeout.WAIT) as s:
        await eventually(lambda: len(s.overdue.sentences) == 1, "not overdue")
        (first,) = s.overdue.sentences
        for word in ("partitions 0-2,7", "pod pod-1", "for 0 s", "the donor's consumer to acknowledge"):
            assert word in first
        s.progress.begun -= 90
        await eventually(lambda: "for 90 s" in s.overdue.sentences[0], "the age does not grow")
        assert s.reasons() == ["HandoffOverdue"]
        assert not _Management.asked


async def test_only_the_connection_that_holds_messages_is_closed() -> None:
    async with scene() as s:
        await eventually(lambda: bool(_Management.closed), "nothing is closed")
        name, reason = _Management.closed[0]
        assert name == STUCK.connection
        assert "shop/orders" in reason
        assert "partitions 0-2,7" in reason
        await eventually(lambda: len(_Management.closed) >= 3, "it is not tried again")
        assert {name for name, _ in _Management.closed} == {STUCK.connection}
        assert s.reasons() == ["HandoffOverdue", "ConnectionClosed"]
        waits = [b - a for a, b in zip(_Management.asked, _Management.asked[1:], strict=False)]
        assert min(waits) >= 0.04, "a storm"


async def test_nothing_is_closed_on_a_broker_that_does_not_show_our_own_consumer() -> None:
    _Management.session = "another"
    async with scene() as s:
        await eventually(lambda: "CloseConnectionFailed" in s.reasons(), "not told")
        assert "another broker's" in s.told[-1].message
        assert not _Management.closed


async def test_nothing_is_closed_once_the_donor_holds_nothing() -> None:
    async with scene() as s:
        s.takeover.proven = True
        await eventually(lambda: s.reasons() == ["HandoffOverdue"], "not told")
        s.running.clear()
        await eventually(lambda: not s.overdue.sentences, "still overdue")
        assert not _Management.closed


async def test_an_inbox_without_a_member_is_no_donors_fault() -> None:
    """RabbitMQ gives a takeover nothing whose connection is to a node on which the inbox should have a member."""
    _Management.running["rabbit@n2"] = False
    async with scene() as s:
        await eventually(lambda: s.reasons() == ["HandoffOverdue"], "not told")
        (told,) = s.told
        assert "waiting for its inbox, which has no member on rabbit@n2" in told.message
        assert "`rabbitmq-queues add_member --vhost shop partymq.shop.orders.inbox.pod-1 rabbit@n2`" in told.message
        s.progress.begun -= 90
        await eventually(lambda: "for 90 s" in s.overdue.sentences[0], "it is not looked at again")
        assert not _Management.closed


async def test_a_failure_is_told_once_and_tried_again() -> None:
    _Management.failure = ConnectionLostError("nobody answers")
    async with scene() as s:
        await eventually(lambda: len(_Management.asked) >= 3, "it is not tried again")
        assert s.reasons() == ["HandoffOverdue", "CloseConnectionFailed"]
        assert "nobody answers" in s.told[1].message
        _Management.failure = None
        await eventually(lambda: bool(_Management.closed), "nothing is closed")


async def test_a_defect_ends_no_session() -> None:
    _Management.failure = ValueError("unexpected")
    async with scene() as s:
        await eventually(lambda: len(_Management.asked) >= 2, "it is not tried again")
        assert s.reasons() == ["HandoffOverdue", "CloseConnectionFailed"]


async def test_a_consumer_that_was_cancelled_is_remembered() -> None:
    _Management.listed = [OURS]
    async with scene(remembered=(STUCK,)):
        await eventually(lambda: bool(_Management.closed), "nothing is closed")
        assert _Management.closed[0][0] == STUCK.connection


TAKEOVER = replace(OURS, active=False)


@pytest.mark.parametrize("on_timeout", list(OnTimeout))
async def test_a_consumer_that_is_gone_and_counted_is_named_with_what_helps(on_timeout: OnTimeout) -> None:
    _Management.listed = [TAKEOVER]
    async with scene(on_timeout, makes_zombies=True, since=time.time() - 60) as s:
        s.progress.begun -= 60
        await eventually(lambda: bool(s.told), "nothing is told")
        assert s.reasons() == ["HandoffOverdue"]
        assert "although its client is gone" in s.overdue.sentences[0]
        assert "ra:restart_server" in s.told[0].message
        assert Names(GROUP).inbox("pod-1") in s.told[0].message
        assert not _Management.closed


@pytest.mark.parametrize(
    ("listed", "failure"),
    [
        ([TAKEOVER, STUCK], None),  # somebody holds something
        ([OURS], None),  # our takeover is served: it is on its way
        ([], None),  # even our own is not shown: the list is old
        ([TAKEOVER], ConnectionLostError("away")),
    ],
)
async def test_nobody_is_taken_for_gone_who_may_be_there(listed: list[Consumer], failure: Exception | None) -> None:
    _Management.listed, _Management.failure = listed, failure
    async with scene(OnTimeout.WAIT, makes_zombies=True) as s:
        s.progress.begun -= 60
        await eventually(lambda: len(_Management.asked) > 1, "nobody is asked")
        assert s.reasons() == ["HandoffOverdue"]
        assert "gone" not in s.told[0].message


async def test_nobody_to_close_is_told() -> None:
    _Management.listed = [OURS]
    async with scene() as s:
        await eventually(lambda: len(s.told) == 2, "not told")
        assert "delete pod pod-1" in s.told[1].message


async def test_a_handoff_within_its_time_is_nobodys_business() -> None:
    async with scene(after=600.0) as s:
        for _ in range(20):
            await asyncio.sleep(0)
        assert not s.overdue.sentences
        assert not s.told


async def test_what_another_session_began_is_overdue_when_it_was_due() -> None:
    async with scene(OnTimeout.WAIT, after=100.0, since=time.time() - 101.0) as s:
        await eventually(lambda: s.reasons() == ["HandoffOverdue"], "its time starts anew")
        assert "for 101 s" in s.overdue.sentences[0]
        assert s.progress.since == pytest.approx(time.time() - 101.0, abs=5.0)


async def test_a_clock_that_was_ahead_makes_no_age_negative() -> None:
    ahead = Progress("4.1", "pod-1", since=time.time() + 3600.0)
    assert ahead.since <= time.time()
    assert ahead.begun <= time.monotonic()
