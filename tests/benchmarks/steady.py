"""A long run at a steady load, on request: does memory grow? `make bench ARGS="steady --seconds 3600"`.

The slope is that of a straight line through the router's memory over all but the first tenth of the time.
"""

import asyncio
from statistics import linear_regression

from benchmarks.harness import Run, clock, cpu_seconds, resident_mib
from benchmarks.load import QUEUES
from benchmarks.processes import clients, routers
from support.broker import amqp_url, temporary_queue

MEMBERS = ("a", "b", "c")
RATE = 2000.0
SIZE = 800
PREFETCH = 300
_LOOKS = 360


async def measure(run: Run) -> None:
    """Loads the router, and looks at it now and then."""
    seconds = 6.0 if run.quick else run.steady_seconds
    run.say(f"steady: {RATE:,.0f} messages a second for {seconds:,.0f} s")
    async with (
        temporary_queue(amqp_url(), "source", QUEUES["classic"]) as source,
        clients(run) as consumers,
        clients(run) as producer,
        routers(run) as router,
    ):
        router.configure("g", MEMBERS, source_queue=source, partitions=64, rebalance_delay=0.5)
        await router.known("g")
        for name in MEMBERS:
            inbox = router.names("g").inbox(name)
            await consumers.do("consume", queue=inbox, name=name, prefetch=PREFETCH, timed=False)
        await router.settled("g")
        await producer.do("produce", queue=source, size=SIZE, rate=RATE, seconds=seconds)
        begun, own, count = clock(), cpu_seconds(router.pid), await consumers.count()
        times: list[float] = []
        memory: list[float] = []
        while (passed := clock() - begun) < seconds:
            if passed > seconds / 10:
                times.append(passed / 3600)
                memory.append(resident_mib(router.pid))
            await asyncio.sleep(seconds / _LOOKS)
        passed = clock() - begun
        run.results.add("steady.throughput", "msg/s", (await consumers.count() - count) / passed)
        run.results.add("steady.cpu", "of a core", (cpu_seconds(router.pid) - own) / passed)
        run.results.add("steady.rss", "MiB", *memory)
        run.results.add("steady.rss.slope", "MiB/h", linear_regression(times, memory).slope)
        await producer.do("produced")
