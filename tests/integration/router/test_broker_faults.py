"""The broker closes connections, dies, restarts, or takes no messages; routing goes on by itself."""

import asyncio
from collections.abc import Collection
from pathlib import Path

from partymq.router import journal
from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.own_broker import OwnBroker
from support.processes import Client
from support.routers import ROUTER


async def _routes_again(g: Group, epoch: int) -> None:
    await eventually(lambda: g.report.routing and g.report.epoch > epoch, lambda: f"no new session: {g.report}", 60.0)
    g.spool.note(ROUTER, Kind.ROUTER_UP)


async def _produce(g: Group, name: str) -> Client:
    return await (await g.clients.producer(g.source, name=name, rate=400, keys=100)).started()


async def test_the_connections_of_the_router_are_closed(tmp_path: Path, broker: OwnBroker) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await _produce(g, "p")
        for purpose in ("", " source"):
            await g.progress(200)
            epoch = g.report.epoch
            connection = await _connection(g, broker, purpose)
            g.spool.note(ROUTER, Kind.ROUTER_DOWN)
            await broker.close(connection)
            await _routes_again(g, epoch)
        await g.progress(200)
        await g.audited(producer)


async def test_the_second_connection_is_closed_and_nothing_is_repeated(tmp_path: Path, broker: OwnBroker) -> None:
    """Case: the healthy data connection was given up over it, and 35 to 700 messages came again."""
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await _produce(g, "p")
        epoch = g.report.epoch
        closed: set[str] = set()
        for _ in range(3):
            await g.progress(200)
            connection = await _connection(g, broker, " topology", other_than=closed)
            closed.add(connection)
            await broker.close(connection)
        await g.join("c", work=0.001)
        await g.owners("a", "b", "c")
        await g.progress(200)
        assert g.report.epoch == epoch
        await g.audited(producer)


async def _connection(g: Group, broker: OwnBroker, purpose: str, *, other_than: Collection[str] = ()) -> str:
    """The broker's name of one of the router's connections."""
    title = f"partymq {g.config.group} test{purpose}"

    async def listed() -> bool:
        return (await broker.connections()).get(title, "") not in {"", *other_than}

    await eventually(listed, f"no connection {title!r}", 30.0)
    return (await broker.connections())[title]


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


async def test_a_memory_alarm_from_before_the_router_is_no_second_router(tmp_path: Path, broker: OwnBroker) -> None:
    async with group(tmp_path) as g:
        g.set_pod("a")
        await broker.memory_alarm(on=True)
        try:
            await g.route()
            await eventually(lambda: g.ready == "BrokerBlocked", lambda: f"{g.reports[-1:]}", 30.0)
            assert g.report.broker_connected.ok
            seen = len(g.reports)
            await asyncio.sleep(1.2 * journal.MARK_EVERY)  # long enough for a second router to be supposed
            assert {report.ready.reason for report in g.reports[seen:]} <= {"BrokerBlocked"}
            assert not g.seen("Standby")
        finally:
            await broker.memory_alarm(on=False)
        await g.join("a")
        await g.owners("a")
        assert g.seen("BrokerBlocked")


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
