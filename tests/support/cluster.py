"""Nodes of RabbitMQ that are one cluster, mostly three, for tests that take one of them away.

Invariant: each node is an instance of its own of `hack/broker.sh`, so nothing that happens here is seen elsewhere.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.own_broker import OwnBroker

NODES = 3


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
        for node in self.nodes:
            await node.control("await_online_nodes", str(len(self.nodes)))

    async def down(self) -> None:
        """Stops them, with all that they have."""
        for node in self.nodes:
            await node.down(purge=True)


@asynccontextmanager
async def lost(node: OwnBroker) -> AsyncIterator[None]:
    """The node is killed for the time of the block."""
    await node.kill()
    try:
        yield
    finally:
        await node.up()
