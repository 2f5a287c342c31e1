"""Somebody deletes a queue of the group: what was in it is gone, all else goes on in order."""

from pathlib import Path

import aio_pika

from support.broker import amqp_url
from support.conditions import eventually
from support.events import Kind
from support.group import Group, group
from support.routers import ROUTER


async def _delete(queue: str) -> None:
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        await channel.queue_delete(queue)


async def _again(g: Group, epoch: int) -> None:
    await eventually(lambda: g.report.routing and g.report.epoch > epoch, lambda: f"no new session: {g.report}", 30.0)
    g.spool.note(ROUTER, Kind.ROUTER_UP)


async def test_an_empty_inbox_is_deleted(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        victim = await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(200)
        await g.audited(producer)
        epoch = g.report.epoch
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        await _delete(g.names.inbox("a"))
        # Published before the router has noticed; it comes back, and is published again.
        producer = await (await g.clients.producer(g.source, name="q", rate=300, keys=100)).started()
        await victim.over()
        await g.restart("a", work=0.001)
        await _again(g, epoch)
        await g.progress(200)
        await g.audited(producer)


async def test_a_full_backlog_is_deleted(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=16, partitions=2) as g:
        await g.route()
        await g.join("slow", prefetch=1, hold_after=0)
        await g.join("fast", work=0.001)
        await g.owners("slow", "fast")
        producer = await (await g.clients.producer(g.source, rate=400, keys=64)).started()
        await eventually(lambda: g.report.backlog > 200, "the stuck member gets no backlog", 30.0)
        await producer.stop()
        # Few, for the broker may end the session over a publish (541), and the next one then takes them one by one.
        producer = await (await g.clients.producer(g.source, name="q", count=1000, rate=400, keys=64)).started()
        epoch = g.report.epoch
        partition = next(member.partitions[0] for member in g.report.members if member.name == "slow")
        g.spool.note(ROUTER, Kind.ROUTER_DOWN)
        await _delete(g.names.backlog(partition))
        await _again(g, epoch)
        await g.progress(100)
        await g.restart("slow", prefetch=20, work=0.001)
        await producer.ended()
        await eventually(lambda: _idle(g), lambda: f"it does not end: {g.report}", 60.0)
    verdict = g.spool.audit()
    assert verdict.lost > 0
    broken = (verdict.out_of_order, verdict.held_twice, verdict.stale, verdict.repeated, verdict.strays)
    assert broken == (0, 0, 0, 0, 0), verdict.report()


def _idle(g: Group) -> bool:
    report = g.report
    return report.source_ready == 0 and not any(member.ready for member in report.members) and not report.backlog
