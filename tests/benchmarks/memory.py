"""The most memory that a router takes for large messages: 1 MB and 16 MB, members that are fast and slow.

All messages wait in the source before routing begins; the peak is that of the router's process until all were taken.
"""

import asyncio

from benchmarks.harness import Run, peak_mib
from benchmarks.load import QUEUES, fill
from benchmarks.processes import clients, routers
from support.broker import amqp_url, temporary_queue

MEMBERS = ("a", "b", "c")
SIZES = {"1MB": 1_000_000, "16MB": 16_000_000}
PACES = {"fast": 0.0, "slow": 0.05}
"""Seconds of work that a message takes."""
PREFETCH = 4
_BYTES = 1_600_000_000
_DEADLINE = 300.0


async def measure(run: Run) -> None:
    """Each size with each pace."""
    for _ in range(run.rounds):
        for size in SIZES:
            for pace in PACES:
                run.say(f"memory: {size}, {pace}")
                run.results.add(f"memory.peak.{size}.{pace}", "MiB", await _peak(run, size, pace))


async def _peak(run: Run, size: str, pace: str) -> float:
    messages = (_BYTES // 8 if run.quick else _BYTES) // SIZES[size]
    async with (
        temporary_queue(amqp_url(), "source", QUEUES["quorum"]) as source,
        clients(run) as consumers,
        routers(run) as router,
    ):
        await fill(run, source, messages, size=SIZES[size])
        router.configure("g", MEMBERS, source_queue=source, partitions=64, rebalance_delay=0.5)
        await router.known("g")
        await consumers.do("pace", work=PACES[pace], open=True)
        for name in MEMBERS:
            inbox = router.names("g").inbox(name)
            await consumers.do("consume", queue=inbox, name=name, prefetch=PREFETCH, timed=False)
        async with asyncio.timeout(_DEADLINE):
            while await consumers.count() < messages:
                await asyncio.sleep(0.1)
        return peak_mib(router.pid)
