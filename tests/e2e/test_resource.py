"""What people see of a group: conditions say what to do and recover by themselves, kubectl shows the truth."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import aio_pika

from support import stage
from support.broker import QUORUM
from support.conditions import eventually
from support.field import Field, MakeField

SOON = 20.0
"""Seconds within which a fixed cause must be noticed."""
AT_ONCE = 2.0
"""Seconds within which the status must be true again after a change."""


@asynccontextmanager
async def channel(field: Field) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(field.environment.amqp_url) as connection:
        yield await connection.channel()


async def message_of(field: Field) -> str:
    return stage.condition(await field.group(), "Ready")["message"]


async def test_a_missing_source_is_named_and_noticed_once_it_is_there(make_field: MakeField) -> None:
    async with make_field(source=False) as field, channel(field) as broker:
        await field.create()
        await field.says("SourceMissing")
        assert field.source in await message_of(field)
        await broker.declare_queue(field.source, durable=True, arguments=dict(QUORUM))
        await field.says("NoMembers", deadline=SOON)
        await broker.queue_delete(field.source)


async def test_a_secret_that_cannot_be_used_is_named_and_taken_up_once_it_is_mended(make_field: MakeField) -> None:
    async with make_field() as field:
        name = f"{field.name}-secret"
        spec = {"broker": {"connectionSecret": {"name": name}}}
        await field.cluster.apply(stage.partition_group(field.name, field.source, **spec))
        await field.says("InvalidSecret")
        assert name in await message_of(field)
        right = field.environment.amqp_url_in_pods
        await field.cluster.apply(stage.secret(f"amqp://guest:wrong@{right.rpartition('@')[2]}", name))
        await field.says("AccessRefused", deadline=SOON)
        await field.cluster.apply(stage.secret(right, name))
        await field.says("NoMembers", deadline=SOON)


async def _hold(message: aio_pika.abc.AbstractIncomingMessage) -> None:
    """Keeps it unacknowledged."""


async def test_a_source_that_others_consume_is_refused_until_they_are_gone(make_field: MakeField) -> None:
    async with make_field() as field:
        async with channel(field) as other:
            await (await other.get_queue(field.source)).consume(_hold)
            await field.create()
            await field.says("SourceShared")
            assert "1 other consumer" in await message_of(field)
        await field.says("NoMembers", deadline=SOON)


async def test_the_status_is_true_within_two_seconds_of_a_change(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        for paused, reason in ((True, "Paused"), (False, "Routing")):
            await field.cluster.apply(stage.partition_group(field.name, field.source, paused=paused))
            changed = monotonic()  # kubectl's own second is not ours
            await field.says(reason)
            assert monotonic() - changed < AT_ONCE
        victim = min(await field.owners())
        await field.cluster.kubectl("delete", "pod", victim, "--wait=false")
        changed = monotonic()

        async def shown() -> bool:
            states = {member["name"]: member["state"] for member in (await field.status())["members"]}
            return states.get(victim, "gone") in ("Leaving", "gone")

        await eventually(shown, f"{victim} is not shown to leave")
        assert monotonic() - changed < AT_ONCE


async def test_kubectl_shows_and_explains_groups(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create(partitions=8)
        await field.deploy(1)
        kubectl = field.cluster.kubectl
        head, *rows = (await kubectl("get", "pgrp", field.name)).splitlines()
        columns = ["NAME", "SOURCE", "PARTITIONS", "MEMBERS", "ROLLOUT", "HELD", "WORKING", "READY", "AGE"]
        assert head.split() == columns
        assert rows[0].split()[:7] == [field.name, field.source, "8", "1", "0", "True", "True"]
        assert field.name in await kubectl("get", "partymq", "-o", "name")
        explained = await kubectl("explain", "partitiongroup.spec.key")
        assert "onMissing" in explained
        assert "Where a message's key stands" in explained


async def test_a_deleted_group_takes_its_queues_with_it(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(1)
        await field.stop_consumers()
        await field.cluster.kubectl("delete", "partitiongroup", field.name, "--timeout=30s")
        assert await stage.delete_queues(f"partymq.{field.cluster.namespace}.{field.name}.") == []


async def test_groups_do_not_disturb_each_other(make_field: MakeField) -> None:
    async with make_field() as one, make_field() as other:
        await asyncio.gather(one.create(), other.create())
        await asyncio.gather(one.deploy(1), other.deploy(1))
        producers = await asyncio.gather(one.produce(), other.produce())
        await one.scale(2)
        await one.shared_by(2)
        for field, producer in zip((one, other), producers, strict=True):
            verdict = await field.finish(producer)
            assert verdict.ok, verdict.report()
