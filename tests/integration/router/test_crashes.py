"""The router is killed where it leaves the most behind; another one goes on."""

from pathlib import Path

import pytest

from partymq.amqp.topology import Topology
from partymq.core.membership import PodState
from partymq.router.failpoints import OF_CLIENTS, Point
from support.broker import QUORUM
from support.conditions import eventually
from support.group import address, group

STOPS = frozenset({Point.CANCELLED})
"""Points that no handoff passes."""


@pytest.mark.parametrize("point", [point for point in Point if point not in STOPS | OF_CLIENTS])
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


async def test_killed_when_it_has_cancelled_a_quorum_source(tmp_path: Path) -> None:
    """What is on its way then comes before what the router holds, should there be anything of either.

    Many keys, so that two messages of one hardly ever come in the round trip that docs/guarantees.md excludes.
    """
    async with group(tmp_path, source_arguments=QUORUM) as g:
        await g.spawn()
        await g.join("a", prefetch=100)
        await g.join("b", prefetch=100)
        producer = await (await g.clients.producer(g.source, rate=4000, keys=500)).started()
        for _ in range(8):
            await g.progress(500)
            g.router.kill_at(Point.CANCELLED)
            await g.router.stop()
            await g.again()
        await g.progress(500)
        await g.audited(producer)


async def test_killed_before_it_has_deleted_the_inbox_of_a_pod_that_is_gone(tmp_path: Path) -> None:
    """The next one knows of it, although the pod is nobody's member any more."""
    async with group(tmp_path) as g:
        await g.spawn()
        await g.join("a")
        await g.join("b")
        await g.owners("a", "b")
        g.router.kill_at(Point.COMMITTED)
        await g.client_of("a").stop()
        g.set_pod("a", None)
        await g.died()
        assert await exists(g.names.inbox("a"))
        await g.again()
        await eventually(lambda: g.active() == {"b"} and not g.report.handoffs, lambda: f"{g.report}", 60.0)
        await gone(g.names.inbox("a"))


async def test_killed_before_a_pod_has_joined_that_then_goes(tmp_path: Path) -> None:
    """Its inbox was declared, and nobody consumed it."""
    async with group(tmp_path) as g:
        await g.spawn()
        await g.join("a")
        await g.owners("a")
        g.set_pod("b")
        await eventually(lambda: exists(g.names.inbox("b")), "it gets no inbox", every=0.1)
        await g.kill()
        g.set_pod("b", None)
        await g.again()
        await gone(g.names.inbox("b"))
        assert g.active() == {"a"}


async def gone(queue: str) -> None:
    async def is_gone() -> bool:
        return not await exists(queue)

    await eventually(is_gone, f"{queue} stays", every=0.1)


async def exists(queue: str) -> bool:
    topology = await Topology.open(address(), name="tests")
    try:
        return await topology.poll(queue) is not None
    finally:
        await topology.close()
