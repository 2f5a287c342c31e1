"""Messages a second, and CPU for one, of PartyMQ, RabbitMQ's shovel, a router on aio-pika, and no router at all.

All of them find the same messages waiting in a queue (persistent, 1000 keys), confirm before they acknowledge, and take
turns. PartyMQ is measured twice: into the inboxes of three members that take nothing (their window lifted: the router
alone), and with three members that keep up (the window as shipped). The shovel moves into one queue, of classic type as
is the broker's default, and of quorum type as inboxes are; and once more without a network, which nobody outside of the
broker can. "none" is a producer, a queue and a consumer.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.harness import Run
from benchmarks.load import QUEUES, Rate, fill, publish, rate, ready
from benchmarks.processes import Clients, Routers, clients, process, routers
from benchmarks.shovel import shovel
from support.broker import amqp_url, temporary_queue

MEMBERS = ("a", "b", "c")
SIZES = {"100B": 100, "800B": 800, "16KiB": 16 * 1024}
KEYS = ("header", "body")
PARTITIONS = 64
PREFETCH = 300
"""Of consumers that keep up."""

_MESSAGES = {"100B": 30_000, "800B": 50_000, "16KiB": 3_000}
_AIO_PIKA = {"100B": 5_000, "800B": 5_000, "16KiB": 3_000}


async def measure(run: Run) -> None:
    """Takes turns."""
    for number in range(run.rounds):
        for source in QUEUES:
            for size in SIZES:
                run.say(f"throughput, round {number + 1}: {source} source, {size}")
                await _turns(run, source, size)
    for source in QUEUES:
        for size in SIZES:
            _compare(run, source, size)


async def _turns(run: Run, source: str, size: str) -> None:
    head = f"{source}.{size}"
    for key in KEYS:
        _note(run, f"{head}.{key}", await _partymq(run, source, size, key))
    await _shovel(run, source, "classic", size, f"{head}.shovel")
    await _shovel(run, source, "quorum", size, f"{head}.shovel-quorum")
    await _shovel(run, source, "classic", size, f"{head}.shovel-direct", network=False)
    for key in KEYS if size == "800B" else KEYS[:1]:
        _note(run, f"{head}.{key}.aio-pika", await _aio_pika(run, source, size, key))
    _note(run, f"{head}.header.consumed", await _consumed(run, source, size))
    await _none(run, source, size, f"{head}.none")


def _compare(run: Run, source: str, size: str) -> None:
    head = f"throughput.{source}.{size}"
    for name in (f"{head}.header", f"{head}.body", f"{head}.header.consumed"):
        key = "body" if name.endswith("body") and size == "800B" else "header"
        run.results.compare(
            name,
            {
                "shovel": f"{head}.shovel",
                "shovel to quorum": f"{head}.shovel-quorum",
                "shovel without TCP": f"{head}.shovel-direct",
                "aio-pika": f"{head}.{key}.aio-pika",
                "none": f"{head}.none",
            },
        )
    run.results.compare(f"{head}.header.consumed", {"not consumed": f"{head}.header"})


def _note(run: Run, name: str, measured: Rate) -> None:
    run.results.add(f"throughput.{name}", "msg/s", measured.per_second)
    run.results.add(f"cpu.{name}", "us/msg", measured.cpu)
    if run.broker_pid is not None:
        run.results.add(f"cpu.{name}.broker", "us/msg", measured.broker_cpu)


def _messages(run: Run, size: str) -> int:
    return 2_000 if run.quick else _MESSAGES[size]


@asynccontextmanager
async def _routed(
    run: Run, source: str, size: str, key: str, *, holding: bool
) -> AsyncIterator[tuple[Routers, Clients]]:
    """A group with three members in front of a full source; routing begins once each has its share."""
    messages = _messages(run, size)
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(temporary_queue(amqp_url(), "source", QUEUES[source]))
        consumers = await stack.enter_async_context(clients(run))
        router = await stack.enter_async_context(routers(run))
        await fill(run, queue, messages, size=SIZES[size], key=key)
        window = {"inbox_window": 100 * messages} if holding else {}
        spec = {"key": key, "source_queue": queue, "partitions": PARTITIONS, "rebalance_delay": 0.5, **window}
        router.configure("g", MEMBERS, paused=True, **spec)
        await router.known("g")
        await consumers.do("pace", work=0.0, open=not holding)
        for name in MEMBERS:
            inbox, prefetch = router.names("g").inbox(name), 1 if holding else PREFETCH
            await consumers.do("consume", queue=inbox, name=name, prefetch=prefetch, timed=False)
        await router.settled("g")  # who holds what it is given hands nothing off any more
        router.configure("g", MEMBERS, **spec)
        yield router, consumers


async def _partymq(run: Run, source: str, size: str, key: str) -> Rate:
    async with _routed(run, source, size, key, holding=True) as (router, _):
        inboxes = [router.names("g").inbox(name) for name in MEMBERS]
        return await rate(run, lambda: ready(run, *inboxes), _messages(run, size), router.pid)


async def _consumed(run: Run, source: str, size: str) -> Rate:
    async with _routed(run, source, size, "header", holding=False) as (router, consumers):
        return await rate(run, consumers.count, _messages(run, size), router.pid)


async def _shovel(run: Run, source: str, target: str, size: str, name: str, *, network: bool = True) -> None:
    async with (
        temporary_queue(amqp_url(), "from", QUEUES[source]) as start,
        temporary_queue(amqp_url(), "to", QUEUES[target]) as end,
    ):
        await fill(run, start, _messages(run, size), size=SIZES[size])
        async with shovel(start, end, network=network):
            measured = await rate(run, lambda: ready(run, end), _messages(run, size))
    run.results.add(f"throughput.{name}", "msg/s", measured.per_second)
    if run.broker_pid is not None:
        run.results.add(f"cpu.{name}.broker", "us/msg", measured.broker_cpu)


async def _aio_pika(run: Run, source: str, size: str, key: str) -> Rate:
    messages = 500 if run.quick else _AIO_PIKA[size]
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(temporary_queue(amqp_url(), "source", QUEUES[source]))
        targets = [
            await stack.enter_async_context(temporary_queue(amqp_url(), "inbox", QUEUES["quorum"])) for _ in MEMBERS
        ]
        await fill(run, queue, messages, size=SIZES[size], key=key)
        options = json.dumps({"url": amqp_url(), "source": queue, "targets": targets, "key": key})
        child = await stack.enter_async_context(process(run, "baseline_aio_pika", options))
        return await rate(run, lambda: ready(run, *targets), messages, child.pid)


async def _none(run: Run, source: str, size: str, name: str) -> None:
    messages = _messages(run, size)
    async with (
        temporary_queue(amqp_url(), "queue", QUEUES[source]) as queue,
        clients(run) as consumers,
    ):
        await consumers.do("consume", queue=queue, name="a", prefetch=PREFETCH, timed=False)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(queue, messages, size=SIZES[size]))
            measured = await rate(run, consumers.count, messages)
    run.results.add(f"throughput.{name}", "msg/s", measured.per_second)
