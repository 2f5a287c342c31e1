"""Arrivals enter a backlog only when everything that was sent to the old destination is confirmed."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from partymq.core.ledger import empty
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.router.backlogs import Backlogs
from partymq.router.lanes import Lane, Mode


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

    backlogs = Backlogs(
        topology=cast(Any, SimpleNamespace(declare_quorum=nothing, purge=nothing)),
        names=Names(GroupId(namespace="shop", name="orders")),
        journal=cast(Any, SimpleNamespace(ledger=empty(1), write=nothing)),
        publisher=cast(Any, SimpleNamespace(confirmed=confirmed, sink=sink)),
        on_open=lambda _: None,
    )
    running = asyncio.create_task(backlogs.run())
    lane = Lane(0, 1, backlogs.request)
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
