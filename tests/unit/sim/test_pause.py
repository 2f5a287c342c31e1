"""A handoff takes little longer than its donor takes to let go."""

import asyncio

import pytest

from partymq.router.failpoints import Point
from support.conditions import eventually
from support.fake_kubernetes import VirtualLoop
from unit.sim.world import Setting, World, inhabited

PREFETCH = 5
TAKES = 0.33
"""Seconds for which the donor keeps what it holds, after the handoff has begun."""


async def _commit_after_the_donor(world: World, messages: int) -> float:
    """Seconds from the donor's acknowledgement of what it holds to the commit."""
    donor = world.clients["a"]
    donor.stuck = True
    for number in range(messages):
        world.publish(f"k{number}", later=0.0)
    await asyncio.sleep(1.0)
    assert world.router is not None
    assert world.router.session is not None
    routing = world.router.session._assembly
    assert routing is not None
    world.join("b")
    await eventually(lambda: bool(routing.handoffs.running), "there is no handoff", every=0.001)
    await asyncio.sleep(TAKES)
    assert not world.handoffs
    begun = world.loop.time()
    donor.unstick()
    await eventually(lambda: world.handoffs > 0, "the handoff is not committed", every=0.001)
    return world.loop.time() - begun


def test_a_fast_donor_works_its_inbox_off() -> None:
    """It takes less time than to copy it, and its keys do not wait meanwhile."""

    async def run() -> None:
        with inhabited(Setting(members=1, prefetch=PREFETCH, window=100)) as world:
            await world.begin()
            await asyncio.sleep(5.0)
            donor = world.clients["a"]
            donor.stuck = True
            for number in range(12 * PREFETCH):
                world.publish(f"k{number}", later=0.0)
            await asyncio.sleep(1.0)
            assert world.router is not None
            assert world.router.session is not None
            routing = world.router.session._assembly
            assert routing is not None
            world.join("b")
            await eventually(lambda: bool(routing.handoffs.running), "there is no handoff", every=0.001)
            donor.unstick()
            await eventually(lambda: world.handoffs > 0, "the handoff is not committed", every=0.001)
            assert Point.COPYING not in world.points
            await world.settle()
            await world.end()
            assert not world.violations()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    ("messages", "at_most"),
    [
        pytest.param(PREFETCH, 0.25 * TAKES + 0.06, id="it held all that there was"),
        pytest.param(4 * PREFETCH, 0.06, id="more was in its inbox"),
    ],
)
def test_a_commit_follows_the_donor(messages: int, at_most: float) -> None:
    async def run() -> None:
        with inhabited(Setting(members=1, prefetch=PREFETCH, window=100)) as world:
            await world.begin()
            await asyncio.sleep(5.0)
            assert await _commit_after_the_donor(world, messages) <= at_most
            await world.settle()
            await world.end()
            assert not world.violations()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
