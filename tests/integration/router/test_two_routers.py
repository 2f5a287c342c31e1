"""Two routers at once: one stands by, one is frozen or cut off and does not know that it has been replaced."""

from dataclasses import replace
from pathlib import Path

from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.proxy import proxy
from support.routers import ROUTER, Router

HEARTBEAT = 90.0
"""Seconds within which the broker gives up on a silent connection, on a loaded machine; usually 20 to 30."""


async def _load(g: Group) -> None:
    await g.join("a", work=0.001)
    await g.join("b", work=0.001)


async def _routes(router: Router, deadline: float = 30.0) -> None:
    await eventually(lambda: router.routing, lambda: f"it does not route: {router.report}", deadline)


async def test_a_router_that_stands_by_takes_over(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        first = await g.spawn()
        await _load(g)
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await g.progress(200)
        second = await g.spawn()
        await eventually(
            lambda: second.report is not None and second.report.ready.reason == "Standby", "it does not stand by", 30.0
        )
        await g.progress(200)
        await first.stop()
        await _routes(second)
        await g.progress(200)
        assert (await g.audited(producer)).excused_by_router == 0

        third = await g.spawn()
        producer = await (await g.clients.producer(g.source, name="q", rate=400, keys=100)).started()
        await g.progress(200)
        await second.kill()
        await _routes(third)
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        await g.progress(200)
        await g.audited(producer)


async def test_a_frozen_router_is_replaced_and_does_no_harm_when_it_wakes(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        frozen = await g.spawn()
        await _load(g)
        producer = await (await g.clients.producer(g.source, rate=200, keys=100)).started()
        await g.progress(200)
        second = await g.spawn()
        frozen.freeze()
        await _routes(second, HEARTBEAT)
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        frozen.thaw()
        await g.join("c", work=0.001)  # a handoff, while the old one finds out
        await eventually(
            lambda: frozen.report is not None and frozen.report.ready.reason == "Standby", "it does not stand by", 60.0
        )
        await g.progress(300)
        await g.audited(producer)


async def test_a_stalled_network_makes_two_routers_and_the_journal_decides(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        broker = g.config.broker
        async with proxy(broker.host, broker.port) as network:
            g.config = replace(g.config, broker=replace(broker, host="127.0.0.1", port=network.port))
            cut_off = await g.spawn()
            g.config = replace(g.config, broker=broker)
            await _load(g)
            producer = await (await g.clients.producer(g.source, rate=200, keys=100)).started()
            await g.progress(200)
            g.spool.note(ROUTER, Kind.ROUTER_DOWN)
            network.stall()
            second = await g.spawn()
            await _routes(second, HEARTBEAT)
            g.spool.note(ROUTER, Kind.ROUTER_UP)
            network.resume()  # what the old one had sent arrives now
            await g.join("c", work=0.001)
            await eventually(
                lambda: cut_off.report is not None and cut_off.report.ready.reason == "Standby",
                lambda: f"it does not stand by: {cut_off.report}",
                60.0,
            )
            await g.progress(300)
            await g.audited(producer)
            await cut_off.stop()


async def test_a_short_stall_ends_no_session(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        broker = g.config.broker
        async with proxy(broker.host, broker.port) as network:
            g.config = replace(g.config, broker=replace(broker, host="127.0.0.1", port=network.port))
            router = await g.spawn()
            g.config = replace(g.config, broker=broker)
            await _load(g)
            producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
            await g.progress(200)
            assert router.report is not None
            epoch, routed = router.report.epoch, g.spool.counts()[0]
            network.stall()
            await eventually(lambda: g.spool.counts()[0] > routed + 1200, "the producer stands still")
            network.resume()
            await g.progress(1000)
            verdict = await g.audited(producer)
            assert router.report.epoch == epoch
            assert verdict.excused_by_router == 0
            await router.stop()
