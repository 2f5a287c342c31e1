"""The load's clients do on a real broker what they are asked to, and what they report is what happened."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.broker import ONE_ACTIVE_CONSUMER, QUORUM, amqp_url, depth, management_url, temporary_queue, unique
from support.collector import collecting
from support.conditions import eventually
from support.options import Leave, Library
from support.processes import Clients
from support.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
async def clients(spool: Spool) -> AsyncIterator[Clients]:
    async with Clients(spool, amqp_url()) as clients:
        yield clients


@pytest.fixture
async def inbox() -> AsyncIterator[str]:
    """A queue as PartyMQ makes it for a pod."""
    async with temporary_queue(amqp_url(), "inbox", ONE_ACTIVE_CONSUMER) as name:
        yield name


@pytest.mark.parametrize("library", Library)
async def test_every_message_arrives_once_and_in_order(
    inbox: str, clients: Clients, spool: Spool, library: Library
) -> None:
    await (await clients.consumer(inbox, name="a", library=library)).started()
    producer = await (await clients.producer(inbox, rate=0, count=2000, keyless=0.1)).started()
    await producer.ended()
    await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.messages == 2000
    assert verdict.excused_by_consumer == 0


@pytest.mark.parametrize("library", Library)
async def test_one_that_finishes_leaves_nothing_to_repeat(
    inbox: str, clients: Clients, spool: Spool, library: Library
) -> None:
    first = await (await clients.consumer(inbox, name="a", library=library, work=0.002)).started()
    producer = await (await clients.producer(inbox, rate=0, count=1000)).started()
    await eventually(lambda: spool.counts()[1] > 100, "the first consumer does not acknowledge")
    await first.stop()
    await (await clients.consumer(inbox, name="b", library=library)).started()
    await producer.ended()
    await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 0
    assert [c.ended for c in verdict.consumers if c.name == "a"] == ["closed"]


@pytest.mark.parametrize("library", Library)
async def test_a_killed_one_leaves_what_it_held_to_the_next(
    inbox: str, clients: Clients, spool: Spool, library: Library
) -> None:
    first = await (await clients.consumer(inbox, name="a", library=library, work=0.01)).started()
    await (await clients.consumer(inbox, name="b", library=library)).started()
    producer = await (await clients.producer(inbox, rate=0, count=500)).started()
    await eventually(lambda: spool.counts()[1] > 20, "the first consumer does not acknowledge")
    await first.kill()
    await producer.ended()
    await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
    assert 1 <= verdict.excused_by_consumer <= 21
    assert [c.ended for c in verdict.consumers if c.name == "a"] == ["killed"]


async def test_the_auditor_sees_that_a_cancel_with_unacknowledged_messages_lets_two_hold_a_key(
    inbox: str, clients: Clients, spool: Spool
) -> None:
    first = await (
        await clients.consumer(inbox, name="a", library=Library.PIKA, leave=Leave.CANCEL, hold_after=0, linger=0.5)
    ).started()
    await (await clients.consumer(inbox, name="b")).started()
    producer = await (await clients.producer(inbox, keys=2, rate=0, count=100)).started()
    await producer.ended()
    await first.stop()
    await spool.settled()
    verdict = spool.audit()
    assert verdict.held_twice == 2
    assert verdict.out_of_order == 0
    assert verdict.stale == 2


async def test_one_that_drops_its_connection_returns_what_it_held(inbox: str, clients: Clients, spool: Spool) -> None:
    first = await (await clients.consumer(inbox, name="a", leave=Leave.DROP, hold_after=0)).started()
    await (await clients.consumer(inbox, name="b")).started()
    producer = await (await clients.producer(inbox, rate=0, count=100)).started()
    await producer.ended()
    await first.stop()
    await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 20


async def test_one_that_holds_for_ever_settles_when_it_is_killed(inbox: str, clients: Clients, spool: Spool) -> None:
    first = await (await clients.consumer(inbox, name="a", hold_after=10)).started()
    producer = await (await clients.producer(inbox, rate=0, count=100)).started()
    await producer.ended()
    await eventually(lambda: spool.unsettled() == 90, lambda: f"{spool.unsettled()} are unsettled")
    await first.kill()
    await (await clients.consumer(inbox, name="b")).started()
    await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 20


async def test_the_auditor_sees_that_competing_consumers_hold_keys_together(clients: Clients, spool: Spool) -> None:
    async with temporary_queue(amqp_url(), "shared", QUORUM) as shared:
        await (await clients.consumer(shared, name="a", work=0.001)).started()
        await (await clients.consumer(shared, name="b", work=0.001)).started()
        producer = await (await clients.producer(shared, rate=0, count=500, keys=5)).started()
        await producer.ended()
        await spool.settled()
    verdict = spool.audit()
    assert verdict.held_twice == 5
    assert verdict.lost == 0


@pytest.mark.parametrize("library", Library)
async def test_a_consumer_waits_for_its_queue_to_be_declared(clients: Clients, library: Library) -> None:
    late = unique("late")
    consumer = await clients.consumer(late, name="a", library=library)
    with pytest.raises(TimeoutError):
        await consumer.started(deadline=1.5)
    assert consumer.running


@pytest.mark.parametrize("library", Library)
async def test_a_consumer_whose_connection_is_closed_says_so_and_fails(
    inbox: str, clients: Clients, spool: Spool, library: Library
) -> None:
    consumer = await (await clients.consumer(inbox, name="a", library=library)).started()
    await close_connections_of(inbox)
    with pytest.raises(AssertionError, match="a ended with 1"):
        await consumer.ended()
    assert [c.ended for c in spool.audit().consumers] == ["lost"]


async def close_connections_of(queue: str) -> None:
    """Close the connection of every consumer of the queue, as an administrator may do."""
    async with aiohttp.ClientSession(management_url()) as api:

        async def consumers() -> list[str]:
            async with api.get(f"/api/queues/%2F/{queue}") as answer:
                details = (await answer.json())["consumer_details"]
            # The statistics come late and in parts: a consumer may be listed before its channel.
            return [name for one in details if (name := dict(one["channel_details"] or {}).get("connection_name"))]

        async def known() -> bool:
            return bool(await consumers())

        await eventually(known, "the management API knows no consumer", 15)
        for name in await consumers():
            async with api.delete(f"/api/connections/{name}") as answer:
                assert answer.status == 204


async def test_a_producer_whose_messages_are_returned_fails(clients: Clients) -> None:
    producer = await clients.producer(unique("missing"), count=1)
    with pytest.raises(AssertionError, match="is there a queue"):
        await producer.ended()


async def test_reports_through_a_queue_tell_the_same_even_of_a_killed_consumer(
    inbox: str, clients: Clients, spool: Spool
) -> None:
    reports = unique("reports")
    async with collecting(amqp_url(), reports, spool):
        first = await (await clients.consumer(inbox, name="a", work=0.005, report_queue=reports)).started()
        second = await (await clients.consumer(inbox, name="b", work=0.001, report_queue=reports)).started()
        producer = await (await clients.producer(inbox, rate=0, count=1000)).started()
        await eventually(lambda: spool.counts()[1] > 50, "the first consumer does not acknowledge")
        # Nobody notes this kill: as with a pod killed without grace, the reports just end.
        os.kill(first.pid, signal.SIGKILL)
        await producer.ended()
        await spool.settled()
        await second.stop()
        await eventually(lambda: "closed" in {c.ended for c in spool.audit().consumers}, "b does not report its end")
    verdict = spool.audit()
    assert verdict.ok, verdict.report()
    assert 1 <= verdict.excused_by_consumer <= 21
    assert {c.name.partition("~")[0]: c.ended for c in verdict.consumers} == {
        "a": "silent",
        "b": "closed",
        "p": "closed",
    }


async def test_no_client_outlives_its_test(inbox: str, spool: Spool) -> None:
    async with Clients(spool, amqp_url()) as clients:
        consumer = await (await clients.consumer(inbox, name="a", hold_after=0)).started()
        producer = await (await clients.producer(inbox, rate=10)).started()
    assert not consumer.running
    assert not producer.running

    async def nobody() -> bool:
        return (await depth(amqp_url(), inbox))[1] == 0

    await eventually(nobody, "the broker still knows a consumer")
