"""The router is killed where it leaves the most behind; another one goes on."""

from pathlib import Path

import pytest

from partymq.core.membership import PodState
from partymq.router.points import Point
from support.conditions import eventually
from support.group import group


@pytest.mark.parametrize("point", list(Point))
async def test_killed_at(point: Point, tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.spawn(kill_at=point)
        await g.join("a", prefetch=10, work=0.004)  # slower than they come: there is always something to copy
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await eventually(
            lambda: any(m.ready > 50 for m in g.report.members), lambda: f"nothing waits: {g.report}", 60.0
        )
        await g.join("b", prefetch=10, work=0.002)  # a handoff, and then releases
        await g.died(deadline=60.0)
        await g.again()
        await g.progress(300, deadline=60.0)
        g.set_pod("a", PodState.TERMINATING)
        await g.progress(200, deadline=60.0)
        await g.audited(producer)
