"""What may go wrong with queues and messages: a busy one, a stranger's, a full one, a message that fits nowhere.

Invariant: none of this ends a client or a router, so none of it excuses a repeat, but for the message that cannot be
published: the broker ends the session that tries, which is reported as the end of a router. What such a message is to
the auditor it is everywhere: it counts as handled when a pod acknowledges it, or when it is found in the dead queue.
"""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from random import Random

import aio_pika
import aiohttp
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from soak.world import SETTLES_WITHIN, World
from support.conditions import eventually
from support.events import Kind, now
from support.message import body_of, identify
from support.options import KEY_HEADER
from support.routers import ROUTER
from support.suspend import suspend_one_of

LARGE = 1_000_000
"""Bytes of a large message."""
LOWERED = 2_000_000
"""The broker's most bytes of a message, for a while; large ones go on."""
TOO_LARGE = 3_000_000
STAY = 2
"""Pods that nothing else is done to meanwhile."""
REACHED_WITHIN = 300.0
"""Seconds within which a message is reached on a busy machine: tens of thousands may stand before it."""
ALL_WELL_WITHIN = 20.0
"""Seconds for which a moment is waited for in which nothing is done to any pod."""
USUAL_LIMIT = 16 * 1024 * 1024

AWAY = (AMQPError, OSError)
"""What a broker that is being restarted is to us."""


async def suspend_queue(world: World, rng: Random) -> None:
    """One of the group's queues does nothing for a while."""
    names = world.group.names
    kinds = {
        "source": [world.group.source],
        "journal": [names.journal],
        "outlets": [names.outlets],
        "inbox": [names.inbox(name) for name in rng.sample(sorted(world.pods), len(world.pods))],
        "backlog": [names.backlog(p) for p in rng.sample(range(world.group.config.spec.partitions), 4)],
    }
    kind, seconds = rng.choice(sorted(kinds)), rng.uniform(0.1, 2.0)
    locked = world.session.locked()
    try:
        await suspend_one_of([*kinds[kind], world.group.source], seconds, url=world.nodes.url)
    except AssertionError:
        if not (locked or world.session.locked()):  # else the broker, or a node, is perhaps being restarted
            raise
    world.done[f"  of the {kind}"] += 1
    await asyncio.sleep(seconds)


async def cut_off_polls(world: World, rng: Random) -> None:
    """The broker closes the connection by which the router declares and polls."""
    router = world.active
    if router is None:
        return
    with suppress(aiohttp.ClientError):  # the broker is being restarted, which does the same
        connection = (await world.nodes.connections()).get(f"{world.title(router)} topology")
        if connection:
            await world.nodes.close(connection)


async def large_messages(world: World, rng: Random) -> None:
    """Some messages of 1 MB."""
    await world.load.publish_large(rng.randint(3, 20), LARGE)


async def inbox_of_a_stranger(world: World, rng: Random) -> None:
    """Somebody has declared a new pod's inbox his own way; later he deletes it, and the pod joins."""
    name = f"s{world.done['inbox of a stranger']}"
    inbox = world.group.names.inbox(name)
    try:
        async with await aio_pika.connect(world.nodes.url) as connection:
            await (await connection.channel()).declare_queue(inbox, durable=True)
    except AWAY:
        return
    pod = world.pod(name, rng)
    async with pod.taken():
        await pod.run()  # it consumes what is there, and gets nothing
        await asyncio.sleep(rng.uniform(0.5, 4))
        client = pod.client
        await eventually(
            lambda: _deleted(world, inbox),
            f"{inbox} cannot be deleted",
            SETTLES_WITHIN,
            every=0.5,
            clock=world.nodes.clock,
        )
        if client is not None:
            await client.over()
        await pod.started_again()


async def _deleted(world: World, queue: str) -> bool:
    try:
        async with await aio_pika.connect(world.nodes.url) as connection:
            await (await connection.channel()).queue_delete(queue)
    except AWAY:
        return False
    return True


async def no_more_queues(world: World, rng: Random) -> None:
    """The virtual host takes no new queue for a while."""
    async with world.session:
        await _ctl(world, "set_vhost_limits", json.dumps({"max-queues": 1}))
        try:
            await asyncio.sleep(rng.uniform(1, 4))
        finally:
            await _ctl(world, "clear_vhost_limits")


