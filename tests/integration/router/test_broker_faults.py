"""The broker closes connections, dies, restarts, or takes no messages; routing goes on by itself."""

import functools
from pathlib import Path

from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.own_broker import OwnBroker
from support.processes import Client
from support.routers import ROUTER


async def _routes_again(g: Group, epoch: int) -> None:
    await eventually(lambda: g.report.routing and g.report.epoch > epoch, lambda: f"no new session: {g.report}", 60.0)
    g.spool.note(ROUTER, Kind.ROUTER_UP)


async def _listed(broker: OwnBroker, title: str) -> bool:
    return title in await broker.connections()


async def _produce(g: Group, name: str) -> Client:
    return await (await g.clients.producer(g.source, name=name, rate=400, keys=100)).started()


async def test_the_connections_of_the_router_are_closed(tmp_path: Path, broker: OwnBroker) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await _produce(g, "p")
        for title in (f"partymq {g.config.group} test", f"partymq {g.config.group} test topology"):
            await g.progress(200)
            epoch = g.report.epoch
            await eventually(functools.partial(_listed, broker, title), f"no connection {title!r}", 30.0)
            connection = (await broker.connections())[title]
            g.spool.note(ROUTER, Kind.ROUTER_DOWN)
            await broker.close(connection)
            await _routes_again(g, epoch)
        await g.progress(200)
        await g.audited(producer)


async def test_the_broker_is_killed_and_restarted(tmp_path: Path, broker: OwnBroker) -> None:
    async with group(tmp_path, inbox_window=32) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.02)  # slow: backlogs must survive, too
        await g.owners("a", "b")
        for name in ("p", "q"):
            producer = await _produce(g, name)
            await g.progress(300)
            epoch = g.report.epoch
            g.spool.note(ROUTER, Kind.ROUTER_DOWN)
            if name == "p":
                await broker.kill()
            else:
                await broker.down()
            await producer.over()  # what it had sent is confirmed or not; nothing is asked of the rest
            await eventually(lambda: not g.report.broker_connected.ok, "nobody says that the broker is away")
            await broker.up()
            await _routes_again(g, epoch)
            for pod in ("a", "b"):
                await g.restart(pod, work=0.001)
        producer = await _produce(g, "r")
        await g.progress(300)
        await g.audited(producer)


async def test_a_memory_alarm_is_waited_for(tmp_path: Path, broker: OwnBroker) -> None:
    async with group(tmp_path, inbox_window=32) as g:
        await g.route()
        await g.join("a", work=0.005)
        await g.join("b", work=0.01)
        await g.owners("a", "b")
        producer = await _produce(g, "p")
        # So that the router has something to publish: the broker blocks nobody who does not.
        await eventually(lambda: g.report.backlog > 200, "there is no backlog", 30.0)
        epoch = g.report.epoch
        await broker.memory_alarm(on=True)
        try:
            await eventually(lambda: g.report.ready.reason == "BrokerBlocked", lambda: f"{g.report.ready}", 30.0)
            assert g.report.broker_connected.ok
        finally:
            await broker.memory_alarm(on=False)
        await g.progress(400)
        verdict = await g.audited(producer)
        assert g.report.epoch == epoch, "a session has ended, although nothing was lost"
        assert verdict.excused_by_router == 0
