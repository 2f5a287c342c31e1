"""The examples do what their first line says, as they are."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.broker import amqp_url
from support.conditions import eventually
from support.serve import Served, disorder, serving

TOKEN = "secret"
EXAMPLES = Path(__file__).parents[3] / "examples"

Received = list[tuple[int, str]]


@asynccontextmanager
async def example(s: Served, script: str, name: str) -> AsyncIterator[tuple[Process, Received]]:
    """A running example, and what it has handled until now: numbers and keys."""
    environment = {
        **os.environ,
        "AMQP_URL": amqp_url(),
        "PARTYMQ_API_TOKEN": TOKEN,
        "PARTYMQ_URL": f"http://127.0.0.1:{s.port}",
        "PARTYMQ_CLIENT": f"{s.group}.{name}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / script), stdout=PIPE, env=environment, preexec_fn=_interruptible
    )
    received: Received = []

    async def read() -> None:
        assert process.stdout
        while line := await process.stdout.readline():
            key, number, same = line.decode().split()
            assert key == same
            received.append((int(number), key))

    reading = asyncio.create_task(read())
    try:
        yield process, received
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


def _interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that down; what a person runs does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def bound(s: Served) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    found = (await s.call("GET", "/clients", headers=headers))[1]
    return {c["hostname"]: c["state"] for c in found.get("clients", ())}


@pytest.mark.parametrize(
    ("script", "state", "leave"),
    [("managed_client.py", "active", signal.SIGTERM), ("plain_client.py", "ready", signal.SIGINT)],
)
async def test_a_client_binds_handles_everything_in_order_and_unbinds(
    script: str, state: str, leave: signal.Signals
) -> None:
    async with serving(PARTYMQ_API_TOKEN=TOKEN) as s, example(s, script, "me") as (process, received):
        if state == "active":
            s.managed.add("me")
        else:
            s.queues["me"] = f"orders.{s.group}.me"

        async def ready() -> bool:
            return await bound(s) == {"me": state}

        await eventually(ready, "it is not bound", 30.0)
        await s.publish(f"k{n % 50}" for n in range(1_000))
        await eventually(lambda: len(received) >= 1_000, lambda: f"only {len(received)} are handled", 30.0)
        process.send_signal(leave)
        assert await asyncio.wait_for(process.wait(), 20.0) == 0
        assert await bound(s) == {}
    assert sorted(number for number, _ in received) == list(range(1, 1_001))
    assert disorder({"me": received}) == 0
