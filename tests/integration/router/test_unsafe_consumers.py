"""Consumers that weaken the promises are named while they are there, and routing goes on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiohttp import web

from partymq.core.membership import PodState
from partymq.router.reporting import consumer_check, consumer_scan
from support.broker import ONE_ACTIVE_CONSUMER, amqp_url
from support.conditions import eventually
from support.group import Group, group


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY", 0.3)


@asynccontextmanager
async def channel(prefetch: int = 10) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(amqp_url()) as connection:
        opened = await connection.channel()
        await opened.set_qos(prefetch_count=prefetch)
        yield opened


async def _acknowledge(message: AbstractIncomingMessage) -> None:
    await message.ack()


async def _ignore(message: AbstractIncomingMessage) -> None:
    pass


async def named(group: Group, *words: str) -> None:
    def is_so() -> bool:
        safe = group.report.consumers_safe
        return safe.reason == "UnsafeConsumer" and all(word in safe.message for word in words)

    await eventually(is_so, lambda: f"{words} not in {group.report.consumers_safe}", 20)
    told = [notice.message for notice in group.notices if notice.reason == "UnsafeConsumer"]
    assert any(all(word in message for word in words) for message in told)


async def safe(group: Group) -> None:
    await eventually(lambda: group.report.consumers_safe.ok, lambda: f"not safe: {group.report.consumers_safe}", 20)


@pytest.mark.parametrize(
    ("prefetch", "no_ack", "arguments", "why"),
    [
        (10, True, {}, "automatic acknowledgement"),
        (0, False, {}, "prefetch limit"),
        (10, False, {"x-priority": 2147483647}, "x-priority"),
    ],
)
async def test_a_careless_pod_is_named_until_it_mends(
    tmp_path: Path, prefetch: int, no_ack: bool, arguments: dict[str, int], why: str
) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("careful")
        g.set_pod("careless")
        await safe(g)
        async with channel(prefetch) as opened:
            queue = await opened.get_queue(g.names.inbox("careless"))
            await queue.consume(_ignore, no_ack=no_ack, arguments=arguments)  # type: ignore[arg-type]
            await named(g, "pod careless", why)
            assert "pod careful" not in g.report.consumers_safe.message
            await g.owners("careful", "careless")
            assert g.report.ready.ok
        await safe(g)
        assert g.seen("ConsumersSafe")


async def test_a_consumer_that_waits_on_the_source_is_named(tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments=ONE_ACTIVE_CONSUMER) as g:
        await g.route()
        await g.join("a")
        await g.owners("a")
        await eventually(lambda: g.report.ready.ok, "the source is not read")
        async with channel() as opened:
            await (await opened.get_queue(g.source)).consume(_ignore)
            await named(g, "source queue", g.source)
            assert g.report.ready.ok
        await safe(g)


async def test_whoever_consumes_the_journal_is_named(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a")
        await g.owners("a")
        async with channel() as opened:
            await (await opened.get_queue(g.names.journal)).consume(_ignore)
            await named(g, g.names.journal)
        await safe(g)


async def test_two_consumers_of_one_inbox_are_named(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a")
        await g.owners("a")
        await safe(g)
        async with channel() as opened:  # a single active consumer: this one waits
            await (await opened.get_queue(g.names.inbox("a"))).consume(_acknowledge)
            await named(g, g.names.inbox("a"), "several consumers")
            assert g.report.ready.ok
        await safe(g)


async def test_nothing_is_said_of_another_brokers_consumers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API with all rights that does not show the router's own consumer of the journal."""
    monkeypatch.setattr(consumer_check, "SHOWN_AFTER", 0.5)
    async with another_api() as url, group(tmp_path) as g:
        g.config = replace(g.config, broker=replace(g.config.broker, management_uri=url))
        await g.route()
        await g.join("a")
        for reason in (lambda: g.report.consumers_safe.reason, lambda: g.report.queues_safe.reason):
            await eventually(lambda said=reason: said() == "OtherBroker", lambda: f"not noticed: {g.report}", 20)  # type: ignore[misc]
        assert not g.report.consumers_safe.known
        assert not g.report.queues_safe.known
        assert g.names.journal in g.report.consumers_safe.message
        await eventually(lambda: g.ready == "Routing", lambda: f"{g.report.ready}")


@asynccontextmanager
async def another_api() -> AsyncIterator[str]:
    """The management API of a broker that has none of our queues."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/api/whoami":
            return web.json_response({"name": "guest", "tags": ["administrator"]})
        if "page" in request.query:
            return web.json_response({"items": [], "page_count": 1})
        return web.json_response([]) if "/consumers/" in request.path else web.Response(status=404)

    runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://guest:guest@127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_an_exclusive_consumer_does_not_keep_a_takeover_out(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a")
        g.set_pod("alone")
        await eventually(lambda: any(member.name == "alone" for member in g.report.members), "no inbox for the pod")
        async with channel() as opened:
            await (await opened.get_queue(g.names.inbox("alone"))).consume(_acknowledge, exclusive=True)
            await g.owners("a", "alone")
            g.set_pod("alone", PodState.TERMINATING)
            await g.owners("a")
