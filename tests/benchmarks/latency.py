"""What PartyMQ adds to the time from publish to consume, at a tenth, a half and nine tenths of the capacity.

The capacity is what goes from a producer over the router to consumers while the producer publishes as fast as it gets
confirms: producer, broker, router and consumers share the machine. Then the same producer and the same consumers are
measured at each rate with the router between them and without, in turns. "Added" is the difference of a percentile
with and without. Without, there is one classic queue ("none"); "quorum" is one quorum queue, which is what an inbox is:
its share of what is added is no router's to save. Times are taken by the clock that the processes share.
"""

import asyncio

from benchmarks.harness import Run, clock
from benchmarks.load import QUEUES, idle
from benchmarks.processes import Clients, clients, routers
from support.broker import amqp_url, temporary_queue

MEMBERS = ("a", "b", "c")
LEVELS = {"tenth": 0.1, "half": 0.5, "nine-tenths": 0.9}
SIZE = 800
PREFETCH = 300
_PERCENTILES = ("p50", "p99", "max")


async def measure(run: Run) -> None:
    """Finds the capacity, then takes turns."""
    async with (
        temporary_queue(amqp_url(), "source", QUEUES["classic"]) as source,
        temporary_queue(amqp_url(), "direct", QUEUES["classic"]) as direct,
        temporary_queue(amqp_url(), "replicated", QUEUES["quorum"]) as replicated,
        clients(run) as consumers,
        clients(run) as producer,
        routers(run) as router,
    ):
        router.configure("g", MEMBERS, source_queue=source, partitions=64, rebalance_delay=0.5)
        await router.known("g")
        for name in MEMBERS:
            inbox = router.names("g").inbox(name)
            await consumers.do("consume", queue=inbox, name=name, prefetch=PREFETCH, timed=True)
        for queue in (direct, replicated):
            await consumers.do("consume", queue=queue, name=queue, prefetch=PREFETCH, timed=True)
        await router.settled("g")
        capacity = await _capacity(run, source, producer, consumers)
        for number in range(run.rounds):
            for level, share in LEVELS.items():
                rate = capacity * share
                run.say(f"latency, round {number + 1}: {rate:,.0f} messages a second")
                without = await _percentiles(run, direct, producer, consumers, rate)
                quorum = await _percentiles(run, replicated, producer, consumers, rate)
                routed = await _percentiles(run, source, producer, consumers, rate)
                for percentile in _PERCENTILES:
                    added = routed[percentile] - without[percentile]
                    run.results.add(f"latency.{level}.added.{percentile}", "ms", added)
                    run.results.add(f"latency.{level}.routed.{percentile}", "ms", routed[percentile])
                    run.results.add(f"latency.{level}.none.{percentile}", "ms", without[percentile])
                    run.results.add(f"latency.{level}.quorum.{percentile}", "ms", quorum[percentile])


async def _capacity(run: Run, source: str, producer: Clients, consumers: Clients) -> float:
    seconds = 1.0 if run.quick else 6.0
    await producer.do("produce", queue=source, size=SIZE, rate=0, seconds=seconds)
    await asyncio.sleep(seconds / 6)
    before, begun = await consumers.count(), clock()
    await asyncio.sleep(seconds * 4 / 6)
    capacity = (await consumers.count() - before) / (clock() - begun)
    await _taken(run, producer, consumers)
    run.results.add("latency.capacity", "msg/s", capacity)
    return capacity


async def _percentiles(run: Run, queue: str, producer: Clients, consumers: Clients, rate: float) -> dict[str, float]:
    """The second and later seconds of a load; it is an error if a key's messages were out of order."""
    seconds = 0.5 if run.quick else 5.0
    await producer.do("produce", queue=queue, size=SIZE, rate=rate, seconds=seconds + seconds / 5)
    await asyncio.sleep(seconds / 5)
    await consumers.do("reset")
    await _taken(run, producer, consumers)
    figures = await consumers.do("figures")
    if figures["disorder"]:
        raise AssertionError(f"{figures['disorder']} messages were out of order")
    latency: dict[str, float] = figures["latency"]
    return latency


async def _taken(run: Run, producer: Clients, consumers: Clients) -> None:
    """Waits until everything that was published is consumed."""
    await producer.do("produced")
    last = -1
    while (count := await consumers.count()) != last:
        last = count
        await asyncio.sleep(0.5)
    await idle(run)
