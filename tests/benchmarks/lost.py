"""How long a group stands still when the node is killed that its router is connected to.

Three nodes of a cluster of its own; a classic source and all clients are on one of them, and the router is connected to
one of the two others. That one is killed, and starts again when messages are routed. A figure is the time from the kill
to the first message that is acknowledged after a new session routes.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import aiohttp

from benchmarks.harness import Run, clock
from partymq.amqp.address import parse_uri
from partymq.core.spec import BrokerAddress
from support.cluster import Cluster, lost
from support.conditions import eventually
from support.group import Group, group
from support.own_broker import OwnBroker

KILLS = 10
WITHIN = 120.0
"""Seconds, for a loaded machine."""


async def measure(run: Run) -> None:
    """Ten kills, or two."""
    cluster = Cluster("lost")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.down)
        await cluster.up()
        first, steady, third = cluster.nodes
        g = await stack.enter_async_context(
            group(run.directory / "lost", broker=_address(first, third, steady), urls=lambda _: steady.url)
        )
        await g.route()
        for name in ("a", "b"):
            await g.join(name, work=0.001)
        await g.owners("a", "b")
        await (await g.clients.producer(g.source, rate=100, keys=50)).started()
        for kill in range(2 if run.quick else KILLS):
            await g.progress(100)
            passed = await _interruption(g, [first, third], steady)
            run.say(f"lost: kill {kill + 1}: {passed:.1f} s")
            run.results.add("lost.killed", "s", passed)


def _address(first: OwnBroker, third: OwnBroker, steady: OwnBroker) -> BrokerAddress:
    """The router's; its management API stays."""
    one, other = parse_uri(first.url), parse_uri(third.url)
    return replace(one, others=((other.host, other.port),), management_uri=steady.management_url)


async def _interruption(g: Group, nodes: list[OwnBroker], steady: OwnBroker) -> float:
    names = {node: await node.name() for node in nodes}
    found: list[OwnBroker] = []

    async def known() -> bool:
        with suppress(aiohttp.ClientError):
            at = await steady.nodes_of(f"partymq {g.config.group}")
            found[:] = [node for node in nodes if names[node] in at]
        return len(found) == 1

    await eventually(known, lambda: f"it is not seen where the router is connected: {found}", WITHIN, every=0.2)
    epoch = g.report.epoch
    async with lost(found[0]):
        begun = clock()
        await eventually(lambda: g.report.routing and g.report.epoch > epoch, "no session routes", WITHIN, every=0.01)
        acked = g.spool.counts()[1]
        await eventually(lambda: g.spool.counts()[1] > acked, "nothing is acknowledged", WITHIN, every=0.01)
        passed = clock() - begun
    await asyncio.gather(*(node.control("await_online_nodes", "3") for node in nodes))
    return passed
