"""A group that has nothing to do costs next to nothing, and what happens to it is noticed all the same."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from unittest import mock

from partymq.core.report import MemberState
from partymq.errors import SourceSharedError
from partymq.router.broker.polling import IDLE_EVERY
from partymq.router.flow.source_obstacles import FOREIGN_AFTER
from partymq.router.session.assembly import Assembly
from support.fake_kubernetes import VirtualLoop
from unit.sim.clients import Client
from unit.sim.router import Router
from unit.sim.world import SOURCE, Setting, World, inhabited

MINUTE = 60.0
LOOKS = 34
"""In a minute; the source and two inboxes are polled in each: a question and an answer for each queue."""
WRITES = 3
"""In a minute, to the journal: a message, its confirm, itself back, and an acknowledgement."""

Story = Callable[[World, Router, Assembly], Awaitable[None]]


def play(story: Story, *, members: int = 2, messages: int = 20) -> None:
    """Tells a story of a group that has been calm for a while."""

    async def run() -> None:
        with inhabited(Setting(members=members)) as world:
            await world.begin()
            for number in range(messages):
                world.publish(f"k{number}", later=1.0)
            await asyncio.sleep(15.0)
            router = world.router
            assert router is not None
            assert router.session is not None
            assert router.session._assembly is not None
            assert router.session._assembly.polling.calm
            await story(world, router, router.session._assembly)
            await world.end()
            assert not world.violations()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def _state(routing: Assembly, member: str) -> MemberState:
    return routing.rebalancer.membership.members[member].state


def test_an_idle_group_asks_the_broker_for_little() -> None:
    async def story(_world: World, router: Router, _routing: Assembly) -> None:
        before = router.effects
        await asyncio.sleep(MINUTE)
        assert 3 * 2 * (LOOKS - 2) <= router.effects - before <= 3 * 2 * LOOKS + 4 * WRITES

    play(story)


def test_an_idle_group_wakes_nobody() -> None:
    async def story(_world: World, _router: Router, routing: Assembly) -> None:
        with (
            mock.patch.object(routing.inboxes, "_poll") as polled,
            mock.patch.object(routing.source_gate, "_look") as looked,
            mock.patch.object(routing.releaser, "_unlist") as tidied,
            mock.patch.object(routing.rebalancer, "_observe") as observed,
        ):
            await asyncio.sleep(MINUTE)
        assert not any((polled.called, looked.called, tidied.called))
        assert observed.call_count <= 1

    play(story)


def test_a_consumer_that_leaves_an_idle_group_is_noticed_within_two_seconds() -> None:
    async def story(world: World, _router: Router, routing: Assembly) -> None:
        world.clients["a"].kill()
        await asyncio.sleep(2.0)
        assert _state(routing, "a") is MemberState.ABSENT
        world.clients["a"].start()
        await asyncio.sleep(0.6)  # its rejoin time may be over by then
        assert _state(routing, "a") in (MemberState.ACTIVE, MemberState.IDLE)

    play(story)


def test_a_message_ends_a_calm_at_once() -> None:
    async def story(world: World, router: Router, routing: Assembly) -> None:
        world.publish("k0", later=0.0)
        await asyncio.sleep(0.1)
        assert not routing.polling.calm
        before = router.effects
        await asyncio.sleep(4.0)
        assert router.effects - before >= 3 * 2 * 7  # every half second

    play(story)


def test_a_source_that_vanishes_from_an_idle_group_is_noticed_within_two_seconds() -> None:
    async def story(world: World, _router: Router, routing: Assembly) -> None:
        with mock.patch.object(routing.polling, "stir", wraps=routing.polling.stir) as stirred:
            del world.broker._queues[SOURCE]
            await asyncio.sleep(2.0)
        assert stirred.called
        assert routing.source_gate.ready is None

    play(story)


def test_somebody_who_consumes_the_source_of_a_group_without_members_is_noticed() -> None:
    async def story(world: World, _router: Router, routing: Assembly) -> None:
        other = Client(world.wire, world, name="other", inbox=SOURCE, prefetch=1)
        with mock.patch.object(routing.source_gate, "_trouble") as told:
            other.start()
            await asyncio.sleep(IDLE_EVERY + FOREIGN_AFTER + 1.0)
            assert isinstance(told.call_args.args[0], SourceSharedError)
            other.kill()
            await asyncio.sleep(1.0)
            assert told.call_args.args == (None,)

    play(story, members=0, messages=0)


def test_partitions_that_nobody_uses_take_next_to_nothing() -> None:
    async def used(partitions: int, members: int) -> int:
        with inhabited(Setting(members=members, partitions=partitions)) as world:
            gc.collect()
            tracemalloc.start()
            try:
                await world.begin()
                await asyncio.sleep(30.0)
                assert world.router is not None
                assert world.router.session is not None
                assert world.router.session._assembly is not None
                gc.collect()
                return tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
                await world.end()

    async def run() -> None:
        for members, most in ((0, 200_000), (1, 250_000)):
            few, many = await used(1, members), await used(4096, members)
            assert many - few < most

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
