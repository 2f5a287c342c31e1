"""Nodes of three are lost: a router goes on through another one, or as soon as it can, and keeps all promises."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from yarl import URL

from partymq.amqp.topology import Topology
from partymq.core.membership import PodState
from partymq.router.broker.settling import is_consumed
from partymq.router.failpoints import Point
from partymq.router.reporting import consumer_scan
from support.broker import ONE_ACTIVE_CONSUMER, QUORUM
from support.cluster import Cluster, cut_off, frozen, lost
from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.own_broker import OwnBroker
from support.processes import Client, Clients
from support.routers import ROUTER

pytestmark = pytest.mark.alone


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


async def _at_work(g: Group, *nodes: OwnBroker) -> tuple[list[Client], Client]:
    """Two clients, and a producer, under way; the router is connected to the first of these nodes that answers."""
    (host, port), *others = map(_address, nodes)
    g.config = replace(g.config, broker=replace(g.config.broker, host=host, port=port, others=tuple(others)))
    await g.route()
    clients = [await g.join(name, work=0.001) for name in ("a", "b")]
    await g.owners("a", "b")
    producer = await (await g.clients.producer(g.source, rate=200, keys=50)).started()
    await g.progress(200)
    return clients, producer


SOURCES: dict[str, dict[str, object] | None] = {
    "classic": None,
    "quorum": {**QUORUM},
    "quorum with one reader": {**ONE_ACTIVE_CONSUMER, "x-consumer-disconnected-timeout": 0},
}


@pytest.mark.parametrize("source", SOURCES)
async def test_the_node_of_the_router_is_killed(tmp_path: Path, cluster: Cluster, source: str) -> None:
    """A quorum source waits for the node: see `partymq.amqp.lost_nodes`."""
    async with group(tmp_path, source_arguments=SOURCES[source]) as g:
        first, _, third = cluster.nodes
        _, producer = await _at_work(g, first, third)
        [victim] = await _nodes_of_router(g, cluster)
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        async with lost(victim):
            if source != "quorum":
                await g.progress(100, deadline=15.0)
            else:
                await eventually(
                    lambda: g.ready == "NodeLost" and "the queue source-" in g.report.ready.message,
                    lambda: f"nobody is told what is waited for: {g.report.ready}",
                )
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        await g.progress(300)
        await g.audited(producer)


TICK = 8
"""Seconds after which a node that says nothing is lost to the others, at most a quarter more."""


@pytest.mark.parametrize("silenced", [frozen, cut_off])
async def test_the_node_of_the_router_says_nothing_more(
    tmp_path: Path, cluster: Cluster, silenced: Callable[[OwnBroker], AbstractAsyncContextManager[None]]
) -> None:
    async with cluster.ticking(TICK), group(tmp_path) as g:
        first, _, third = cluster.nodes
        _, producer = await _at_work(g, first, third)
        [victim] = await _nodes_of_router(g, cluster)
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        async with silenced(victim):
            # More than was in the inboxes; the router notices after 20 s, and others need a moment each.
            await g.progress(1000, deadline=60.0)
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        await g.progress(1000)
        await g.audited(producer)


async def test_two_of_three_nodes_are_away_for_half_a_minute(tmp_path: Path, cluster: Cluster) -> None:
    """Nothing has a majority meanwhile; what nobody could see is not believed."""
    async with group(tmp_path, source_arguments=QUORUM) as g:
        first, second, third = cluster.nodes
        _, producer = await _at_work(g, second, first, third)
        owned = {member.name: member.partitions for member in g.report.members}
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        async with lost(first), lost(third):
            await asyncio.sleep(30.0)  # that long, and no condition
        await g.progress(300, deadline=90.0)
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        assert {member.name: member.partitions for member in g.report.members} == owned
        await g.audited(producer)


async def test_all_nodes_are_restarted_one_after_the_other(tmp_path: Path, cluster: Cluster) -> None:
    """As for an upgrade; clients leave a node before it stops."""
    first, second, third = cluster.nodes
    async with group(tmp_path, source_arguments=QUORUM) as g, Clients(g.spool, third.url) as elsewhere:
        here, producer = await _at_work(g, first, second, third)
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        for node in (third, first):
            await _restarted(node)
            await g.progress(200)
        for name in ("c", "d"):
            g.set_pod(name)
            await elsewhere.in_pod(g.names.inbox(name), name=name, work=0.001)
        await g.owners("a", "b", "c", "d")
        for name, client in zip(("a", "b"), here, strict=True):
            g.set_pod(name, PodState.TERMINATING)
            await client.stop()
            g.set_pod(name, None)
        await g.owners("c", "d")
        await producer.stop()
        producer = await (await elsewhere.producer(g.source, rate=200, keys=50, name="later")).started()
        await _restarted(second)
        await g.progress(300)
        g.spool.note(ROUTER, Kind.ROUTER_UP)
        await g.audited(producer)


async def _restarted(node: OwnBroker) -> None:
    """As docs/clusters.md says."""
    await node.control("eval", "rabbit_upgrade_preparation:await_online_quorum_plus_one(60000).")
    await node.down()
    await node.up()


async def test_a_client_is_lost_with_its_node_and_taken_over_at_once(tmp_path: Path, cluster: Cluster) -> None:
    """Had RabbitMQ 4.3 kept what it held for a while, a takeover that began meanwhile would never end."""
    first = cluster.nodes[0]
    async with group(tmp_path) as g, Clients(g.spool, first.url) as elsewhere:
        await g.route()
        g.set_pod("a")
        client = await elsewhere.in_pod(g.names.inbox("a"), name="a", prefetch=10, hold_after=20)
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


DYING_FROM, DYING_TO = 2.0, 4.5
"""Seconds after a node was killed in which a queue may be consumed that is being deleted while the node comes back."""


async def _forgotten(g: Group, victim: OwnBroker) -> Client:
    """A client that believes that it consumes the inbox of `a`, which does not know it (docs/rabbitmq-defects.md).

    That takes some tries: the moment is short, and not the same on every machine.
    """
    topology = await Topology.open(g.config.broker, name="tests")
    inbox, names = g.names.inbox("a"), g.names
    try:
        await topology.declare_dead_letters(names.dlx, names.dead)
        for number in range(20):
            await topology.declare_quorum(inbox, single_active=True, dead_letter_exchange=names.dlx)
            await victim.kill()
            deleting = asyncio.create_task(topology.delete(inbox))
            back = asyncio.create_task(victim.up())
            await asyncio.sleep(DYING_FROM + (DYING_TO - DYING_FROM) * (number % 6) / 5)  # that long, and no condition
            client = await g.clients.consumer(inbox, name=f"a.{number}")
            starting = asyncio.create_task(client.up())  # it waits for a queue that is gone already
            await asyncio.gather(deleting, back)
            await topology.declare_quorum(inbox, single_active=True, dead_letter_exchange=names.dlx)
            if await starting and client.running and not await is_consumed(topology, inbox):
                return client
            await client.kill()
            await topology.delete(inbox)
    finally:
        await topology.close()
    raise AssertionError("no client was forgotten")


async def test_a_client_that_the_broker_has_forgotten_is_cut_and_consumes_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    async with group(tmp_path) as g:
        client = await _forgotten(g, cluster.nodes[2])
        g.set_pod("a")
        await g.route()
        async with asyncio.timeout(90.0):
            await client.over()
        await g.notice("ConsumerForgotten")
        await g.join("a")
        await g.owners("a")
        producer = await (await g.clients.producer(g.source, rate=100, keys=20)).started()
        await g.progress(100)
        await g.audited(producer)


LEAVING = ("c", "d", "e", "f", "g", "h")


async def test_a_node_is_killed_while_inboxes_are_deleted_that_have_their_leaders_there(
    tmp_path: Path, cluster: Cluster
) -> None:
    """RabbitMQ ends the connection over which that is done: nothing may depend on it. The router is on another node."""
    _, second, third = cluster.nodes
    async with group(tmp_path) as g:
        _, producer = await _at_work(g, second)
        for name in LEAVING:
            await g.join(name, work=0.001)
        await g.owners("a", "b", *LEAVING)
        await g.progress(200)
        epoch, passed = g.report.epoch, len(g.points)
        for name in LEAVING:
            await g.client_of(name).stop()
            g.set_pod(name, None)
        await eventually(
            lambda: Point.COMMITTED in g.points[passed:], lambda: f"nobody leaves: {g.report}", every=0.001
        )
        async with lost(third):
            await g.progress(300)
            await eventually(
                lambda: g.inboxes == {"a", "b"}, lambda: f"inboxes are not deleted: {g.inboxes}, {g.notices}", 60.0
            )
        assert g.report.epoch == epoch
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


async def test_a_queue_without_a_member_on_a_node_is_told_with_what_mends_it(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ gives those who are connected there nothing of it, and says nothing."""
    for every in ("LOOK_EVERY", "QUEUES_EVERY", "SECOND_LOOK"):
        monkeypatch.setattr(consumer_scan, every, 1.0)
    first, second, third = cluster.nodes
    async with group(tmp_path) as g:
        _, producer = await _at_work(g, first, third)
        inbox, node = g.names.inbox("a"), await second.name()
        member = f'list_to_atom("%2F_{inbox}")'
        await second.control("eval", f"ra:force_delete_server(quorum_queues, {{{member}, node()}}).")
        told = await g.notice("UnsafeQueue", f"{inbox!r} has no member on {node}")
        assert f"`rabbitmq-queues add_member --vhost / {inbox} {node}`" in told.message
        for what in (f'delete_member(<<"/">>, <<"{inbox}">>, \'{node}\')', f"add_member(Q, '{node}')"):
            found = f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{inbox}">>))'
            await first.control("eval", f"{found}, rabbit_quorum_queue:{what}.")
        await g.notice("QueuesSafe")
        await g.restart("a", work=0.001)
        await g.progress(300)
        await g.audited(producer)
