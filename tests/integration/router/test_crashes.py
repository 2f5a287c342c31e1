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
        await g.join("a", prefetch=10, work=0.002)
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await eventually(lambda: g.spool.counts()[1] > 100, "nothing is routed")
        await g.join("b", prefetch=10, work=0.002)  # a handoff, and then releases
        await g.died()
        await g.again()
        seen = g.spool.counts()[1]
        await eventually(lambda: g.spool.counts()[1] > seen + 300, "nothing is routed after the crash")
        g.set_pod("a", PodState.TERMINATING)
        seen = g.spool.counts()[1]
        await eventually(lambda: g.spool.counts()[1] > seen + 200, "nothing is routed after the second handoff")
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()
