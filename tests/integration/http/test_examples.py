"""The examples do what their first line says, as they are."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pytest
from aiohttp import web

from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.http.server import serve
from support.broker import amqp_url, depth, temporary_queue
from support.conditions import eventually
from support.serve import Served, disorder, serving

TOKEN = "secret"
EXAMPLES = Path(__file__).parents[3] / "examples"

Received = list[tuple[int, str]]


@asynccontextmanager
async def example(s: Served, script: str, name: str, port: int = 0) -> AsyncIterator[tuple[Process, Received]]:
    """A running example, and what it has handled until now: numbers and keys. It asks at `port`, if one is given."""
    environment = {
        **os.environ,
        "AMQP_URL": amqp_url(),
        "PARTYMQ_API_TOKEN": TOKEN,
        "PARTYMQ_URL": f"http://127.0.0.1:{port or s.port}",
        "PARTYMQ_CLIENT": f"{s.group}.{name}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / script), stdout=PIPE, env=environment, preexec_fn=_interruptible
    )
    received: Received = []

    async def read() -> None:
        assert process.stdout
        while line := await process.stdout.readline():
            match line.decode().split():
                case [key, number, same]:
                    assert key == same
                    received.append((int(number), key))
                case _:  # it says why it cannot reach its server
                    continue

    reading = asyncio.create_task(read())
    try:
        yield process, received
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@asynccontextmanager
async def connecting(s: Served, times: int) -> AsyncIterator[tuple[int, list[str]]]:
    """A port at which each path is answered 503 so many times, as by a server that connects; and what was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if asked.count(request.path) <= times:
            return web.json_response({}, status=503, headers={"Retry-After": "1"})
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        url, body = f"http://127.0.0.1:{s.port}{request.path}", await request.read()
        async with s.session.request(request.method, url, headers=headers, data=body) as real:
            return web.Response(status=real.status, body=await real.read(), content_type=real.content_type)

    async with serve("127.0.0.1", 0, [web.route("*", "/{path:.*}", answer)]) as port:
        yield port, asked


def made(s: Served, script: str) -> str:
    """The queue that an example consumes, which is deleted in the end."""
    if script == "managed_client.py":
        s.managed.add("me")
        return Names(GroupId(namespace="default", name=s.group)).inbox(f"{s.group}.me")
    return s.queues.setdefault("me", f"orders.{s.group}.me")


def _interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that down; what a person runs does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def bound(s: Served) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    found = (await s.call("GET", "/clients", headers=headers))[1]
    return {c["hostname"]: c["state"] for c in found.get("clients", ())}


async def is_bound(s: Served, state: str) -> bool:
    return await bound(s) == {"me": state}


@pytest.mark.parametrize(
    ("script", "state", "leave"),
    [("managed_client.py", "active", signal.SIGTERM), ("plain_client.py", "ready", signal.SIGINT)],
)
async def test_a_client_binds_handles_everything_in_order_and_unbinds(
    script: str, state: str, leave: signal.Signals
) -> None:
    async with serving(PARTYMQ_API_TOKEN=TOKEN) as s, example(s, script, "me") as (process, received):
        made(s, script)
        await eventually(lambda: is_bound(s, state), "it is not bound", 30.0)
        await s.publish(f"k{n % 50}" for n in range(1_000))
        await eventually(lambda: len(received) >= 1_000, lambda: f"only {len(received)} are handled", 30.0)
        process.send_signal(leave)
        assert await asyncio.wait_for(process.wait(), 20.0) == 0
        assert await bound(s) == {}
    assert sorted(number for number, _ in received) == list(range(1, 1_001))
    assert disorder({"me": received}) == 0


@pytest.mark.parametrize(("script", "state"), [("managed_client.py", "active"), ("plain_client.py", "ready")])
async def test_a_client_waits_for_a_server_that_connects_to_the_broker(script: str, state: str) -> None:
    async with (
        serving(PARTYMQ_API_TOKEN=TOKEN) as s,
        connecting(s, times=2) as (port, asked),
        example(s, script, "me", port) as (process, received),
    ):
        made(s, script)
        await eventually(lambda: is_bound(s, state), lambda: f"it is not bound: {asked}", 30.0)
        await s.publish(f"k{n % 50}" for n in range(100))
        await eventually(lambda: len(received) >= 100, lambda: f"only {len(received)} are handled", 30.0)
        assert process.returncode is None
        assert [path for path in asked if path.endswith("/bind")][2:], "nothing was answered 503"


@pytest.mark.parametrize(("script", "state"), [("managed_client.py", "active"), ("plain_client.py", "ready")])
async def test_a_client_whose_queue_is_deleted_ends_so_that_it_is_started_again(script: str, state: str) -> None:
    async with serving(PARTYMQ_API_TOKEN=TOKEN) as s, example(s, script, "me") as (process, received):
        queue = made(s, script)
        await eventually(lambda: is_bound(s, state), "it is not bound", 30.0)
        await s.publish(f"k{n % 50}" for n in range(100))
        await eventually(lambda: len(received) >= 100, lambda: f"only {len(received)} are handled", 30.0)
        await s.channel.queue_delete(queue)
        assert await asyncio.wait_for(process.wait(), 20.0) != 0


async def test_a_managed_client_ends_although_its_server_is_gone() -> None:
    async with serving(PARTYMQ_API_TOKEN=TOKEN) as s, example(s, "managed_client.py", "me") as (process, _):
        made(s, "managed_client.py")
        await eventually(lambda: is_bound(s, "active"), "it is not bound", 30.0)
        await s.kill()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20.0) == 0


async def test_a_pods_consumer_whose_queue_is_deleted_ends_so_that_it_is_started_again() -> None:
    async with temporary_queue(amqp_url(), "inbox") as queue:
        environment = {**os.environ, "AMQP_URL": amqp_url(), "QUEUE": queue}
        process = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLES / "consumer.py"), env=environment)

        async def consumes() -> bool:
            return (await depth(amqp_url(), queue))[1] == 1

        try:
            await eventually(consumes, "it does not consume", 30.0)
            async with await aio_pika.connect(amqp_url()) as connection:
                await (await connection.channel()).queue_delete(queue)
            await asyncio.wait_for(process.wait(), 20.0)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
