"""Loads at which a router must not take the wrong way: more than members take, and a broker that takes its time."""

import asyncio

from partymq.core.names import SPREAD
from partymq.router.flow.lanes import Mode
from partymq.router.flow.source_reader import PREFETCH
from support.conditions import eventually
from support.fake_kubernetes import VirtualLoop
from unit.sim.world import SOURCE, Setting, World, inhabited

LIMIT = 100
SEEN_LATE = 500
"""Messages that may come until the router has looked."""


def _in_source(world: World) -> int:
    queue = world.broker.queue(SOURCE)
    return queue.message_count if queue is not None else 0


def test_a_full_source_does_not_flood_the_backlogs() -> None:
    """When it is read again, too: what is read between two looks could be any number of messages."""
    there = 3 * PREFETCH

    async def run() -> None:
        with inhabited(Setting(members=1, limit=LIMIT)) as world:
            await world.begin()
            await asyncio.sleep(2.0)
            assert world.router is not None
            assert world.router.session is not None
            routing = world.router.session._assembly
            assert routing is not None
            world.clients["a"].stuck = True
            for number in range(there):
                world.publish(f"k{number % 20}", later=0.0)
            await eventually(lambda: routing.source_gate.full, "the backlogs do not fill")
            await asyncio.sleep(1.0)
            assert LIMIT < routing.waiting <= LIMIT + PREFETCH + SEEN_LATE
            left = _in_source(world)
            assert left >= there - routing.waiting - SEEN_LATE
            world.clients["a"].unstick()
            await eventually(lambda: _in_source(world) < left, "the source is not read again", 60.0)
            await asyncio.sleep(1.0)
            assert routing.waiting <= LIMIT + PREFETCH + SEEN_LATE
            await world.settle()
            await world.end()
            assert not world.violations()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def test_partitions_go_direct_again_on_a_slow_broker() -> None:
    """What a switch needs is a few round trips, however long they are: else it would be tried for ever."""

    async def run() -> None:
        with inhabited(Setting(pace="slow", members=1, prefetch=100, window=100, partitions=8)) as world:
            await world.begin()
            await eventually(lambda: _direct(world), "a partition does not begin direct", 60.0)
            for number in range(400):
                world.publish(f"k{number % 20}", later=number / 5)
            world.join("b")
            await eventually(lambda: world.handoffs > 0, "nothing is handed off", 60.0)
            assert not _direct(world), "no partition had a backlog"
            await eventually(lambda: _direct(world), "the partitions stay in their backlogs", 60.0)
            assert world.unsent, "it was the end of the load that let them go direct"
            await world.settle()
            await world.end()
            assert not world.violations()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def _direct(world: World) -> bool:
    assert world.router is not None
    if world.router.session is None or world.router.session._assembly is None:
        return False
    lanes = world.router.session._assembly.lanes
    return all(lane.mode is Mode.DIRECT for lane in lanes.values() if lane.index != SPREAD)
