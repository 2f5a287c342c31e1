"""What may go wrong, and how often.

Invariant: a fault takes the pod that it works on, or the session lock, for as long as it lasts, and leaves the world as
sound as it found it. All that it draws comes from the generator that it is given.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import aiohttp

from partymq.router.failpoints import OF_CLIENTS, Point
from soak.nodefaults import cut_node_off, freeze_node, kill_node, restart_nodes, two_nodes_away
from soak.pods import Pod
from soak.queues import (
    cut_off_polls,
    full_inbox,
    inbox_of_a_stranger,
    large_messages,
    no_more_queues,
    suspend_queue,
    unpublishable,
)
from soak.rollouts import of_the_deployment, roll_out
from soak.world import World
from support.events import LOST, Kind

FEWEST, MOST = 2, 6
"""Pods."""
REJOIN = 4.0
"""The group's `rejoinSeconds`."""

Act = Callable[[World, Random], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault by its name in the report; `weight` is how often it is drawn, beside the others that are possible."""

    name: str
    act: Act
    weight: float
    possible: Callable[[World], bool] = lambda _: True
    usual: bool = True
    """Whether it is drawn unless somebody says otherwise."""


# --- pods


async def join(world: World, rng: Random) -> None:
    """A new pod."""
    name = f"c{world.done['join']}"
    pod = world.pod(name, rng)
    async with pod.taken():
        await pod.run()


def _pick(world: World, rng: Random) -> Pod:
    return rng.choice(world.free())


async def leave(world: World, rng: Random) -> None:
    """A pod is deleted in order; its client leaves as it always does, at once or after going on for a while."""
    pod = _pick(world, rng)
    async with pod.taken():
        await pod.terminate(notice=rng.choice([0.0, 0.0, rng.uniform(0, 3)]))
        del world.pods[pod.name]


async def vanish(world: World, rng: Random) -> None:
    """A pod's object is gone at once; its process dies, now or later."""
    pod = _pick(world, rng)
    async with pod.taken():
        world.killed(await pod.vanish(zombie=rng.choice([0.0, rng.uniform(0, 3)])))
        del world.pods[pod.name]


async def come_back(world: World, rng: Random) -> None:
    """A StatefulSet's pod is replaced: it is back under its name, within the rejoin time or too late."""
    pod = rng.choice([pod for pod in world.free() if pod.returns])
    async with pod.taken():
        await pod.terminate()
        await asyncio.sleep(rng.choice([rng.uniform(0, 1), rng.uniform(0, 2 * REJOIN)]))
        await pod.run()


async def crash(world: World, rng: Random) -> None:
    """A container is killed and starts again."""
    pod = _pick(world, rng)
    async with pod.taken():
        world.killed(await pod.crash(again_after=rng.choice([0.0, rng.uniform(0, 1.5 * REJOIN)])))


async def crash_loop(world: World, rng: Random) -> None:
    """A container is killed again and again."""
    pod = _pick(world, rng)
    async with pod.taken():
        for _ in range(rng.randint(2, 4)):
            world.killed(await pod.crash(again_after=rng.uniform(0, 1)))
            await asyncio.sleep(rng.uniform(0, 0.5))


async def unready(world: World, rng: Random) -> None:
    """A pod's probe fails for a while."""
    pod = _pick(world, rng)
    async with pod.taken():
        await pod.unready(rng.uniform(0.2, 1.5 * REJOIN))


async def slow(world: World, rng: Random) -> None:
    """A pod takes a hundred times longer for a while; it keeps its prefetch (docs/guarantees.md, limits)."""
    pod = _pick(world, rng)
    async with pod.taken():
        usual = pod.profile
        slowly = replace(usual, work=0.1)
        world.killed(await pod.crash(again_after=0.0, profile=slowly))
        await asyncio.sleep(rng.uniform(2, 8))
        world.killed(await pod.crash(again_after=0.0, profile=usual))


async def stuck(world: World, rng: Random) -> None:
    """A pod stops to acknowledge, until its liveness probe has it killed; it may be on its way out when it does."""
    pod = _pick(world, rng)
    async with pod.taken():
        usual = pod.profile
        holds = replace(usual, hold_after=rng.randint(0, 50))
        world.killed(await pod.crash(again_after=0.0, profile=holds))
        await asyncio.sleep(rng.uniform(1, 4))
        if rng.random() < 0.5:
            await pod.unready(2 * REJOIN)
        world.killed(await pod.crash(again_after=0.0, profile=usual))


async def cut_off(world: World, rng: Random) -> None:
    """The broker closes a client's connection."""
    pod = _pick(world, rng)
    async with pod.taken():
        client = pod.client
        try:
            connection = client and (await world.nodes.connections()).get(client.name)
            await world.may_end(pod.name)
            if client and connection:
                world.group.spool.note(client.name, Kind.GONE, LOST)
                await world.nodes.close(connection)
        except aiohttp.ClientError:  # the broker is being restarted, which does the same
            pass
        await asyncio.sleep(0.1)
        await pod.consuming()


async def nobody(world: World, rng: Random) -> None:
    """All pods leave, and others come."""
    pods = world.free()
    for pod in pods:
        pod.busy = True
    await asyncio.gather(*(pod.terminate(notice=rng.uniform(0, 1)) for pod in pods))
    for pod in pods:
        del world.pods[pod.name]
    for _ in range(FEWEST):
        world.done["join"] += 1
        await join(world, rng)


# --- load


async def burst(world: World, rng: Random) -> None:
    """More than the inboxes and the backlogs take, as fast as the broker takes it."""
    await world.load.burst(rng.randint(500, 3000))


# --- routers


async def kill_router(world: World, rng: Random) -> None:
    """SIGKILL, with or without another router standing by."""
    async with world.session:
        if rng.random() < 0.3 and len(world.running) < 2:
            await world.start_router()
        victim = world.active or world.running[0]
        world.kills += 1
        async with world.replaced():
            await victim.kill()
            if not world.running:
                await world.start_router()


async def kill_router_at(world: World, rng: Random) -> None:
    """The router kills itself at a named point."""
    async with world.session:
        victim = world.active
        if victim is None:
            return
        point = rng.choice([point for point in Point if point not in OF_CLIENTS])
        await world.unsound()
        before = world.epoch
        victim.kill_at(point)
        try:
            await victim.ended(deadline=10)
        except TimeoutError:
            victim.kill_at(None)
            world.sound.set()
            return  # nothing brought it there
        world.kills += 1
        world.done[f"  at {point.value}"] += 1
        if not world.running:
            await world.start_router()
        await world.excused(after=before)


async def restart_router(world: World, rng: Random) -> None:
    """The router stops in order, and another one follows; or another one stands by."""
    async with world.session:
        before, old = world.epoch, world.active or world.running[0]
        if rng.random() < 0.5 and len(world.running) < 2:
            await world.start_router()
        await world.unsound()
        await old.stop()
        if not world.running:
            await world.start_router()
        await world.routed(after=before)
        await world.taken_over()


async def second_router(world: World, rng: Random) -> None:
    """Two routers at once, then one less."""
    async with world.session:
        if len(world.running) > 1:
            victim = rng.choice(world.running)
            await world.unsound()
            routes, before = victim is world.active, world.epoch
            await victim.stop()
            if routes:
                await world.routed(after=before)
            await world.taken_over()
        else:
            await world.start_router()


async def freeze_router(world: World, rng: Random) -> None:
    """The router does nothing for so long that another one takes over; then it goes on where it was."""
    async with world.session:
        victim = world.active
        if victim is None:
            return
        if len(world.running) < 2:
            await world.start_router()
        async with world.replaced():
            victim.freeze()
        victim.thaw()
        await asyncio.sleep(rng.uniform(0, 1))


async def cut_off_router(world: World, rng: Random) -> None:
    """The broker closes the router's connection."""
    async with world.session:
        router = world.active
        if router is None:
            return
        connection = (await world.nodes.connections()).get(world.title(router))
        if connection:
            async with world.replaced():
                await world.nodes.close(connection)


# --- brokers of one node


async def restart_broker(world: World, rng: Random) -> None:
    """The broker stops in order, and starts again."""
    [broker] = world.nodes.all
    async with world.session, world.replaced():
        await broker.down()
        await broker.up()


async def kill_broker(world: World, rng: Random) -> None:
    """SIGKILL, and it starts again with what it had written."""
    [broker] = world.nodes.all
    async with world.session, world.replaced():
        world.kills += 1
        await broker.kill()
        await asyncio.sleep(rng.uniform(0, 2))
        await broker.up()


async def memory_alarm(world: World, rng: Random) -> None:
    """The broker takes no message for a while."""
    async with world.session:  # so no node goes away meanwhile; the alarm of one is one of all
        node = world.nodes.some
        await node.memory_alarm(on=True)
        await asyncio.sleep(rng.uniform(1, 5))
        await node.memory_alarm(on=False)


def _some(world: World) -> bool:
    return bool(world.free())


def _too_many(world: World) -> bool:
    return _some(world) and len(world.pods) > FEWEST


def _room(world: World) -> bool:
    return len(world.pods) < MOST


def _session_free(world: World) -> bool:
    return not world.session.locked()


def _single_node_free(world: World) -> bool:
    return not world.nodes.several and _session_free(world)


def _several_nodes_free(world: World) -> bool:
    return world.nodes.several and _session_free(world)


FAULTS = (
    Fault(name="join", act=join, weight=10, possible=_room),
    Fault(name="leave", act=leave, weight=7, possible=_too_many),
    Fault(name="vanish", act=vanish, weight=4, possible=_too_many),
    Fault(name="come back", act=come_back, weight=4, possible=lambda world: any(p.returns for p in world.free())),
    Fault(name="crash", act=crash, weight=4, possible=_some),
    Fault(name="crash loop", act=crash_loop, weight=1, possible=_some),
    Fault(name="unready", act=unready, weight=4, possible=_some),
    Fault(name="slow", act=slow, weight=2, possible=_some),
    Fault(name="stuck", act=stuck, weight=2, possible=_some),
    Fault(name="connection of a pod closed", act=cut_off, weight=2, possible=_some),
    Fault(name="no pods", act=nobody, weight=0.5, possible=lambda w: len(w.free()) == len(w.pods) >= FEWEST),
    Fault(name="rollout", act=roll_out, weight=3, possible=lambda w: not w.rolling and len(of_the_deployment(w)) > 1),
    Fault(name="burst", act=burst, weight=2, possible=lambda world: not world.load.bursting),
    Fault(name="router killed", act=kill_router, weight=3, possible=_session_free),
    Fault(name="router killed at a point", act=kill_router_at, weight=6, possible=_session_free),
    Fault(name="router restarted", act=restart_router, weight=2, possible=_session_free),
    Fault(name="second router", act=second_router, weight=2, possible=_session_free),
    Fault(name="router frozen", act=freeze_router, weight=0.3, possible=_session_free),
    Fault(name="connection of the router closed", act=cut_off_router, weight=1.5, possible=_session_free),
    Fault(name="broker restarted", act=restart_broker, weight=0.3, possible=_single_node_free),
    Fault(name="broker killed", act=kill_broker, weight=0.4, possible=_single_node_free),
    Fault(name="node killed", act=kill_node, weight=3, possible=_several_nodes_free),
    Fault(name="nodes restarted", act=restart_nodes, weight=0.7, possible=_several_nodes_free),
    Fault(name="node frozen", act=freeze_node, weight=1.5, possible=_several_nodes_free),
    Fault(name="node cut off", act=cut_node_off, weight=1, possible=_several_nodes_free),
    Fault(name="two nodes away", act=two_nodes_away, weight=1, possible=_several_nodes_free),
    Fault(name="memory alarm", act=memory_alarm, weight=0.5, possible=_session_free),
    Fault(name="large messages", act=large_messages, weight=1, possible=lambda world: not world.load.large),
    Fault(name="queue suspended", act=suspend_queue, weight=4),
    Fault(name="second connection of the router closed", act=cut_off_polls, weight=2),
    Fault(name="inbox of a stranger", act=inbox_of_a_stranger, weight=1.5, possible=_room),
    Fault(name="no more queues", act=no_more_queues, weight=1, possible=_session_free),
    Fault(name="message that cannot be published", act=unpublishable, weight=1, possible=_session_free),
    Fault(name="inbox full", act=full_inbox, weight=0.5, possible=_some, usual=False),
)


def chosen(words: str) -> tuple[Fault, ...]:
    """The faults that `--faults` names, separated by commas; ValueError for a name that there is not.

    `+name` is drawn beside the usual ones, `-name` is not; a bare name is drawn alone, with others of its kind. Pods
    join in any case.
    """
    asked = [word.strip() for word in words.split(",") if word.strip()]
    if unknown := {word.lstrip("+-") for word in asked} - {"all"} - {fault.name for fault in FAULTS}:
        known = ", ".join(fault.name for fault in FAULTS)
        raise ValueError(f"there is no fault {', '.join(sorted(unknown))}: use {known}, or all")
    names = {fault.name for fault in FAULTS if fault.usual} if all(word[0] in "+-" for word in asked) else set()
    for word in asked:
        these = {fault.name for fault in FAULTS} if word.endswith("all") else {word.lstrip("+-")}
        names = names - these if word.startswith("-") else names | these
    return tuple(fault for fault in FAULTS if fault.name in names | {"join"})


def draw(faults: Sequence[Fault], world: World, rng: Random) -> Fault | None:
    """The next fault; None where none is possible now."""
    possible = [fault for fault in faults if fault.possible(world)]
    return rng.choices(possible, [fault.weight for fault in possible])[0] if possible else None
