"""Pods come and go under load in all the ways in which Kubernetes lets them, and the clients see nothing of it."""

from support import stage
from support.conditions import eventually
from support.events import Kind
from support.field import Field, MakeField
from support.verdict import Verdict

PREFETCH = 20


def nothing_was_repeated(verdict: Verdict) -> None:
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 0, verdict.report()


async def test_scaling_up_and_down_under_load(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        for replicas in (5, 3, 1):
            await field.scale(replicas)
            await field.shared_by(replicas)
            await field.progress(300)
        nothing_was_repeated(await field.finish(producer))
        reasons = {event["reason"] for event in await field.cluster.events(field.name)}
        assert {
            "Routing",
            "MemberJoining",
            "MemberActive",
            "MemberLeaving",
            "MemberGone",
            "HandoffCommitted",
        } <= reasons
        story = await field.cluster.kubectl("describe", "partitiongroup", field.name)
        assert "moved from" in story


async def test_a_rolling_update_under_load(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(3)
        producer = await field.produce()
        await field.rollout()
        await field.shared_by(3)
        await field.progress(300)
        nothing_was_repeated(await field.finish(producer))


async def test_a_process_that_dies_comes_back_to_its_partitions(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2, work=0.005, prefetch=PREFETCH)
        producer = await field.produce(rate=250)
        before = await field.owners()
        victim = min(before)
        await stage.kill_process(field.cluster, victim)
        await eventually(lambda: restarted(field, victim), f"{victim} is not started again", 30)
        await field.progress(500)
        assert await field.owners() == before
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()
        assert verdict.excused_by_consumer <= PREFETCH + 1


async def restarted(field: Field, name: str) -> bool:
    pods = {pod["metadata"]["name"]: pod for pod in await field.cluster.pods(f"app={field.name}")}
    statuses = pods[name]["status"].get("containerStatuses") or []
    return any(status["restartCount"] == 1 and status["ready"] for status in statuses)


async def test_a_pod_taken_away_without_grace(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(3, work=0.005, prefetch=PREFETCH)
        producer = await field.produce()
        await stage.kill_pod(field.cluster, min(await field.owners()))
        await field.shared_by(3)
        await field.progress(300)
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()
        assert verdict.excused_by_consumer <= PREFETCH + 1


async def test_a_pod_of_a_stateful_set_returns_to_its_partitions(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(3, kind="StatefulSet")
        producer = await field.produce()
        before = await field.owners()
        victim = f"{field.name}-1"
        uid = await uid_of(field, victim)
        await field.cluster.kubectl("delete", "pod", victim, "--wait=false")

        async def is_another() -> bool:
            return await uid_of(field, victim) not in ("", uid)

        await eventually(is_another, f"{victim} does not return", 60)
        await field.shared_by(3)
        await field.progress(300)
        assert await field.owners() == before
        nothing_was_repeated(await field.finish(producer))


async def uid_of(field: Field, pod: str) -> str:
    found = [one["metadata"] for one in await field.cluster.pods(f"app={field.name}") if one["metadata"]["name"] == pod]
    return str(found[0]["uid"]) if found else ""


async def test_messages_wait_in_the_source_while_there_are_no_members(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        await field.stop_consumers()
        await field.says("NoMembers")
        waiting = field.spool.unsettled()
        await eventually(lambda: field.spool.unsettled() > waiting + 300, "the producer does not go on", 30)
        await field.scale(2)
        await field.shared_by(2)
        await field.says("Routing")
        nothing_was_repeated(await field.finish(producer))


async def test_the_operator_is_restarted_in_an_orderly_way_under_load(make_field: MakeField) -> None:
    async with make_field() as field:
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        before = await field.owners()
        await stage.restart_operator(field.cluster)
        await field.says("Routing")
        await field.progress(600)
        assert await field.owners() == before
        verdict = await field.finish(producer)
        nothing_was_repeated(verdict)
        assert verdict.excused_by_router == 0, verdict.report()


async def test_the_operator_is_killed_under_load(make_field: MakeField) -> None:
    async with make_field() as field:
        await stage.share_processes_of_operator(field.cluster)
        await field.create()
        await field.deploy(2)
        producer = await field.produce()
        before, epoch = await field.owners(), (await field.status())["epoch"]
        field.spool.note("router", Kind.ROUTER_DOWN)
        await stage.kill_process(field.cluster, await stage.operator_pod(field.cluster), stage.OPERATOR)

        async def routed_again() -> bool:
            status = await field.status()
            return bool(status["epoch"] > epoch and "router" in status)

        await eventually(routed_again, "nobody routes the group again", 60)
        field.spool.note("router", Kind.ROUTER_UP)
        await field.progress(600)
        assert await field.owners() == before
        nothing_was_repeated(await field.finish(producer))
