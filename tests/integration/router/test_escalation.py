"""A donor that never acknowledges: it is named, and where the group says so its connection is closed."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from partymq.core import ranges
from partymq.core.membership import PodState
from partymq.core.spec import OnTimeout
from partymq.router.reporting import consumer_scan
from support.conditions import eventually
from support.group import Group, group
from support.options import Leave, Library


def told(group: Group, reason: str) -> list[str]:
    return [notice.message for notice in group.notices if notice.reason == reason]


async def test_a_donor_that_never_acknowledges_is_named_once_and_delays_nobody_else(tmp_path: Path) -> None:
    async with group(tmp_path, handoff_timeout=1.0) as g:
        await g.route()
        victim = await g.join("a", library=Library.PIKA, prefetch=20, hold_after=50)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        theirs = next(member.partitions for member in g.report.members if member.name == "a")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(300)
        g.set_pod("a", PodState.TERMINATING)
        await eventually(lambda: g.report.balanced.reason == "HandoffOverdue", "nobody says that it takes long")
        condition = g.report.balanced.message
        assert "pod a" in condition
        assert f"partitions {ranges.text(theirs)} " in condition
        assert "acknowledge" in condition
        await eventually(lambda: g.report.balanced.message != condition, "the age does not grow")
        await g.progress(300)  # of the other half of the keys
        (event,) = told(g, "HandoffOverdue")
        assert "CloseConnection" in event
        assert g.report.ready.ok
        await victim.kill()
        await g.owners("b")
        assert len(told(g, "HandoffOverdue")) == 1
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_the_connection_of_a_stuck_donor_is_closed_and_all_it_held_moves_in_order(tmp_path: Path) -> None:
    async with group(tmp_path, handoff_timeout=1.0, on_timeout=OnTimeout.CLOSE_CONNECTION) as g:
        await g.route()
        await g.join("a", library=Library.PIKA, prefetch=20, hold_after=50)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(300)
        g.set_pod("a", PodState.TERMINATING)
        await g.owners("b")
        (closed,) = told(g, "ConnectionClosed")
        assert "pod a" in closed
        assert "partitions" in closed
        await g.progress(300)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_client_that_cancelled_and_still_holds_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY", 0.2)
    async with group(tmp_path, handoff_timeout=1.0, on_timeout=OnTimeout.CLOSE_CONNECTION) as g:
        await g.route()
        victim = await g.join("a", library=Library.PIKA, prefetch=20, hold_after=50, leave=Leave.CANCEL, linger=600.0)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(300)
        assert g.supervisor is not None
        seen = g.supervisor._scan
        inbox = g.names.inbox("a")
        await eventually(lambda: bool(seen.remembered(g.config.broker, inbox)), "the consumer is not seen")
        victim.terminate()
        g.set_pod("a", PodState.TERMINATING)
        await g.owners("b")
        assert told(g, "ConnectionClosed")
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_without_a_management_api_the_handoff_waits_and_says_why(tmp_path: Path) -> None:
    async with group(tmp_path, handoff_timeout=1.0, on_timeout=OnTimeout.CLOSE_CONNECTION) as g:
        nowhere = await _silent_port()
        g.config = replace(g.config, broker=replace(g.config.broker, management_uri=f"http://u:hush@{nowhere}"))
        await g.route()
        victim = await g.join("a", library=Library.PIKA, prefetch=20, hold_after=50)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(300)
        g.set_pod("a", PodState.TERMINATING)
        await eventually(lambda: bool(told(g, "CloseConnectionFailed")), "nobody says that it cannot be closed")
        await g.progress(300)
        (failed,) = told(g, "CloseConnectionFailed")
        assert nowhere in failed
        assert "hush" not in failed
        assert "management-uri" in failed
        assert g.report.balanced.reason == "HandoffOverdue"
        assert g.report.consumers_safe.reason == "ManagementUnreachable"
        assert not g.report.consumers_safe.known
        await victim.kill()
        await g.owners("b")
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_new_session_starts_no_handoffs_time_anew(tmp_path: Path) -> None:
    async with group(tmp_path, handoff_timeout=8.0) as g:
        await g.route()
        victim = await g.join("a", library=Library.PIKA, prefetch=20, hold_after=50)
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(300)
        g.set_pod("a", PodState.TERMINATING)
        await eventually(lambda: "acknowledge" in g.waiting_for, "the donor is not waited for")
        (first,), epoch = g.report.handoffs, g.report.epoch
        await eventually(lambda: time.time() > first.since + 6.0, "time does not pass")
        assert g.supervisor is not None
        g.supervisor.configure(replace(g.config, spec=replace(g.config.spec, inbox_window=64)))
        await eventually(lambda: g.report.epoch > epoch and bool(g.report.handoffs), "no other session goes on with it")
        (second,) = g.report.handoffs
        assert (second.handoff_id, second.since) == (first.handoff_id, first.since)
        went_on = time.time()
        await eventually(lambda: g.report.balanced.reason == "HandoffOverdue", "nobody says that it takes long")
        told = time.time()
        assert told - first.since > 7.5
        assert told - went_on < 6.0, "its 8 seconds began anew"
        await victim.kill()
        await g.owners("b")
        await g.audited(producer)


async def _silent_port() -> str:
    """An address at which nobody listens."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"127.0.0.1:{port}"
