"""Two processes that may route one group: the preferred one is made way for, and nothing is repeated or disturbed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from partymq.amqp.topology import Topology
from partymq.core.membership import PodState
from partymq.core.report import GroupReport
from partymq.core.spec import DeletionPolicy
from partymq.router.supervisor import Supervisor
from support.conditions import eventually
from support.events import Kind
from support.group import Group, group


class Standby:
    """Another process's supervisor, in this one."""

    def __init__(self, supervisor: Supervisor, reports: list[GroupReport]) -> None:
        self.supervisor = supervisor
        self.reports = reports

    @property
    def routes(self) -> bool:
        return bool(self.reports) and self.reports[-1].routing


@asynccontextmanager
async def standby(one: Group, identity: str = "other", uid: str = "") -> AsyncIterator[Standby]:
    reports: list[GroupReport] = []
    supervisor = Supervisor(
        identity=identity, on_report=lambda _, report: reports.append(report), on_notice=lambda *_: None
    )
    task = asyncio.create_task(supervisor.run())
    supervisor.configure(replace(one.config, uid=uid or one.config.uid))
    supervisor.set_pods(one.config.group, tuple(one.pods.values()))
    try:
        yield Standby(supervisor, reports)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_router_makes_way_for_the_preferred_one_under_load_and_repeats_nothing(tmp_path: Path) -> None:
    async with group(tmp_path) as one:
        await one.route()
        assert one.supervisor is not None
        for name in ("a", "b"):
            await one.join(name, prefetch=20)
        await one.owners("a", "b")
        producer = await (await one.clients.producer(one.source, rate=500)).started()
        async with standby(one) as other:
            await eventually(lambda: any(r.ready.reason == "Standby" for r in other.reports), "it stands by", 15)
            assert one.report.routing
            for supervisor in (one.supervisor, other.supervisor):
                supervisor.prefer(one.config.group, "other")
            await eventually(lambda: other.routes, "the router does not make way", 15)
            before = one.spool.counts()[1]
            await eventually(lambda: one.spool.counts()[1] > before + 500, "messages do not go on", 20)
            await eventually(lambda: one.report.ready.reason == "Standby", "the first one does not stand by", 15)
            assert other.routes
            await producer.stop()
            await one.settled()
        for client in one.clients._clients:
            await client.stop()
        verdict = one.spool.audit()
        assert verdict.ok, verdict.report()
        assert (verdict.excused_by_consumer, verdict.excused_by_router) == (0, 0), verdict.report()


async def test_a_router_does_not_make_way_for_one_that_it_is_not_told_of(tmp_path: Path) -> None:
    async with group(tmp_path) as one:
        await one.route()
        await eventually(lambda: bool(one.reports) and one.report.routing, "it routes")
        async with standby(one) as other:
            other.supervisor.prefer(one.config.group, "other")
            await eventually(lambda: any(r.ready.reason == "Standby" for r in other.reports), "it stands by", 15)
            # The mark with its wish was read when it is gone from the journal, which the next write sees to.
            await one.join("a")
            await one.owners("a")
            assert one.report.routing
            assert not other.routes


async def test_a_stand_by_takes_over_within_a_moment_of_a_kill_and_knows_the_last_ledger(tmp_path: Path) -> None:
    async with group(tmp_path) as one:
        await one.spawn()
        for name in ("a", "b"):
            await one.join(name)
        async with standby(one) as other:
            await eventually(lambda: any(r.ready.reason == "Standby" for r in other.reports), "it stands by", 15)
            producer = await (await one.clients.producer(one.source, rate=500)).started()
            await eventually(lambda: one.spool.counts()[1] > 500, "messages flow", 20)
            await one.kill()
            took = await eventually(lambda: other.routes, "nobody takes over", 20)
            assert took < 2.0
            one.spool.note("router", Kind.ROUTER_UP)
            assert {m.name for m in other.reports[-1].members if m.partitions} == {"a", "b"}
            before = one.spool.counts()[1]
            await eventually(lambda: one.spool.counts()[1] > before + 500, "messages do not go on", 20)
            await producer.stop()
            await one.settled()
        for client in one.clients._clients:
            await client.stop()
        verdict = one.spool.audit()
        assert verdict.ok, verdict.report()


async def test_a_removal_finds_what_only_the_journal_knows_and_keeps_what_a_client_holds(tmp_path: Path) -> None:
    async with group(tmp_path) as one:
        await one.route()
        assert one.supervisor is not None
        await one.join("a", prefetch=1, hold_after=0)
        await one.join("b")
        await one.owners("a", "b")
        producer = await one.clients.producer(one.source, count=200)
        await producer.ended()
        inbox = one.names.inbox("a")
        await eventually(lambda: one.spool.counts()[0] == 200, "all are published")
        await one.stop()
        # Another process, which has never seen these members, removes the group.
        remover = Supervisor(identity="remover", on_report=lambda *_: None, on_notice=lambda *_: None)
        remover.configure(one.config)
        left = await remover.remove(one.config.group, DeletionPolicy.DELETE_EMPTY)
        assert inbox in left
        assert one.names.inbox("b") not in left
        remover.configure(one.config)
        assert await remover.remove(one.config.group, DeletionPolicy.DELETE) == ()
        for queue in (inbox, one.names.journal, one.names.dead):
            assert await _missing(one, queue)


async def test_a_pod_that_never_consumed_leaves_no_inbox_behind(tmp_path: Path) -> None:
    """A rollout of pods that do not start would leave a queue for each of them."""
    async with group(tmp_path) as one:
        await one.route()
        await one.join("a")
        await one.owners("a")
        one.set_pod("never-ready", PodState.STARTING)
        inbox = one.names.inbox("never-ready")

        async def there() -> bool:
            return not await _missing(one, inbox)

        await eventually(there, "the inbox is declared")
        one.set_pod("never-ready", None)
        await eventually(lambda: _missing(one, inbox), "the inbox is deleted")
        one.set_pod("never-ready", PodState.STARTING)
        await eventually(there, "the inbox is declared again")
        assert one.report.routing
        assert len({report.epoch for report in one.reports if report.routing}) == 1


async def _missing(one: Group, queue: str) -> bool:
    topology = await Topology.open(one.config.broker, name="tests")
    try:
        return await topology.poll(queue) is None
    finally:
        await topology.close()


async def test_another_clusters_group_of_the_same_names_is_told(tmp_path: Path) -> None:
    async with group(tmp_path) as one:
        one.config = replace(one.config, uid="uid-1")
        await one.route()
        await one.join("a")
        await one.owners("a")
        async with standby(one) as replica:
            await eventually(lambda: any(r.ready.reason == "Standby" for r in replica.reports), "it stands by", 15)
        async with standby(one, identity="elsewhere", uid="uid-2") as other:
            notice = await one.notice("SecondPartyMQ", "elsewhere")
            assert "virtual host" in notice.message
            await eventually(lambda: any(r.ready.reason == "Standby" for r in other.reports), "it stands by", 15)
            message = next(r.ready.message for r in other.reports if r.ready.reason == "Standby")
            assert "another cluster's" in message
        assert sum(notice.reason == "SecondPartyMQ" for notice in one.notices) == 1
        assert one.report.routing
