"""What may go wrong with a cluster's nodes: killed, restarted in order, frozen, cut off, two of three away.

Invariant: a fault brings back what it took away, and ends when a session routes again and has taken over what the last
one had. Of clients the ends are reported that the fault brings about, and of the router the end of a session that was
connected to a node, or that depends on one that is away; an end beside that is no excuse for a repeat.

A node that holds the router's session and clients is not ended in the middle of a handoff: a takeover whose router dies
together with the donor's client is the double fault that docs/guarantees.md excludes.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from time import time_ns

import aiohttp

from soak.outages import Outage
from soak.world import SETTLES_WITHIN, World
from support.conditions import eventually
from support.events import LOST, Event, Kind, to_line
from support.own_broker import OwnBroker
from support.processes import Client
from support.routers import ROUTER

KILLED_FOR, FROZEN_FOR, TWO_AWAY_FOR = 15.0, 20.0, 30.0
"""Seconds, at most; what is killed takes some more to start."""
TICK = 8
"""Seconds, and a quarter more, after which a node that says nothing is lost to the others, while one is cut off."""
CUT_FROM, CUT_TO = 12.0, 25.0
"""Seconds."""
PAUSE = 3.0
"""Seconds between two nodes of a rolling restart, at most."""
TOLD_WITHIN = 0.2
"""Seconds within which a router has said that a handoff has begun."""
NODE = "node"
"""Whose reports say that one does nothing."""
TRIES = 5
QUIET_WITHIN = 10.0
"""Seconds for which a moment without a handoff is waited for, each time."""
STILL = 3.0
"""Seconds for which a session must have gone on, with all nodes, to have outlived a fault."""


async def kill_node(world: World, rng: Random) -> None:
    """SIGKILL; it starts again at once or after a while."""
    victim = rng.choice(world.nodes.all)
    await _kill(world, [victim], name="node killed", seconds=rng.choice([0.0, rng.uniform(0, KILLED_FOR)]))


async def two_nodes_away(world: World, rng: Random) -> None:
    """Two of three are killed at the same time: nothing has a majority."""
    victims = rng.sample(world.nodes.all, 2)
    await _kill(world, victims, name="two nodes away", seconds=rng.uniform(0, TWO_AWAY_FOR))


async def restart_nodes(world: World, rng: Random) -> None:
    """A rolling restart: each stops in order and starts again, and then the next one."""
    order = rng.sample(world.nodes.all, len(world.nodes.all))
    pauses = [rng.uniform(0, PAUSE) for _ in order]
    async with world.session:
        for node, pause in zip(order, pauses, strict=True):
            await _restart(world, node)
            await asyncio.sleep(pause)


async def freeze_node(world: World, rng: Random) -> None:
    """SIGSTOP, and SIGCONT before others take it for dead; its connections stay."""
    victim, seconds = rng.choice(world.nodes.all), rng.uniform(1, FROZEN_FOR)
    async with world.session:
        depends = await _depends(world, [victim])
        async with _outage(world, "node frozen", depends=depends, victims=[victim]), _still(world):
            await victim.freeze()
            try:
                await asyncio.sleep(seconds)
            finally:
                await victim.thaw()


async def cut_node_off(world: World, rng: Random) -> None:
    """Nothing passes between it and anybody else, until it is lost to the others and has found out.

    Its clients leave it before, as they should when its network is about to fail: one that goes on with what it holds
    there is not the only holder any more (docs/guarantees.md, the limits). They leave the one, too, that starts anew
    with it when it is over; a session may be on either, or end because it is cut in two.
    """
    healed, seconds = world.nodes.healed, rng.uniform(CUT_FROM, CUT_TO)
    victim = rng.choice(healed)
    outage = _outage(world, "node cut off", depends=True, victims=healed)
    async with world.session, outage, world.nodes.ticking(TICK):
        for node in healed:
            await _drain(world, node)
        async with _still(world):
            await victim.cut()
            try:
                await asyncio.sleep(seconds)
            finally:
                await victim.mend()
                await victim.up()


@asynccontextmanager
async def _still(world: World) -> AsyncIterator[None]:
    """Tells that a node does nothing: it may have the leader of any queue."""
    world.group.spool.note(NODE, Kind.NODE_STILL)
    try:
        yield
    finally:
        world.group.spool.note(NODE, Kind.NODE_BACK)


async def _kill(world: World, victims: Sequence[OwnBroker], *, name: str, seconds: float) -> None:
    async with world.session:
        depends = await _depends(world, victims)
        try:
            if not await _frozen_in_time(world, victims, depends=depends):
                world.done["  no node killed, for handoffs went on"] += 1
                return
            # Frozen they give nothing to anybody, so what is reported now is exact.
            async with _outage(world, name, depends=depends, victims=victims):
                _report_clients(world, victims)
                world.kills += len(victims)
                await asyncio.gather(*(node.kill() for node in victims))
                try:
                    await asyncio.sleep(seconds)
                finally:
                    await asyncio.gather(*(node.up() for node in victims))
        finally:
            await asyncio.gather(*(node.thaw() for node in victims))


async def _frozen_in_time(world: World, victims: Sequence[OwnBroker], *, depends: bool) -> bool:
    """Freeze them, at a moment at which they may be killed; False, and nothing is frozen, if there is none."""
    for _ in range(TRIES):
        await asyncio.gather(*(node.sync() for node in victims))
        await asyncio.gather(*(node.freeze() for node in victims))
        await asyncio.sleep(TOLD_WITHIN)
        if not (depends and _clients(world, victims) and _hands_off(world)):
            return True
        await asyncio.gather(*(node.thaw() for node in victims))
        with suppress(AssertionError):
            await eventually(lambda: not _hands_off(world), "handoffs go on", QUIET_WITHIN)
    return False


async def _restart(world: World, node: OwnBroker) -> None:
    depends = await _depends(world, [node])
    if depends:
        await _drain(world, node)
    async with _outage(world, "node restarted", depends=depends, victims=[node]):
        _report_clients(world, [node])
        try:
            await node.down()
        finally:
            await node.up()


async def _drain(world: World, node: OwnBroker) -> None:
    """End the connections of its clients, who go to others, as before maintenance: the router's ends after these."""
    world.nodes.leave([node])  # they come back when the fault is over
    closed: set[str] = set()

    async def drained() -> bool:
        left = [client for client in _clients(world, [node]) if client.name not in closed]
        with suppress(aiohttp.ClientError):
            connections = await world.nodes.connections() if left else {}
            for client in left:
                if (connection := connections.get(client.name)) is not None:
                    world.group.spool.note(client.name, Kind.GONE, LOST)
                    closed.add(client.name)
                    await world.nodes.close(connection)
        return not _clients(world, [node])

    await eventually(drained, lambda: f"clients stay: {_clients(world, [node])}", SETTLES_WITHIN, every=0.2)


