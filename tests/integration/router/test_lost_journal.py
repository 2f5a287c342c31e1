"""The journal is deleted: what the inboxes, transfers and backlogs hold is put in order again, and nothing is lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest
from aiohttp import web

from support.broker import amqp_url
from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.routers import ROUTER

NOWHERE = "http://127.0.0.1:9"


async def _delete_journal(g: Group) -> None:
    g.spool.note(ROUTER, Kind.ROUTER_DOWN)
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        await channel.queue_delete(g.names.journal)


async def _rebuilt(g: Group) -> None:
    await g.notice("JournalRebuilt", deadline=60.0)
    await eventually(lambda: g.report.routing, lambda: f"{g.report}", 30.0)
    g.spool.note(ROUTER, Kind.ROUTER_UP)


@asynccontextmanager
async def _another_brokers() -> AsyncIterator[str]:
    """The management API of a broker that has no queues."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        listing = request.path.endswith(("/queues/%2F", "/queues//"))
        return web.json_response([]) if listing else web.json_response({"error": "Object Not Found"}, status=404)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _at(url: str) -> AsyncIterator[str]:
    yield url


@pytest.mark.parametrize(
    "api", [lambda: _at(""), lambda: _at(NOWHERE), _another_brokers], ids=["listed", "probed", "another-brokers"]
)
async def test_the_journal_is_deleted_under_a_router(
    api: Callable[[], AbstractAsyncContextManager[str]], tmp_path: Path
) -> None:
    async with api() as management, group(tmp_path, inbox_window=16) as g:
        if management:
            g.config = replace(g.config, broker=replace(g.config.broker, management_uri=management))
        await g.route()
        await g.join("a", prefetch=10, work=0.002)
        await g.join("b", prefetch=10, work=0.02)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await eventually(lambda: g.report.backlog > 50, "the slow member gets no backlog", 30.0)
        before, seen = {m.name: m.partitions for m in g.report.members}, len(g.notices)
        epoch = g.report.epoch
        await _delete_journal(g)
        await _rebuilt(g)
        assert {m.name: m.partitions for m in g.report.members} == before, "owners are as before"
        assert g.report.epoch > epoch
        await g.join("c", prefetch=10, work=0.001)
        await g.notice("HandoffCommitted", "from b", after=seen)
        await g.progress(300)
        await g.audited(producer)


async def test_the_journal_is_deleted_while_nobody_routes(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=16) as g:
        await g.spawn()
        await g.join("a", prefetch=10, work=0.01)
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(200)
        await g.join("b", prefetch=10, work=0.01)
        await g.notice("HandoffCommitted", "from a")  # its transfer may still be full
        await g.kill()
        await _delete_journal(g)
        # As a new operator: it has the status, which is a little old.
        members = {"a": tuple(range(16)), "gone": ()}
        g.config = replace(g.config, known_epoch=1, known_members=members)
        await g.spawn()
        await _rebuilt(g)
        await g.progress(300)
        await g.audited(producer)


async def test_without_any_knowledge_somebody_has_to_look(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        broker = replace(g.config.broker, management_uri=NOWHERE)
        g.config = replace(g.config, broker=broker, known_epoch=5)
        await g.route()
        await eventually(lambda: g.ready == "JournalLost", lambda: f"{g.reports[-1:]}", 30.0)
        assert "inboxes" in g.report.ready.message