async def full_inbox(world: World, rng: Random) -> None:
    """A pod's inbox refuses what is beyond a few messages, for a while. What it refused comes after what it took."""
    pod = rng.choice(world.free())
    inbox = world.group.names.inbox(pod.name).replace(".", "\\.")
    async with pod.taken(), world.session:
        limits = json.dumps({"max-length": 5, "overflow": "reject-publish"})
        await _ctl(world, "set_policy", "--apply-to", "queues", "full", f"^{inbox}$", limits)
        try:
            await asyncio.sleep(rng.uniform(1, 5))
        finally:
            await _ctl(world, "clear_policy", "full")


async def _ctl(world: World, *arguments: str) -> None:
    await world.nodes.some.control(*arguments)


async def unpublishable(world: World, rng: Random) -> None:
    """A message that the broker took once, and refuses to whoever publishes it again, until its limit is raised."""
    number = world.done["message that cannot be published"]
    actor = key = f"too-large-{number}"
    async with world.session:
        try:
            await eventually(lambda: len(world.free()) == len(world.pods), "pods are slow or stuck", ALL_WELL_WITHIN)
        except AssertionError:
            world.done["  not tried, for pods were slow or stuck"] += 1
            return
        # No pod may end while the router's end excuses repeats, so one that is slow or stuck would stay so, and the
        # message wait behind it for ever. Nor may all be on their way out: nobody would be left to handle it.
        async with AsyncExitStack() as stay:
            for pod in rng.sample(world.free(), min(STAY, len(world.free()))):
                await stay.enter_async_context(pod.taken())
            await _publish_and_wait(world, rng, key, actor)


async def _publish_and_wait(world: World, rng: Random, key: str, actor: str) -> None:
    await world.unsound()
    async with await aio_pika.connect(world.nodes.url) as connection:
        channel = await connection.channel()
        # It comes from a queue where it is rejected: the limit is asked for what clients publish, and for nothing else.
        waits = await channel.declare_queue(
            f"{world.group.source}.{actor}",
            durable=True,
            arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": world.group.source},
        )
        message = aio_pika.Message(
            body_of(key, 0, TOO_LARGE), headers={KEY_HEADER: key}, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        world.group.spool.append(actor, now(Kind.SENT, key, 0), writer="own")
        await channel.default_exchange.publish(message, routing_key=waits.name)
        world.group.spool.append(actor, now(Kind.CONFIRMED, key, 0), writer="own")
        world.group.spool.note(ROUTER, Kind.ROUTER_DOWN)
        await _limit(world, LOWERED)
        try:
            await (await waits.get()).reject(requeue=False)
            await asyncio.sleep(rng.uniform(1, 8))
        finally:
            await _limit(world, USUAL_LIMIT)
        if await _stays(world, key):  # people are told to pause the group; a router that is restarted does the same
            if (router := world.active) is not None:
                await router.stop()
            if not world.running:
                await world.start_router()
        await eventually(
            lambda: _handled(world, key),
            lambda: f"the message of {key} is nowhere: {[router.report for router in world.running]}",
            SETTLES_WITHIN,
            every=1.0,
        )
        await eventually(lambda: world.active is not None, "nobody routes", SETTLES_WITHIN)
        world.group.spool.note(ROUTER, Kind.ROUTER_UP)
        await world.taken_over()
        await channel.queue_delete(waits.name)


async def _limit(world: World, size: int) -> None:
    """The most bytes of a message, at each node: the one that a message is published at looks at its own."""
    for node in world.nodes.all:
        await node.control("eval", f"persistent_term:put(max_message_size, {size}).")


async def _stays(world: World, key: str) -> bool:
    """Waits until the message is handled (False), or named as one that stays where it is."""

    def named() -> bool:
        return world.active is not None and "MessageRefused" in str(world.active.report)

    async def either() -> bool:
        return named() or await _handled(world, key)

    await eventually(
        either,
        lambda: f"the message of {key} is neither handled nor named: {[router.report for router in world.running]}",
        REACHED_WITHIN,
        every=1.0,
    )
    return not await _handled(world, key)


async def _handled(world: World, key: str) -> bool:
    """Whether a pod has acknowledged the only message of the key, or it is in the dead queue, where it is taken out."""
    world.group.spool.unsettled()
    if not world.group.spool.owes(key, 0):
        return True
    async with await aio_pika.connect(world.nodes.url) as connection:
        channel = await connection.channel()
        dead = await channel.get_queue(world.group.names.dead)
        seen: list[AbstractIncomingMessage] = []
        while (message := await dead.get(fail=False)) is not None:
            seen.append(message)
            if identify(message.body, message.headers) == (key, 0):
                lines = now(Kind.RECEIVED, key, 0) + now(Kind.ACKED, key, 0)
                world.group.spool.append("dead queue", lines, writer="own")
                await message.ack()
                return True
    return False  # what else was there goes back with the connection