def _clients(world: World, victims: Sequence[OwnBroker]) -> list[Client]:
    """The consumers that are connected to these nodes, or about to be."""
    urls = {node.url for node in victims}
    return [client for client in world.consumers() if client.url in urls]


def _report_clients(world: World, victims: Sequence[OwnBroker]) -> None:
    for client in _clients(world, victims):
        world.group.spool.note(client.name, Kind.GONE, LOST)


def _hands_off(world: World) -> bool:
    """Whether a handoff is under way, or nobody can say."""
    router = world.active
    return router is None or router.report is None or bool(router.report.handoffs)


async def _depends(world: World, victims: Sequence[OwnBroker]) -> bool:
    """Whether the router's session needs one of these nodes.

    It is connected there, or a classic source is there and nowhere else, or too few nodes stay for any of its queues.
    Its second connection, by which it declares and polls, it opens again.
    """
    found: list[OwnBroker] = []
    reads: list[OwnBroker] = []

    async def known() -> bool:
        router = world.active
        if router is None:
            return False
        with suppress(aiohttp.ClientError):
            found[:] = await world.nodes.nodes_of(world.title(router))
            reads[:] = await world.nodes.nodes_of(f"{world.title(router)} source")
        return len(found) == 1

    await eventually(known, lambda: f"it is not seen where the router is connected: {found}", SETTLES_WITHIN, every=0.2)
    needed = {*found, *reads, *([world.source_node] if world.source_node is not None else [])}
    return len(victims) > 1 or bool(needed.intersection(victims))


@asynccontextmanager
async def _outage(world: World, name: str, *, depends: bool, victims: Sequence[OwnBroker]) -> AsyncIterator[None]:
    """Around the time for which nodes are away.

    A session that depends on them may end, or outlive it. Its end is reported as of before the fault, once it is known:
    nothing that is repeated in a session that went on has an excuse.
    """
    if depends:
        await world.unsound()
    began, epoch = time_ns(), world.epoch
    world.nodes.leave(victims)
    watching = asyncio.create_task(_ended(world, epoch), name=f"session after {name}")
    try:
        try:
            yield
        finally:
            world.nodes.back(victims)
        ended, routed = await watching
    except BaseException:
        watching.cancel()
        if depends:
            _report_session(world, began)
        raise
    world.outages.append(Outage(name=name, began=began, routed=routed if ended or depends else began))
    if ended and depends:
        _report_session(world, began)
        world.group.spool.note(ROUTER, Kind.ROUTER_UP)
    elif ended:
        world.done["  the session ended, though all that it needs was there"] += 1
    await world.taken_over()


def _report_session(world: World, began: int) -> None:
    event = Event(began, Kind.ROUTER_DOWN, ROUTER)
    world.group.spool.append(ROUTER, to_line(event), writer="test")


async def _ended(world: World, epoch: int) -> tuple[bool, int]:
    """Whether the session ended that was the router's before, and when one was seen to route after the fault."""

    def another() -> bool:
        router = world.active
        return router is not None and router.report is not None and router.report.epoch > epoch

    def routed() -> int:
        router = world.active
        return router.report.counters.routed if router is not None and router.report is not None else 0

    def otherwise() -> str:
        return f"nothing is routed after epoch {epoch}: {[router.report for router in world.running]}"

    await eventually(lambda: another() or world.nodes.whole, otherwise, SETTLES_WITHIN, clock=world.nodes.clock)
    start = routed()
    await eventually(lambda: another() or routed() > start, otherwise, SETTLES_WITHIN)
    seen = time_ns()
    if not another():
        await asyncio.sleep(STILL)
    return another(), seen
