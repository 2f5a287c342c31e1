"""More messages than members take: whom that delays, where the messages wait, and that handoffs do not notice."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from partymq.amqp.connection import Connection
from partymq.amqp.frames import body_frames, publish_frame
from partymq.core.membership import PodState
from partymq.core.report import MemberState
from partymq.core.spec import KeySpec
from partymq.router.failpoints import Point
from support.broker import amqp_url, depth
from support.conditions import eventually
from support.group import Group, address, group
from support.message import body_of
from support.options import KEY_HEADER

MANY = 100_000
WORK = 0.05
"""Seconds for which a donor is busy with its message once a handoff has begun."""


async def test_beyond_the_limit_messages_stay_in_the_source(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=16, backlog_limit=300) as g:
        await g.route()
        await g.join("a", prefetch=10, work=0.05)
        producer = await (await g.clients.producer(g.source, rate=500, keys=100)).started()
        await eventually(lambda: g.ready == "BacklogFull", lambda: f"{g.reports[-1:]}", 30.0)
        await eventually(lambda: (g.report.source_ready or 0) > 2500, "the source does not fill", 30.0)
        most = 300 + 2000 + 500  # the limit, what was read from the source, what came until it was looked at
        assert g.report.backlog <= most
        await g.stop()
        g.reports.clear()
        await g.route()  # the next session counts what it finds
        await eventually(lambda: g.ready == "BacklogFull", lambda: f"{g.reports[-1:]}", 30.0)
        assert g.report.backlog <= most
        await g.restart("a", prefetch=100)
        await eventually(lambda: g.ready == "Routing", lambda: f"{g.reports[-1:]}", 30.0)
        await g.audited(producer)


async def _seconds_for(g: Group, actor: str, messages: int) -> float:
    start = g.spool.acked_by(actor)
    await eventually(lambda: g.spool.acked_by(actor) > start, "nothing is acknowledged", every=0.005)
    first, began = g.spool.acked_by(actor), monotonic()
    await eventually(lambda: g.spool.acked_by(actor) >= first + messages, "too slow", 60.0, every=0.01)
    return monotonic() - began


@pytest.mark.alone
@pytest.mark.parametrize("trouble", [{"work": 0.1}, {"hold_after": 0}])
async def test_a_slow_or_stuck_member_takes_no_rate_from_others(trouble: dict[str, float], tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=32) as g:
        await g.route()
        await g.join("bad", prefetch=20, work=0.001)
        await g.join("good", prefetch=20, work=0.001)
        await g.owners("bad", "good")
        producer = await (await g.clients.producer(g.source, rate=300, keys=128)).started()
        await g.progress(200)
        before = await _seconds_for(g, "good", 500)
        await g.restart("bad", prefetch=20, **trouble)  # type: ignore[arg-type]
        await eventually(lambda: g.report.backlog > 50, "the bad member gets no backlog", 30.0)
        after = await _seconds_for(g, "good", 500)
        assert before / after >= 0.9, f"{before:.2f} s for 500 messages before, {after:.2f} s after"
        await g.restart("bad", prefetch=20, work=0.001)
        await g.audited(producer)


async def _fill(queue: str, numbers: Iterable[int]) -> None:
    """Messages that no producer reports, as fast as the broker takes them."""
    connection = await Connection.open(address(), name="tests fill")
    channel, unconfirmed, last = await connection.channel(), 0, 0

    def on_confirm(tag: int, multiple: bool) -> None:
        nonlocal unconfirmed, last
        unconfirmed -= tag - last if multiple else 1
        last = tag if multiple else last + 1

    async def at_most(messages: int) -> None:
        await eventually(lambda: unconfirmed <= messages, "the broker does not confirm", 60.0, every=0.001)

    await channel.confirm_select(on_confirm, on_confirm)
    frame = publish_frame(channel.number, "", queue)
    for number in numbers:
        key = f"key-{number % 1000}"
        body = body_of(key, number, 0)
        properties = Basic.Properties(headers={KEY_HEADER: key}, delivery_mode=2)
        header = ContentHeader(0, len(body), properties).marshal()
        channel.publish(frame, header, body_frames(body, channel.number))
        unconfirmed += 1
        if unconfirmed >= 2000:
            await at_most(1000)
    await at_most(0)
    await connection.close()


@asynccontextmanager
async def _patient(inbox: str) -> AsyncIterator[asyncio.Queue[AbstractIncomingMessage]]:
    """A consumer that holds one message until somebody else acknowledges it."""
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        held: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await (await channel.get_queue(inbox)).consume(held.put)
        yield held


async def _handoff(g: Group, name: str, held: asyncio.Queue[AbstractIncomingMessage]) -> tuple[float, float]:
    """A member comes, gets its share from one that works for `WORK` seconds, handles a message, and goes.

    The milliseconds of the handoff to it, and the seconds from when it consumed until it had handled a message.
    """
    message = await held.get()
    seen = len(g.notices)
    g.points.clear()
    client = await g.join(name, prefetch=5)
    began = monotonic()
    await eventually(lambda: Point.ATTACHED in g.points, f"no handoff to {name}", every=0.002)
    await asyncio.sleep(WORK)
    await message.ack()
    await eventually(lambda: g.spool.acked_by(client.name) > 0, f"{name} gets nothing", 30.0, every=0.005)
    waited = monotonic() - began
    said = [n.message for n in g.notices[seen:] if n.reason == "HandoffCommitted" and "from a " in n.message]
    g.set_pod(name, PodState.TERMINATING)
    client.terminate()
    await g.owners("a", deadline=60.0)
    took = re.search(r" in (\d+) ms", said[0])
    assert took
    return float(took[1]), waited


@pytest.mark.alone
async def test_a_handoff_does_not_notice_a_backlog(tmp_path: Path) -> None:
    """The inbox is full in both cases; 100 000 messages more wait in backlogs, and stay there."""
    async with group(tmp_path, inbox_window=64) as g:
        await g.route()
        g.set_pod("a")
        await eventually(lambda: "a" in g.inboxes, "no inbox for the pod")
        async with _patient(g.names.inbox("a")) as held:
            await g.owners("a")
            without = []
            for number in range(3):
                await _fill(g.source, range(100))
                without.append((await _handoff(g, f"b{number}", held))[0])
            await _fill(g.source, range(MANY))
            await eventually(lambda: g.report.backlog > 0.95 * MANY, lambda: f"{g.report}", 120.0)
            behind, waits = [], []
            for number in range(3):
                took, waited = await _handoff(g, f"c{number}", held)
                behind.append(took)
                waits.append(waited)
                assert g.report.backlog > 0.9 * MANY, "messages were moved"
            assert sorted(behind)[1] <= 2 * sorted(without)[1], f"{without} ms without, {behind} ms with a backlog"
            assert sorted(waits)[1] < 1.0, f"{waits} s until a new member had handled its first message"
            assert (await depth(amqp_url(), g.source))[0] == 0


async def test_keyless_messages_go_to_nobody_who_is_away_and_owns_nothing(tmp_path: Path) -> None:
    async with group(tmp_path, partitions=1) as g:
        await g.route()
        await g.join("a")
        await g.owners("a")
        b = await g.join("b")  # owns nothing, and takes its turns
        producer = await (await g.clients.producer(g.source, rate=200, keyless=1.0)).started()
        await eventually(lambda: g.spool.acked_by("b") > 0, "the idle member gets nothing")
        g.set_pod("b", PodState.STARTING)
        await b.kill()

        def joining() -> bool:
            return any(m.name == "b" and m.state is MemberState.JOINING for m in g.report.members)

        await eventually(joining, "nobody notices that it is away")
        waits = (await depth(amqp_url(), g.names.inbox("b")))[0]
        await g.progress(200)
        assert (await depth(amqp_url(), g.names.inbox("b")))[0] == waits, "messages wait for one who may never come"
        await g.join("b")
        await eventually(lambda: g.spool.acked_by("b.2") > waits, "it gets nothing although it is back")
        await g.audited(producer)


async def test_a_misspelt_key_is_told(tmp_path: Path) -> None:
    async with group(tmp_path, key=KeySpec(name="no-such-header")) as g:
        await g.route()
        await g.join("a")
        producer = await (await g.clients.producer(g.source, rate=200, keys=10)).started()
        notice = await g.notice("KeysMissing")
        assert "from header, name 'no-such-header'" in notice.message
        assert g.report.ready.ok
        assert "have no usable key" in g.report.ready.message
        await producer.stop()
        await g.settled()
