"""Arrivals enter a backlog when all that was sent before is confirmed; one that is refused stops no other."""

import asyncio

import pytest

from partymq.amqp.topology import QueueState
from partymq.core.ledger import empty, list_backlogs
from partymq.core.report import Notice
from partymq.errors import LimitReachedError
from partymq.router.broker.queue_troubles import Troubles
from partymq.router.flow import backlogs
from partymq.router.flow.backlogs import Backlogs
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Mode
from support.conditions import eventually
from unit.router.doubles import FakeJournal, FakePublisher, FakeTopology, FakeWay, context


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Publisher(FakePublisher):
    """Says when all is confirmed."""

    def __init__(self, way: FakeWay) -> None:
        super().__init__(way)
        self.confirms: list[asyncio.Future[None]] = []

    async def confirmed(self) -> None:
        self.confirms.append(asyncio.get_running_loop().create_future())
        await self.confirms[-1]


async def test_a_lane_that_was_direct_meanwhile_waits_for_the_confirms_of_that() -> None:
    backlog = FakeWay()
    publisher = Publisher(backlog)
    confirms, appended = publisher.confirms, backlog.tags
    table = LaneTable(1)
    opened = Backlogs(context(publisher=publisher), table)
    running = asyncio.create_task(opened.run())
    lane = table.lanes[0]
    lane.park(1, b"", b"")
    await _turns()
    lane.stop(Mode.DIRECT)
    lane.drop_parked()  # all of it is sent to the owner's inbox, which is full then
    lane.stop(Mode.WAITING)
    lane.park(2, b"", b"")
    confirms[0].set_result(None)
    await _turns()
    assert appended == [], "what was sent to the inbox is not confirmed"
    confirms[1].set_result(None)
    await _turns()
    assert appended == [2]
    running.cancel()
    await asyncio.wait({running})


class Stage:
    """Backlogs of two partitions, of which the broker refuses some."""

    def __init__(self, *, listed: bool = False) -> None:
        self.topology = FakeTopology()
        self.declared = self.topology.declared
        self.found = 0
        self.notices: list[Notice] = []
        self.troubles = Troubles(on_notice=self.notices.append, on_change=lambda: None)
        backlog = FakeWay()
        self.appended = backlog.tags
        ledger = list_backlogs(empty(2), [0]) if listed else empty(2)
        self.table = LaneTable(1)
        self.table.releasable.connect(self._on_found)
        self.backlogs = Backlogs(
            context(
                topology=self.topology,
                journal=FakeJournal(ledger),
                publisher=FakePublisher(backlog),
                troubles=self.troubles,
            ),
            self.table,
        )

    def refuse(self, queue: str) -> None:
        self.topology.refused[queue] = LimitReachedError("queue limit in vhost '/' (9) is reached")

    def _on_found(self) -> None:
        self.found += 1


async def test_one_that_is_refused_keeps_only_its_own_arrivals_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "FIRST", 0.01)
    stage = Stage()
    stage.refuse("partymq.shop.orders.backlog.0")
    running = asyncio.create_task(stage.backlogs.run())
    waits, goes = (stage.table.lanes[p] for p in range(2))
    waits.park(1, b"", b"")
    goes.park(2, b"", b"")
    await eventually(lambda: stage.appended == [2], "the other one waits, too", every=0)
    await eventually(lambda: stage.declared.count("partymq.shop.orders.backlog.0") > 3, "not tried again", every=0)
    (notice,) = stage.notices
    assert (notice.warning, notice.reason) == (True, "BrokerLimit")
    assert "partition 0" in notice.message
    assert "queue limit" in notice.message
    waits.park(3, b"", b"")
    stage.topology.refused.clear()
    await eventually(lambda: stage.appended == [2, 1, 3], "it is not opened once there is room", every=0)
    assert not stage.troubles.statistics
    running.cancel()
    await asyncio.wait({running})


async def test_one_that_nothing_needs_any_more_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "FIRST", 0.01)
    stage = Stage()
    stage.refuse("partymq.shop.orders.backlog.0")
    running = asyncio.create_task(stage.backlogs.run())
    lane = stage.table.lanes[0]
    lane.park(1, b"", b"")
    await eventually(lambda: bool(stage.troubles.statistics), "nothing is told", every=0)
    lane.stop(Mode.DIRECT)  # its owner has room again
    lane.drop_parked()
    await eventually(lambda: not stage.troubles.statistics, "it is still told", every=0)
    assert not stage.appended
    running.cancel()
    await asyncio.wait({running})


async def test_one_that_may_hold_messages_is_not_taken_for_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "FIRST", 0.01)
    stage = Stage(listed=True)
    stage.topology.states["partymq.shop.orders.backlog.0"] = QueueState(7, 0)
    stage.refuse("partymq.shop.orders.backlog.0")
    await stage.backlogs.declare([0])
    assert stage.backlogs.may_hold(0)
    assert not stage.backlogs.usable(0)
    assert stage.backlogs.usable(1)
    stage.topology.refused.clear()
    running = asyncio.create_task(stage.backlogs.run())
    await eventually(lambda: stage.found == 1, "it is not found", every=0)
    assert stage.backlogs.usable(0)
    assert stage.backlogs.entered == 7
    running.cancel()
    await asyncio.wait({running})
