"""A message that the broker took and takes no more costs nobody else: not once, and not a thousand times."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aio_pika
import pytest

from partymq.message.dead_letter import DeadMessage
from partymq.message.key_reader import key_reader
from partymq.router.maintenance.dead_queue import DeadQueue
from partymq.router.poison import failed_sessions
from support.broker import QUORUM, amqp_url, depth
from support.broker_script import NoBrokerError
from support.conditions import eventually
from support.group import Group, group
from support.refusing import POISON, lowered, put_unreadable, refusing

CLASSIC: Mapping[str, object] = {}
ONCE: Mapping[str, object] = {**QUORUM, "x-delivery-limit": 1}
SOURCES = pytest.mark.parametrize("source", [CLASSIC, QUORUM, ONCE], ids=["classic", "quorum", "limit-1"])
TOO_LARGE = 200_000
pytestmark = pytest.mark.alone  # what the broker refuses, it refuses everybody


@pytest.fixture(autouse=True)
async def _broker_of_ours() -> None:
    try:
        async with lowered(TOO_LARGE * 10):
            pass
    except NoBrokerError as error:
        pytest.skip(str(error))


async def _poison(g: Group, kind: str, *keys: str) -> None:
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel(publisher_confirms=True)
        for key in keys:
            message = aio_pika.Message(b"x", headers={"partitionKey": key, POISON: kind}, message_id=f"id-{key}")
            await channel.default_exchange.publish(message, routing_key=g.source)


async def _produced(g: Group, count: int, name: str, **options: int) -> None:
    await (await g.clients.producer(g.source, name=name, count=count, rate=0, **options)).ended()  # type: ignore[arg-type]


async def _dead(g: Group) -> list[DeadMessage]:
    async with DeadQueue.open(g.config.broker, g.config.group, key_reader(g.config.spec.key)) as dead:
        return await dead.list(None, limit=None)


async def _is_there(g: Group, dead: int) -> bool:
    return (await depth(amqp_url(), g.names.dead))[0] >= dead


async def _good(g: Group, *, lost: int = 0) -> None:
    """The session that failed is like a crash: what it had given out may come again, and nothing else."""

    def found() -> tuple[int, ...]:
        verdict = g.spool.audit()
        return verdict.lost, verdict.out_of_order, verdict.stale, verdict.held_twice, verdict.strays

    # What comes again may still be on its way when everything has been there once.
    await eventually(lambda: found() == (lost, 0, 0, 0, 0), lambda: g.spool.audit().report(), every=0.5)


@asynccontextmanager
async def _fed(tmp_path: Path, source: Mapping[str, object]) -> AsyncIterator[Group]:
    async with group(tmp_path, source_arguments=source) as g:
        yield g


@SOURCES
async def test_one_that_is_too_large_now_stays_and_all_others_go_on(
    source: Mapping[str, object], tmp_path: Path
) -> None:
    async with _fed(tmp_path, source) as g:
        await _produced(g, 200, "before")
        await _produced(g, 1, "large", size=TOO_LARGE)
        await _produced(g, 200, "after")
        async with lowered(TOO_LARGE // 2):
            await g.route()
            await g.join("a")
            notice = await g.notice("MessageRefused")
            assert "key 'large-" in notice.message
            assert f"{TOO_LARGE}" in notice.message
            assert "larger than" in notice.message
            await _produced(g, 100, "later")
            await eventually(lambda: g.spool.counts()[1] >= 500, "the others do not go on", 60)
            await eventually(lambda: g.ready == "MessageRefused", "it is not named")
            assert g.report.ready.ok
            assert "key 'large-" in g.report.ready.message
        await g.notice("MessageRefused", "was set aside", deadline=90)  # the limit is what it was
        (dead,) = await _dead(g)
        assert (dead.reason, dead.size) == ("refused", TOO_LARGE)
        await eventually(lambda: g.ready == "Routing", lambda: f"it is still named: {g.report.ready}")
        await g.stop()
        assert await depth(amqp_url(), g.source) == (0, 0)
        await _good(g, lost=1)  # of which the auditor does not know that it is in the dead queue


@SOURCES
@pytest.mark.parametrize("kind", ["words", "crash"])
async def test_one_that_is_refused_is_set_aside(kind: str, source: Mapping[str, object], tmp_path: Path) -> None:
    async with _fed(tmp_path, source) as g:
        await _produced(g, 300, "before")
        await _poison(g, kind, "poison")
        await _produced(g, 300, "after")
        async with refusing():
            await g.route()
            await g.join("a")
            await g.settled()
            (dead,) = await _dead(g)
            assert (dead.key, dead.reason, dead.routing_key) == (b"poison", "refused", g.source)
            assert ("poisonous" if kind == "words" else "INTERNAL_ERROR") in dead.why
            assert "message-id 'id-poison'" in (await g.notice("MessageRefused")).message
            await _good(g)
            await eventually(lambda: g.ready == "Routing", "it does not route")
            assert g.report.counters.dead == 1


@pytest.mark.parametrize("source", [QUORUM, ONCE], ids=["quorum", "limit-1"])
async def test_many_in_a_row_lose_nothing(source: Mapping[str, object], tmp_path: Path) -> None:
    keys = [f"poison-{number}" for number in range(30)]
    async with _fed(tmp_path, source) as g:
        await _produced(g, 100, "before")
        for batch in range(3):
            await _poison(g, "words", *keys[10 * batch : 10 * batch + 10])
            await _produced(g, 100, f"p{batch}")
        async with refusing():
            await g.route()
            await g.join("a")
            await g.settled()
            # Nobody has to acknowledge these, and some may have waited in a backlog until now.
            await eventually(lambda: _is_there(g, len(keys)), "not all of them are in the dead queue")
            assert sorted(dead.key or b"" for dead in await _dead(g)) == sorted(key.encode() for key in keys)
            await _good(g)
            assert g.report.counters.sessions == 2


@pytest.mark.parametrize("kind", ["words", "crash"])
async def test_a_producer_of_some_that_are_refused_makes_few_sessions_fail(kind: str, tmp_path: Path) -> None:
    """Each of these would end a session that had believed that the last one was the only one."""
    async with _fed(tmp_path, QUORUM) as g:
        for number in range(8):
            await _produced(g, 1000, f"p{number}")
            await _poison(g, kind, f"poison-{number}")
        async with refusing():
            await g.route()
            await g.join("a")
            await eventually(partial(_is_there, g, 8), "not all of them are in the dead queue", 120)
            await g.settled()
            await _good(g)
            assert g.report.counters.sessions <= 5
            await eventually(lambda: g.ready == "Routing", lambda: f"care does not end: {g.report.ready}", 60)


@pytest.mark.parametrize("kind", ["words", "crash"])
async def test_one_that_waits_in_a_backlog_is_set_aside(kind: str, tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments=QUORUM, inbox_window=20) as g:
        await g.route()
        await g.join("a", hold_after=0, prefetch=10)
        await _produced(g, 200, "before")
        await _poison(g, kind, "poison")
        await _produced(g, 200, "after")
        await eventually(lambda: g.report.backlog > 300, "they do not come to wait", 30)
        async with refusing():
            await g.restart("a")
            await g.settled()
            (dead,) = await _dead(g)
            assert (dead.key, dead.reason) == (b"poison", "refused")
            await _good(g)


@pytest.mark.parametrize("kind", ["words", "crash"])
async def test_one_that_is_handed_off_is_set_aside(kind: str, tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments=QUORUM) as g:
        await g.route()
        a = await g.join("a", hold_after=0, prefetch=1)
        await _produced(g, 100, "before")
        await _poison(g, kind, "poison")
        await _produced(g, 100, "after")
        await eventually(lambda: g.waiting_in_inbox("a") >= 200, "they are not there", 30)
        async with refusing():
            await g.join("b")
            await a.kill()
            g.set_pod("a", None)
            await g.settled()
            await g.notice("HandoffCommitted")
            (dead,) = await _dead(g)
            assert (dead.key, dead.reason) == (b"poison", "refused")
            await _good(g)


@pytest.mark.parametrize("source", [CLASSIC, QUORUM], ids=["classic", "quorum"])
async def test_a_source_that_cannot_be_read_is_left_alone(
    source: Mapping[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tries are few, whatever the delivery limit is: nothing is lost to it."""
    monkeypatch.setattr(failed_sessions, "RARELY", 0.2)
    async with group(tmp_path, source_arguments=source) as g:
        await put_unreadable(g.source)
        await _produced(g, 100, "after")
        await g.route()
        await g.join("a")
        await eventually(lambda: g.ready == "SourceAtRisk", lambda: f"it goes on: {g.reports[-1:]}", 60)
        assert "541" in g.report.ready.message
        assert g.report.counters.sessions <= 8
        await eventually(lambda: g.report.source_ready == 101, "something is gone")
