"""One node of three is lost: a router goes on through another one, within seconds."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from yarl import URL

from support.broker import QUORUM
from support.broker_script import NoBrokerError
from support.cluster import Cluster, lost
from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.own_broker import OwnBroker
from support.processes import Clients
from support.routers import ROUTER

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Cluster]:
    cluster = Cluster("cluster")
    try:
        asyncio.run(cluster.up())
    except NoBrokerError as error:
        pytest.skip(str(error))
    yield cluster
    asyncio.run(cluster.down())


@pytest.fixture
async def cluster(started_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Clients, and what the tests look at, are connected to the second node."""
    await started_cluster.up()
    monkeypatch.setenv("PARTYMQ_AMQP_URL", started_cluster.nodes[1].url)
    monkeypatch.setenv("PARTYMQ_MANAGEMENT_URL", started_cluster.nodes[1].management_url)
    return started_cluster


def _address(node: OwnBroker) -> tuple[str, int]:
    url = URL(node.url)
    return url.host or "", url.port or 0


async def _nodes_of_router(g: Group, cluster: Cluster) -> list[OwnBroker]:
    """The nodes that the router is connected to; clients are connected to the second."""
    found: set[str] = set()

    async def known() -> bool:
        found.clear()
        found.update(await cluster.nodes[1].nodes_of(f"partymq {g.config.group}"))
        return bool(found)

    await eventually(known, "the management API shows no connection of the router's", every=0.2)
    return [node for node in cluster.nodes if await node.name() in found]


@pytest.mark.parametrize("source", ["classic", "quorum"])
async def test_the_node_of_the_router_is_killed(tmp_path: Path, cluster: Cluster, source: str) -> None:
    """A quorum source waits for the node: see `partymq.amqp.lostnodes`."""
    async with group(tmp_path, source_arguments=QUORUM if source == "quorum" else None) as g:
        first, _, third = cluster.nodes
        (host, port), other = _address(first), _address(third)
        g.config = replace(g.config, broker=replace(g.config.broker, host=host, port=port, others=(other,)))
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=200, keys=50)).started()
        await g.progress(200)
        [victim] = await _nodes_of_router(g, cluster)
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        async with lost(victim):
            if source == "classic":
                await g.progress(100, deadline=15.0)
            else:
                await eventually(
                    lambda: g.ready == "NodeLost" and "the queue source-" in g.report.ready.message,
                    lambda: f"nobody is told what is waited for: {g.report.ready}",
                )
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        await g.progress(300)
        await g.audited(producer)


async def test_a_client_is_lost_with_its_node_and_taken_over_at_once(tmp_path: Path, cluster: Cluster) -> None:
    """RabbitMQ 4.3 keeps what it held for some seconds, and a takeover that began meanwhile would never end."""
    first = cluster.nodes[0]
    async with group(tmp_path) as g, Clients(g.spool, first.url) as elsewhere:
        await g.route()
        g.set_pod("a")
        client = await (await elsewhere.consumer(g.names.inbox("a"), name="a", prefetch=10, hold_after=20)).started()
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=200, keys=50)).started()
        await eventually(lambda: g.waiting_in_inbox("a") > 20, "nothing waits behind what the client holds")
        async with lost(first):
            await client.over()
            g.set_pod("a", None)
            await g.owners("b", deadline=30.0)
            await g.progress(300)
        await g.audited(producer)


async def test_the_leaders_of_a_groups_queues_are_not_all_on_one_node(tmp_path: Path, cluster: Cluster) -> None:
    async with group(tmp_path) as g:
        await g.route()
        for name in ("a", "b", "c"):
            await g.join(name)
        await g.owners("a", "b", "c")
        listed = await cluster.nodes[1].control("list_queues", "name", "leader", "--formatter", "csv")
        leaders = {line.split(",")[1] for line in listed.splitlines() if g.names.prefix in line}
        assert len(leaders) > 1, listed
