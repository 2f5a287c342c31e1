"""Members come and go under load: order, one holder, no loss, no repeat."""

import asyncio
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest

from partymq.core.membership import PodState
from support.broker import QUORUM, amqp_url
from support.conditions import eventually
from support.group import group
from support.options import Leave, Library


async def test_scaling_keeps_every_promise(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        first = await g.join("a", prefetch=20, work=0.002)
        producer = await (await g.clients.producer(g.source, rate=500, keys=200)).started()
        await g.progress(300)
        second = await g.join("b", library=Library.PIKA, work=0.002)
        await g.join("c", work=0.001)
        await g.owners("a", "b", "c")
        await g.progress(300)
        g.set_pod("a", PodState.TERMINATING)
        first.terminate()
        await g.owners("b", "c")
        await g.progress(300)
        g.set_pod("b", PodState.TERMINATING)
        second.terminate()
        await g.owners("c")
        await g.progress(300)
        await producer.stop()
        await g.settled()
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
        await g.progress(200)
        g.set_pod("a", PodState.TERMINATING)
        leaver.terminate()
        await g.owners("b")
        await g.progress(200)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_killed_client_repeats_only_what_it_held(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        victim = await g.join("a", prefetch=20, work=0.005)
        await g.join("b", prefetch=20, work=0.002)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await g.progress(200)
        await victim.kill()
        g.set_pod("a", None)
        await g.owners("b")
        await g.progress(200)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_without_members_messages_wait_in_the_source(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        producer = await (await g.clients.producer(g.source, rate=300, keys=50)).started()
        await eventually(lambda: g.seen("NoMembers"), "nobody says that there are no members")
        only = await g.join("a", work=0.001)
        await g.progress(200)
        g.set_pod("a", PodState.TERMINATING)
        only.terminate()
        await g.owners()
        await g.join("b")
        await g.progress(200)
        await producer.stop()
        await g.settled()
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
        await g.progress(600)  # with half of the keys stuck behind 20 messages a second
        g.set_pod("slow", PodState.TERMINATING)
        await g.owners("fast")
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_graceful_restart_repeats_nothing(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.join("b", work=0.001)
        producer = await (await g.clients.producer(g.source, rate=500, keys=100)).started()
        for _ in range(3):
            await g.progress(200)
            await g.stop()
            await g.route()
        await g.progress(200)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_router == 0


async def test_a_client_that_gives_its_last_message_back_does_not_block_its_takeover(tmp_path: Path) -> None:
    async with group(tmp_path) as g, await aio_pika.connect(amqp_url()) as connection:
        await g.route()
        g.set_pod("a")
        await eventually(lambda: "a" in g.inboxes, "the inbox of a does not exist")
        channel = await connection.channel()
        await channel.set_qos(1)
        held: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
        await (await channel.get_queue(g.names.inbox("a"))).consume(held.put)
        await g.owners("a")
        await channel.default_exchange.publish(aio_pika.Message(b"", headers={"partitionKey": "k"}), g.source)
        message = await held.get()
        await g.join("b")
        await eventually(lambda: "acknowledge" in g.waiting_for, "no takeover waits for the client")
        await message.nack(requeue=True)
        # On RabbitMQ 4.3 the inbox is declared anew then, and this client does not come back: a may soon own nothing.
        await eventually(
            lambda: "b" in g.active() and not g.report.handoffs, lambda: f"the handoff does not end: {g.report}"
        )


async def test_who_leaves_is_not_kept_waiting_for_those_who_may_come(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a")
        await g.join("b")
        await g.owners("a", "b")
        await g.stop()
        g.config = replace(g.config, spec=replace(g.config.spec, rebalance_delay=60.0))
        await g.route()
        await eventually(lambda: g.active() == {"a", "b"}, "they are not the owners any more")
        g.set_pod("a", PodState.TERMINATING)
        await eventually(lambda: g.active() == {"b"}, "a waits for who may come", deadline=30)


async def test_an_inbox_of_thousands_is_emptied_to_its_end(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=4000) as g:
        await g.route()
        holder = await g.join("a", prefetch=10, hold_after=0)
        await g.owners("a")
        await (await g.clients.producer(g.source, rate=0, keys=100, count=3500)).started()
        await eventually(lambda: g.waiting_in_inbox("a") > 3000, "the inbox does not fill", 30)
        await g.join("b", prefetch=100)
        await holder.kill()
        g.set_pod("a", None)
        await g.owners("b")
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_when_all_leave_at_once_what_was_given_out_is_not_given_again(tmp_path: Path) -> None:
    """The source is closed with arrivals on hold between others that are done: each of these must be acknowledged."""
    async with group(tmp_path, source_arguments=QUORUM, partitions=64) as g:
        await g.route()
        producer = None
        for names in (("a", "b"), ("c", "d"), ("e", "f")):
            clients = [await g.join(name, prefetch=20, work=0.001) for name in names]
            await g.owners(*names)
            if producer is None:
                producer = await (await g.clients.producer(g.source, rate=1200, keys=300)).started()
            await g.progress(600)
            for name, client in zip(names, clients, strict=True):
                g.set_pod(name, PodState.TERMINATING)
                client.terminate()
                await eventually(lambda name=name: name not in g.active(), f"{name} does not leave", every=0.002)  # type: ignore[misc]
            await eventually(lambda: g.report.ready.reason == "NoMembers", "they do not leave")
            for name in names:
                g.set_pod(name, None)
        assert producer is not None
        await g.join("last")
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()
    assert (verdict.excused_by_consumer, verdict.excused_by_router) == (0, 0), verdict.report()
