"""How many messages a second the router forwards, beside RabbitMQ's own shovel: `make bench`.

Both move the same preloaded messages (800 bytes, persistent, key in a header) out of one classic queue with confirms:
the shovel (on-confirm, prefetch 1000) into one queue, the router, which stamps them, into the inboxes of three members
that hold one message each and take no more (their window is lifted). They take turns; the rate is that of the middle
80 % of a round.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aio_pika
import aiohttp

from support.broker import amqp_url, management_url, temporary_queue, unique
from support.group import group

MEMBERS = ("a", "b", "c")
KEYS = 5000


async def preload(channel: aio_pika.abc.AbstractChannel, queue: str, messages: int) -> None:
    """Fills the source."""
    body = b"x" * 800
    for start in range(0, messages, 1000):
        await asyncio.gather(
            *(
                channel.default_exchange.publish(
                    aio_pika.Message(
                        body,
                        headers={"partitionKey": f"key-{i % KEYS}"},
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    queue,
                )
                for i in range(start, min(start + 1000, messages))
            )
        )


async def rate(moved: Callable[[], Awaitable[int]], messages: int, pid: int | None = None) -> tuple[float, float]:
    """Messages a second over the middle 80 %, and CPU microseconds a message of the process `pid`."""
    begin = (0.0, 0, 0.0)
    async with asyncio.timeout(180):
        while True:
            count, now = await moved(), time.perf_counter()
            if not begin[1] and count > messages * 0.1:
                begin = (now, count, _cpu(pid))
            if count > messages * 0.9:
                per_second = (count - begin[1]) / (now - begin[0])
                return per_second, (_cpu(pid) - begin[2]) / (count - begin[1]) * 1e6
            await asyncio.sleep(0.02)


def _cpu(pid: int | None) -> float:
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _ready(channel: aio_pika.abc.AbstractChannel, *queues: str) -> int:
    counts = [await channel.declare_queue(queue, passive=True) for queue in queues]
    return sum(queue.declaration_result.message_count or 0 for queue in counts)


async def router_round(channel: aio_pika.abc.AbstractChannel, messages: int) -> tuple[float, float]:
    """One round of the router."""
    with tempfile.TemporaryDirectory() as directory:
        async with group(Path(directory), inbox_window=100 * messages, partitions=64, rebalance_delay=1.0) as g:
            await preload(channel, g.source, messages)
            await g.spawn()
            await asyncio.gather(*(g.join(name, prefetch=1, hold_after=0) for name in MEMBERS))
            inboxes = [g.names.inbox(name) for name in MEMBERS]
            return await rate(lambda: _ready(channel, *inboxes), messages, g.router_pid)


async def shovel_round(channel: aio_pika.abc.AbstractChannel, messages: int) -> float:
    """One round of the shovel."""
    url, name = amqp_url().rstrip("/"), unique("shovel")  # to RabbitMQ a path of "/" is the virtual host ""
    async with temporary_queue(url, "from") as source, temporary_queue(url, "to") as target:
        await preload(channel, source, messages)
        settings = {
            "src-protocol": "amqp091", "src-uri": url, "src-queue": source, "src-prefetch-count": 1000,
            "dest-protocol": "amqp091", "dest-uri": url, "dest-queue": target, "ack-mode": "on-confirm",
        }  # fmt: skip
        async with aiohttp.ClientSession(base_url=management_url()) as http:
            path = f"/api/parameters/shovel/%2F/{name}"
            async with http.put(path, json={"value": settings}) as answer:
                answer.raise_for_status()
            try:
                return (await rate(lambda: _ready(channel, target), messages))[0]
            finally:
                await http.delete(path)


async def main(messages: int, rounds: int, output: Path) -> None:
    """Runs the rounds in turns and prints medians."""
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        router, cpu, shovel = [], [], []
        for number in range(rounds):
            per_second, per_message = await router_round(channel, messages)
            router.append(per_second)
            cpu.append(per_message)
            shovel.append(await shovel_round(channel, messages))
            print(
                f"round {number + 1}: router {router[-1]:,.0f} msg/s, {cpu[-1]:.1f} us CPU a message; "
                f"shovel {shovel[-1]:,.0f} msg/s",
                flush=True,
            )
    ratio = statistics.median(a / b for a, b in zip(router, shovel, strict=True))
    result = {
        "name": "throughput.classic.800B.header", "unit": "msg/s", "value": round(statistics.median(router)),
        "rounds": [round(value) for value in router], "ratios": {"shovel": round(ratio, 2)},
        "cpu_us": round(statistics.median(cpu), 1), "shovel": [round(value) for value in shovel],
    }  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"results": [result]}, indent=2) + "\n")
    print(f"median: router {result['value']:,} msg/s at {result['cpu_us']} us CPU a message, {ratio:.2f}x the shovel")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks.json"))
    arguments = parser.parse_args()
    asyncio.run(main(arguments.messages, arguments.rounds, arguments.output))
