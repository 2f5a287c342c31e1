"""Two replicas of the operator: one routes a group, the other takes over however that goes, and people see one story.

The second replica is a release of its own beside the first: on a node's network two pods of one Deployment would want
the same port. To each other they are replicas like any others.
"""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import aio_pika
import pytest_asyncio

from partymq.core.spec import GroupId
from partymq.kube.replicas import weight
from support import stage
from support.broker import ONE_ACTIVE_CONSUMER
from support.conditions import eventually
from support.events import Kind
from support.field import Field, MakeField
from support.kube import Kube

SECOND = "partymq-second"
KILLED_WITHIN = 5.0
FROZEN_WITHIN = 40.0
"""Seconds: the broker gives a silent connection up after two to three heartbeats of 10 s."""


@pytest_asyncio.fixture(loop_scope="session", scope="module", autouse=True)
async def _two_replicas(cluster: Kube, environment: stage.Environment, *, everywhere: bool) -> AsyncIterator[None]:
    async with stage.operator(cluster, environment, everywhere=everywhere, release=SECOND):
        for release in (stage.RELEASE, SECOND):
            await stage.share_processes_of_operator(cluster, release)
        yield


async def router(field: Field) -> str:
    return str((await field.status()).get("router", ""))


async def routed_by_another(field: Field, than: str, deadline: float) -> float:
    async def is_so() -> bool:
        return await router(field) not in ("", than)

    return await eventually(is_so, f"no other replica than {than} routes the group", deadline)


async def quiet(field: Field, seconds: float) -> None:
    """Wait until nothing was written for so long: the group may first move to the replica that it prefers."""
    version, since = "", monotonic()

    async def is_so() -> bool:
        nonlocal version, since
        now = (await field.group())["metadata"]["resourceVersion"]
        if now != version:
            version, since = now, monotonic()
        return monotonic() - since >= seconds

    await eventually(is_so, "the status is written again and again", 90, every=0.5)


async def test_groups_are_spread_over_the_replicas(make_field: MakeField) -> None:
    async with make_field() as one, make_field() as other:
        pods = sorted(await stage.operator_pods(one.cluster))

        def preferred(field: Field) -> str:
            group = GroupId(namespace=field.cluster.namespace, name=field.name)
            return max(pods, key=lambda pod: weight(pod, group))

        await asyncio.gather(one.create(), other.create())
        await one.deploy(2)
        producer = await one.produce()

        async def spread() -> bool:
            return [await router(one), await router(other)] == [preferred(one), preferred(other)]

        await eventually(spread, "the groups are not where they should be", 120, every=0.5)
        await one.progress(300)
        verdict = await one.finish(producer)
        assert verdict.ok, verdict.report()
        assert (verdict.excused_by_router, verdict.excused_by_consumer) == (0, 0), verdict.report()


async def test_both_are_ready_one_routes_and_nothing_is_written_or_told_twice(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        pods = await stage.operator_pods(field.cluster)
        assert list(pods.values()) == [True, True]
        assert await router(field) in pods
        await quiet(field, 8.0)  # for longer than it takes a stand-by to see that it is one
        events = await field.cluster.events(field.name)
        assert "Standby" not in {event["reason"] for event in events}
        told = [event["message"] for event in events if event["reason"] == "MemberActive" and event["count"] != 1]
        assert told == []


async def test_a_killed_router_is_replaced_in_seconds(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        before, killed = await field.owners(), await router(field)
        field.spool.note("router", Kind.ROUTER_DOWN)
        began = monotonic()
        await stage.kill_process(field.cluster, killed, stage.OPERATOR)
        await routed_by_another(field, killed, 30)
        took = monotonic() - began
        field.spool.note("router", Kind.ROUTER_UP)
        assert took < KILLED_WITHIN
        await field.progress(600)
        assert await field.owners() == before
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()
        assert verdict.excused_by_consumer == 0, verdict.report()


async def test_a_frozen_router_is_replaced_and_harmless_when_it_goes_on(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        before, frozen = await field.owners(), await router(field)
        field.spool.note("router", Kind.ROUTER_DOWN)
        began = monotonic()
        await stage.signal_process(field.cluster, frozen, "SIGSTOP")
        try:
            await routed_by_another(field, frozen, 60)
            took = monotonic() - began
        finally:
            await stage.signal_process(field.cluster, frozen, "SIGCONT")
        field.spool.note("router", Kind.ROUTER_UP)
        assert took < FROZEN_WITHIN
        await field.progress(900)
        assert await router(field) != frozen
        assert stage.condition(await field.group(), "Ready")["reason"] == "Routing"
        assert await field.owners() == before
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()
        assert verdict.excused_by_consumer == 0, verdict.report()


async def test_a_rolling_update_of_the_operator_under_load_repeats_nothing(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(3)
        producer = await field.produce()
        before = await field.owners()
        for release in (stage.RELEASE, SECOND, stage.RELEASE):
            await stage.restart_operator(field.cluster, release)
            await field.says("Routing")
            await field.progress(300)
        assert await field.owners() == before
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()
        assert (verdict.excused_by_router, verdict.excused_by_consumer) == (0, 0), verdict.report()
        gone = [e for e in await field.cluster.events(field.name) if e["reason"] in ("MemberLeaving", "MemberGone")]
        assert len({event["message"] for event in gone}) == len(gone)


async def test_a_group_that_is_deleted_leaves_nothing_with_two_replicas(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        await field.finish(producer)
        await field.cluster.kubectl("delete", "partitiongroup", field.name, "--timeout=30s")
        assert await stage.delete_queues(f"partymq.{field.cluster.namespace}.{field.name}.") == []


async def test_a_router_of_another_installation_is_named(make_field: MakeField) -> None:
    """Somebody else holds the journal: none of ours routes, and the status says what to look for."""
    async with make_field() as field, await aio_pika.connect(field.environment.amqp_url) as connection:
        channel = await connection.channel()
        journal = f"partymq.{field.cluster.namespace}.{field.name}.journal"
        arguments = {**ONE_ACTIVE_CONSUMER, "x-delivery-limit": 1_000_000, "x-consumer-timeout": 31_536_000_000}
        queue = await channel.declare_queue(journal, durable=True, arguments=arguments)  # type: ignore[arg-type]
        await queue.consume(_swallow)
        await field.create()
        await field.says("Standby", deadline=30)
        assert (
            f"partymq {field.cluster.namespace}/{field.name}"
            in stage.condition(await field.group(), "Ready")["message"]
        )
        await channel.close()
        await field.says("NoMembers", deadline=20)


async def _swallow(message: object) -> None:
    """Keeps it unacknowledged, as the router that it stands for."""
