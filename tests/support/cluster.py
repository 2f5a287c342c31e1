"""Nodes of RabbitMQ that are one cluster, mostly three, for tests that take one of them away.

Invariant: each node is an instance of its own of `hack/broker.sh`, so nothing that happens here is seen elsewhere.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aio_pika
from aio_pika.exceptions import AMQPError

from support.broker import QUORUM, temporary_queue
from support.conditions import eventually
from support.own_broker import OwnBroker

LOG = logging.getLogger(__name__)

NODES = 3
USUAL_TICK = 60
"""Seconds."""
SERVES_WITHIN = 60.0
TRY = 5.0
"""Seconds for one try."""
CHANNELS = "[erlang:process_info(P, current_stacktrace) || P <- rabbit_channel:list_local()]."
"""What each is doing."""


class Cluster:
    """Its nodes by number; `up` first."""

    def __init__(self, name: str, count: int = NODES) -> None:
        self.nodes = [OwnBroker(f"{name}-n{number}" if count > 1 else name) for number in range(count)]

    async def up(self) -> None:
        """Starts what does not run, and makes one cluster of them where they are none."""
        for node in self.nodes:
            await node.up()
        if len(self.nodes) == 1:
            return
        first = await self.nodes[0].name()
        for node in self.nodes[1:]:
            if first not in await node.control("eval", "rabbit_nodes:list_members()."):
                await node.control("stop_app")
                await node.control("reset")
                await node.control("join_cluster", first)
                await node.control("start_app")
        await self._online()

    async def down(self) -> None:
        """Stops them, with all that they have."""
        for node in self.nodes:
            await node.down(purge=True)

    @asynccontextmanager
    async def ticking(self, seconds: int) -> AsyncIterator[None]:
        """In the block, a node that says nothing is lost to the others after so many seconds, and a quarter more.

        A minority of nodes then stops, where the cluster's metadata is in Mnesia: else it would not come back by
        itself. Afterwards all are there, as they are usually.
        """
        await self._set(seconds, "pause_minority")
        try:
            yield
        finally:
            await self._heal()
            await self._online()
            await self._set(USUAL_TICK, "ignore")

    async def _heal(self) -> None:
        """Nodes that took each other for lost go on with metadata of their own: a queue is there on one, not on others.

        They seem to be online all the same. All follow the second one, which tests are connected to.
        """
        for node in self.healed:
            await node.control("stop_app")
            await node.control("start_app")

    @property
    def healed(self) -> list[OwnBroker]:
        """The nodes that follow the second one."""
        return [node for number, node in enumerate(self.nodes) if number != 1]

    async def _set(self, tick: int, handling: str) -> None:
        for node in self.nodes:
            await node.control(
                "eval",
                f"net_kernel:set_net_ticktime({tick}, 0), "
                f"application:set_env(rabbit, cluster_partition_handling, {handling}).",
            )

    async def _online(self) -> None:
        for node in self.nodes:
            await node.control("await_startup")
            await node.control("await_online_nodes", str(len(self.nodes)))
        for node in self.nodes:  # being online is not yet having elected leaders
            if not await _comes_to_serve(node):
                doing = await node.control("eval", CHANNELS)
                LOG.warning("%s serves no quorum queue; its channels: %s", node.url, doing)
                await node.control("stop_app")
                await node.control("start_app")
                await eventually(partial(_serves, node), f"{node.url} serves no quorum queue", SERVES_WITHIN)
        await eventually(self._spreads, "a quorum queue does not get a member on each node", SERVES_WITHIN)

    async def _spreads(self) -> bool:
        """Whether a quorum queue gets a member on each node.

        A node that others cannot reach when a queue is declared gets none for now ("servers failed to start" in the
        log), and such a queue has lost its majority as soon as another node is away.
        """
        node = self.nodes[0]
        async with temporary_queue(node.url, "spreads", QUORUM) as queue:
            listed = json.loads(await node.control("list_queues", "name", "online", "--formatter", "json"))
            (online,) = (each["online"] for each in listed if each["name"] == queue)
            return len(online) == len(self.nodes)


async def _comes_to_serve(node: OwnBroker) -> bool:
    """False where something is wrong with it.

    A node of 4.0.5 that had been killed once answered no deletion for a quarter of an hour. As an administrator would,
    we look what it does, and start it anew: no test is about that.
    """
    try:
        await eventually(partial(_serves, node), "", SERVES_WITHIN)
    except AssertionError:
        return False
    return True


async def _serves(node: OwnBroker) -> bool:
    """Whether a quorum queue that is declared there takes a message and gives it out."""
    try:
        async with (
            asyncio.timeout(TRY),
            temporary_queue(node.url, "serves", QUORUM) as queue,
            await aio_pika.connect(node.url) as connection,
        ):
            channel = await connection.channel()
            await channel.default_exchange.publish(aio_pika.Message(b""), queue)
            return await (await channel.get_queue(queue)).get(no_ack=True, fail=False) is not None
    except (TimeoutError, AMQPError, OSError):
        return False


@asynccontextmanager
async def frozen(node: OwnBroker) -> AsyncIterator[None]:
    """The node is frozen for the time of the block: its connections stay, and nobody is told."""
    await node.freeze()
    try:
        yield
    finally:
        await node.thaw()
        await node.up()


@asynccontextmanager
async def cut_off(node: OwnBroker) -> AsyncIterator[None]:
    """Nothing passes between the node and anybody else for the time of the block, and nobody is told."""
    await node.cut()
    try:
        yield
    finally:
        await node.mend()
        await node.up()


@asynccontextmanager
async def lost(node: OwnBroker) -> AsyncIterator[None]:
    """The node is killed for the time of the block."""
    await node.kill()
    try:
        yield
    finally:
        await node.up()
