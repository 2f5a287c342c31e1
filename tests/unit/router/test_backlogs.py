"""Arrivals enter a backlog when all that was sent before is confirmed; one that is refused stops no other."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from partymq.amqp.lostnodes import LostNodes
from partymq.amqp.topology import QueueState
from partymq.core.ledger import empty, list_backlogs
from partymq.core.names import Names
from partymq.core.report import Notice
from partymq.core.spec import BrokerAddress, GroupId
from partymq.errors import LimitReachedError
from partymq.router import backlogs
from partymq.router.backlogs import Backlogs
from partymq.router.lanes import Lane, Mode
from partymq.router.outlet import UNLIMITED
from partymq.router.troubles import Troubles
from support.conditions import eventually


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lane_that_was_direct_meanwhile_waits_for_the_confirms_of_that() -> None:
    confirms: list[asyncio.Future[None]] = []
    appended: list[int] = []

    async def confirmed() -> None:
        confirms.append(asyncio.get_running_loop().create_future())
        await confirms[-1]

    async def nothing(*_: object, **__: object) -> None:
        """The broker and the journal answer at once."""

    def sink(_: str) -> SimpleNamespace:
        return SimpleNamespace(left=100, arrival=lambda _header, _body, tag: appended.append(tag))

    opened = Backlogs(
        topology=cast(Any, SimpleNamespace(declare_quorum=nothing, purge=nothing)),
        names=Names(GroupId(namespace="shop", name="orders")),
        journal=cast(Any, SimpleNamespace(ledger=empty(1), write=nothing)),
        publisher=cast(Any, SimpleNamespace(confirmed=confirmed, sink=sink)),
        troubles=Troubles(on_notice=lambda _: None, on_change=lambda: None),
        on_open=lambda _: None,
        on_found=lambda: None,
    )
    running = asyncio.create_task(opened.run())
    lane = Lane(0, 1, opened.request)
    lane.park(1, b"", b"")
    await _turns()
    lane.stop(Mode.DIRECT)
    lane.parked.clear()  # all of it is sent to the owner's inbox, which is full then
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


async def _nothing(*_: object, **__: object) -> None:
    """The broker and the journal answer at once."""


class Stage:
    """Backlogs of two partitions, of which the broker refuses some."""

    def __init__(self, *, listed: bool = False) -> None:
        self.refused: set[str] = set()
        self.declared: list[str] = []
        self.appended: list[int] = []
        self.found = 0
        self.notices: list[Notice] = []
        self.troubles = Troubles(on_notice=self.notices.append, on_change=lambda: None)
        ledger = empty(2)
        self.backlogs = Backlogs(
            topology=cast(
                Any,
                SimpleNamespace(
                    declare_quorum=self._declare,
                    purge=_nothing,
                    poll=self._poll,
                    lost_nodes=LostNodes(BrokerAddress(host="localhost")),
                ),
            ),
            names=Names(GroupId(namespace="shop", name="orders")),
            journal=cast(Any, SimpleNamespace(ledger=list_backlogs(ledger, [0]) if listed else ledger, write=_nothing)),
            publisher=cast(Any, SimpleNamespace(confirmed=_nothing, sink=self._sink, mark=_nothing)),
            troubles=self.troubles,
            on_open=lambda _: None,
            on_found=self._on_found,
        )

    async def _declare(self, queue: str) -> None:
        self.declared.append(queue)
        if queue in self.refused:
            raise LimitReachedError("queue limit in vhost '/' (9) is reached")

    async def _poll(self, _: str) -> QueueState:
        return QueueState(7, 0)

    def _sink(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(left=UNLIMITED, arrival=lambda _header, _body, tag: self.appended.append(tag))

    def _on_found(self) -> None:
        self.found += 1


async def test_one_that_is_refused_keeps_only_its_own_arrivals_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "FIRST", 0.01)
    stage = Stage()
    stage.refused.add("partymq.shop.orders.backlog.0")
    running = asyncio.create_task(stage.backlogs.run())
    waits, goes = (Lane(p, 1, stage.backlogs.request) for p in range(2))
    waits.park(1, b"", b"")
    goes.park(2, b"", b"")
    await eventually(lambda: stage.appended == [2], "the other one waits, too", every=0)
    await eventually(lambda: stage.declared.count("partymq.shop.orders.backlog.0") > 3, "not tried again", every=0)
    (notice,) = stage.notices
    assert (notice.warning, notice.reason) == (True, "BrokerLimit")
    assert "partition 0" in notice.message
    assert "queue limit" in notice.message
    waits.park(3, b"", b"")
    stage.refused.clear()
    await eventually(lambda: stage.appended == [2, 1, 3], "it is not opened once there is room", every=0)
    assert not stage.troubles.now
    running.cancel()
    await asyncio.wait({running})


async def test_one_that_nothing_needs_any_more_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "FIRST", 0.01)
    stage = Stage()
    stage.refused.add("partymq.shop.orders.backlog.0")
    running = asyncio.create_task(stage.backlogs.run())
    lane = Lane(0, 1, stage.backlogs.request)
    lane.park(1, b"", b"")
    await eventually(lambda: bool(stage.troubles.now), "nothing is told", every=0)
    lane.stop(Mode.DIRECT)  # its owner has room again
    lane.parked.clear()
    await eventually(lambda: not stage.troubles.now, "it is still told", every=0)
    assert not stage.appended
    running.cancel()
    await asyncio.wait({running})


async def test_one_that_may_hold_messages_is_not_taken_for_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "FIRST", 0.01)
    stage = Stage(listed=True)
    stage.refused.add("partymq.shop.orders.backlog.0")
    await stage.backlogs.declare([0])
    assert stage.backlogs.may_hold(0)
    assert not stage.backlogs.usable(0)
    assert stage.backlogs.usable(1)
    stage.refused.clear()
    running = asyncio.create_task(stage.backlogs.run())
    await eventually(lambda: stage.found == 1, "it is not found", every=0)
    assert stage.backlogs.usable(0)
    assert stage.backlogs.entered == 7
    running.cancel()
    await asyncio.wait({running})
