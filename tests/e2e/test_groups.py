"""What people do to groups while messages flow: settings, secrets, pauses, moves of pods from one group to another."""

import asyncio
from time import monotonic

import aiohttp

from support import stage
from support.broker import management_url, unique
from support.conditions import eventually
from support.field import Field, MakeField
from support.kube import CommandError
from support.verdict import Verdict

SOON = 20.0
"""Seconds within which a fixed cause must be noticed."""


def nothing_was_repeated(verdict: Verdict) -> None:
    assert verdict.ok, verdict.report()
    assert (verdict.excused_by_consumer, verdict.excused_by_router) == (0, 0), verdict.report()


async def change(field: Field, **spec: object) -> None:
    """Change the group's spec, and wait until the router has taken it up."""
    await field.create(**spec)

    async def taken_up() -> bool:
        group = await field.group()
        observed = group["status"]["observedGeneration"] == group["metadata"]["generation"]
        return observed and stage.condition(group, "Ready").get("reason") in ("Routing", "Paused")

    await eventually(taken_up, "the change is not taken up", SOON)


async def test_settings_change_under_load_and_nothing_is_repeated(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(3)
        producer = await field.produce()
        before = await field.owners()
        for spec in (
            {"inbox": {"window": 32}},
            {"inbox": {"window": 512}, "members": {"rejoinSeconds": 10}},
            # The same key at another place: its partitions stay.
            {"key": {"from": "body", "name": "key"}, "handoff": {"timeoutSeconds": 60}},
            {"key": {"from": "body", "name": "/key", "onMissing": "deadLetter"}, "backlog": {"limit": 5000}},
        ):
            await change(field, **spec)
            await field.progress(300)
            assert await field.owners() == before
        events = await field.cluster.events(field.name)
        told = [event["count"] for event in events if event["reason"] == "MemberActive"]
        assert told == [1, 1, 1]
        nothing_was_repeated(await field.finish(producer))


async def test_a_pause_under_load_lets_messages_wait_in_the_source(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        await change(field, paused=True)
        await field.says("Paused")
        waiting = field.spool.unsettled()
        await eventually(lambda: field.spool.unsettled() > waiting + 300, "the producer does not go on", 30)
        await change(field, paused=False)
        await field.progress(600)
        nothing_was_repeated(await field.finish(producer))


async def test_the_password_is_rotated_under_load(make_field: MakeField) -> None:
    async with make_field() as field, aiohttp.ClientSession() as session:
        user = unique("rotated")
        api = f"{management_url()}/api"
        async with session.put(f"{api}/users/{user}", json={"password": "new", "tags": ""}) as answer:
            answer.raise_for_status()
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        async with session.put(f"{api}/permissions/%2F/{user}", json=rights) as answer:
            answer.raise_for_status()
        try:
            await field.create()
            await field.deploy(2)
            producer = await field.produce()
            place = field.environment.amqp_url_in_pods.rpartition("@")[2]
            await field.cluster.apply(stage.secret(f"amqp://{user}:new@{place}"))

            async def logged_in() -> bool:
                async with session.get(f"{api}/connections?columns=user,user_provided_name") as found:
                    connections = await found.json()  # five seconds old
                name = f"partymq {field.cluster.namespace}/{field.name} "
                ours = [c["user"] for c in connections if str(c.get("user_provided_name")).startswith(name)]
                return bool(ours) and set(ours) == {user}

            await eventually(logged_in, "the new password is not used", 60, every=1.0)
            await field.says("Routing")
            await field.progress(300)
            nothing_was_repeated(await field.finish(producer))
        finally:
            await field.cluster.apply(stage.secret(field.environment.amqp_url_in_pods))
            await field.clear()
            async with session.delete(f"{api}/users/{user}") as answer:
                answer.raise_for_status()


async def test_a_pod_that_leaves_the_group_by_its_annotation_gives_everything_up(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(3)
        producer = await field.produce()
        leaver = min(await field.owners())
        stayed = set(await field.owners()) - {leaver}
        await field.cluster.kubectl("annotate", "pod", leaver, "partymq.io/group-")

        async def left() -> bool:
            return set(await field.owners()) == stayed

        await eventually(left, f"{leaver} still owns partitions", 30)
        await field.progress(300)
        nothing_was_repeated(await field.finish(producer))


async def test_pods_move_from_one_group_to_another_and_back(make_field: MakeField) -> None:
    async with make_field() as one, make_field() as other:
        await asyncio.gather(one.create(), other.create())
        await one.deploy(2)
        producer = await one.produce()

        async def join(group: Field) -> None:
            pods = stage.consumers(one.name, group.name, one.environment, one.reports, replicas=2)
            await one.cluster.apply(pods)

            async def is_so() -> bool:
                names, owners = await one.pods(), await group.owners()
                return len(names) == 2 and owners.keys() == names

            await eventually(is_so, f"the pods do not own the partitions of {group.name}", 60)

        await join(other)
        await one.says("NoMembers")
        assert await one.owners() == {}
        await join(one)
        await other.says("NoMembers")
        assert await other.owners() == {}
        await one.progress(600)
        nothing_was_repeated(await one.finish(producer))


async def test_the_second_group_on_a_source_is_refused_until_the_first_is_gone(make_field: MakeField) -> None:
    async with make_field() as first, make_field() as second:
        await first.create()
        await first.deploy(1)
        producer = await first.produce()
        await second.cluster.apply(stage.partition_group(second.name, first.source))
        await second.says("SourceTaken")
        message = stage.condition(await second.group(), "Ready")["message"]
        assert f"{first.cluster.namespace}/{first.name}" in message
        await first.progress(300)
        nothing_was_repeated(await first.finish(producer))
        await first.cluster.kubectl("delete", "pgrp", first.name, "--timeout=30s")
        await second.says("NoMembers", deadline=SOON)


async def test_a_container_that_crashes_again_and_again_keeps_its_partitions_for_the_rejoin_time(
    make_field: MakeField,
) -> None:
    rejoin = 8
    async with make_field() as field:
        await field.create(members={"rejoinSeconds": rejoin})
        await field.deploy(2, work=0.002)
        producer = await field.produce(rate=200)
        before = await field.owners()
        victim, other = sorted(before)
        crashing = asyncio.create_task(crash_for_ever(field, victim))
        try:
            began = monotonic()

            async def moved() -> bool:
                return victim not in await field.owners()

            await eventually(moved, f"{victim} keeps its partitions", 60)
            assert monotonic() - began > rejoin * 0.9
            await field.progress(300)
        finally:
            crashing.cancel()
            await asyncio.wait({crashing})
        await field.shared_by(2)
        assert set(await field.owners()) == {victim, other}
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()


async def crash_for_ever(field: Field, pod: str) -> None:
    """Kill a pod's client whenever it is there."""
    while True:
        try:
            await stage.kill_process(field.cluster, pod)
        except CommandError:  # between two starts there is no container to look into
            await asyncio.sleep(0.05)
