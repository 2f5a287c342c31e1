"""Members come and go under load: order, one holder, no loss, no repeat."""

from pathlib import Path

import pytest

from partymq.core.membership import PodState
from support.conditions import eventually
from support.group import Group, group
from support.options import Leave, Library


async def _progress(group: Group, messages: int) -> None:
    start = group.spool.counts()[1]
    await eventually(lambda: group.spool.counts()[1] >= start + messages, f"{messages} more messages are not handled")


async def test_scaling_keeps_every_promise(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        first = await g.join("a", prefetch=20, work=0.002)
        producer = await (await g.clients.producer(g.source, rate=500, keys=200)).started()
        await _progress(g, 300)
        second = await g.join("b", library=Library.PIKA, work=0.002)
        await g.join("c", work=0.001)
        await g.owners("a", "b", "c")
        await _progress(g, 300)
        g.set_pod("a", PodState.TERMINATING)
        first.terminate()
        await g.owners("b", "c")
        await _progress(g, 300)
        g.set_pod("b", PodState.TERMINATING)
        second.terminate()
        await g.owners("c")
        await _progress(g, 300)
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


@pytest.mark.parametrize(
    ("library", "leave"),
    [(Library.AIO_PIKA, Leave.FINISH), (Library.AIO_PIKA, Leave.DROP), (Library.PIKA, Leave.CANCEL)],
)
async def test_however_a_client_leaves_nobody_shares_a_key(tmp_path: Path, library: Library, leave: Leave) -> None:
    async with group(tmp_path) as g:
        await g.route()
        leaver = await g.join("a", library=library, leave=leave, prefetch=20, work=0.005)
        await g.join("b", prefetch=20, work=0.002)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await _progress(g, 200)
        g.set_pod("a", PodState.TERMINATING)
        leaver.terminate()
        await g.owners("b")
        await _progress(g, 200)
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_killed_client_repeats_only_what_it_held(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        victim = await g.join("a", prefetch=20, work=0.005)
        await g.join("b", prefetch=20, work=0.002)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await _progress(g, 200)
        await victim.kill()
        g.set_pod("a", None)
        await g.owners("b")
        await _progress(g, 200)
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_without_members_messages_wait_in_the_source(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        producer = await (await g.clients.producer(g.source, rate=300, keys=50)).started()
        await eventually(lambda: g.seen("NoMembers"), "nobody says that there are no members")
        only = await g.join("a", work=0.001)
        await _progress(g, 200)
        g.set_pod("a", PodState.TERMINATING)
        only.terminate()
        await g.owners()
        await g.join("b")
        await _progress(g, 200)
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_slow_member_delays_only_its_own_partitions(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=16) as g:
        await g.route()
        await g.join("slow", prefetch=1, work=0.05)
        await g.join("fast", prefetch=50)
        await g.owners("slow", "fast")
        producer = await (await g.clients.producer(g.source, rate=600, keys=64)).started()
        await eventually(lambda: g.report.backlog > 100, "the slow member gets no backlog")
        await _progress(g, 600)  # with half of the keys stuck behind 20 messages a second
        g.set_pod("slow", PodState.TERMINATING)
        await g.owners("fast")
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_graceful_restart_repeats_nothing(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        producer = await (await g.clients.producer(g.source, rate=500, keys=100)).started()
        for _ in range(3):
            await _progress(g, 200)
            await g.stop()
            await g.route()
        await _progress(g, 200)
        await producer.stop()
        await g.spool.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_router == 0
