"""A queue that the broker refuses is its member's or its partition's trouble: all others go on, and it fixes itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import pytest

from partymq.amqp import handshake
from partymq.core.membership import PodState
from partymq.core.spec import KeySpec, OnMissing
from support.broker import QUORUM, amqp_url, management_url, unique
from support.conditions import eventually, stays
from support.group import Group, group


@asynccontextmanager
async def stranger(queue: str) -> AsyncIterator[aio_pika.abc.AbstractQueue]:
    """Somebody declares the queue, without arguments."""
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        yield await channel.declare_queue(queue, durable=True)


async def test_a_pod_that_declares_its_inbox_itself_is_left_out_until_that_is_mended(tmp_path: Path) -> None:
    async with group(tmp_path) as g, stranger(g.names.inbox("b")) as theirs:
        await g.route()
        await g.join("a")
        await g.owners("a")
        producer = await (await g.clients.producer(g.source, rate=300, keys=50)).started()
        g.set_pod("b")
        notice = await g.notice("ForeignQueue", g.names.inbox("b"))
        assert notice.warning
        assert "delete it" in notice.message
        await g.progress(200)
        assert g.ready == "Routing"
        await eventually(lambda: g.names.inbox("b") in g.report.ready.message, lambda: f"not named: {g.report}")
        assert g.report.balanced.reason == "ForeignQueue"
        await theirs.delete()
        await g.join("b")
        await g.owners("a", "b")
        assert g.report.ready.message == "messages are routed"
        await g.audited(producer)
        assert g.report.counters.sessions == 1


async def test_a_member_whose_inbox_is_a_strangers_when_a_session_begins_waits_alone(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a")
        b = await g.join("b")
        await g.owners("a", "b")
        await b.stop()  # before the rejoin time is over
        await g.stop()
        async with await aio_pika.connect(amqp_url()) as connection:
            await (await connection.channel()).queue_delete(g.names.inbox("b"))
        async with stranger(g.names.inbox("b")) as theirs:
            g.reports.clear()
            await g.route()
            producer = await (await g.clients.producer(g.source, rate=300, keys=50)).started()
            await g.notice("ForeignQueue", f"What is for b waits: The broker has another queue '{g.names.inbox('b')}'")
            await g.progress(100)
            g.set_pod("b", None)  # its partitions cannot be handed off either, and wait
            await eventually(lambda: g.names.inbox("b") in g.waiting_for, lambda: f"not named: {g.report.handoffs}")
            await g.progress(100)
            assert (await theirs.channel.declare_queue(theirs.name, passive=True)).declaration_result.message_count == 0
            await theirs.delete()
        await g.owners("a")
        await g.audited(producer)


class Host:
    """A virtual host of the test's own, whose limits are nobody else's."""

    def __init__(self, name: str, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._session = session

    async def ready(self, queue: str) -> int:
        """Messages in a queue."""
        async with await aio_pika.connect(amqp_url()) as connection:
            declared = await (await connection.channel()).declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def queues(self) -> int:
        """How many queues there are."""
        async with self._session.get(f"api/queues/{self.name}?disable_stats=true&enable_queue_totals=true") as answer:
            return len(await answer.json())

    @asynccontextmanager
    async def full(self, pattern: str, limit: int) -> AsyncIterator[None]:
        """Queues of these names refuse what is beyond so many messages."""
        definition = {"max-length": limit, "overflow": "reject-publish"}
        policy = {"pattern": pattern, "apply-to": "queues", "definition": definition}
        await self._session.put(f"api/policies/{self.name}/full", json=policy)
        try:
            yield
        finally:
            await self._session.delete(f"api/policies/{self.name}/full")

    async def allow(self, queues: int) -> None:
        """The most queues that there may be from now on."""
        await self._session.put(f"api/vhost-limits/{self.name}/max-queues", json={"value": queues})


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    name, user = unique("vhost"), urlsplit(management_url()).username
    async with aiohttp.ClientSession(base_url=f"{management_url()}/", raise_for_status=True) as session:
        await session.put(f"api/vhosts/{name}", json={})
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        await session.put(f"api/permissions/{name}/{user}", json=rights)
        monkeypatch.setenv("PARTYMQ_MANAGEMENT_URL", management_url())
        monkeypatch.setenv("PARTYMQ_AMQP_URL", f"{amqp_url().rstrip('/')}/{name}")
        yield Host(name, session)
        await session.delete(f"api/vhosts/{name}")


async def test_the_limit_of_queues_stops_only_what_needs_another_one(tmp_path: Path, host: Host) -> None:
    async with group(tmp_path, inbox_window=32) as g:
        await g.route()
        await g.join("good", work=0.001)
        await g.join("bad", work=0.001)
        await g.owners("good", "bad")
        await host.allow(await host.queues())
        await g.restart("bad", prefetch=5, hold_after=0)
        producer = await (await g.clients.producer(g.source, rate=200, keys=60)).started()
        notice = await g.notice("BrokerLimit", "queue limit in vhost")
        assert "backlog." in notice.message
        assert "delete it" not in notice.message
        await g.progress(300)
        assert g.ready == "Routing"
        assert "queue limit in vhost" in g.report.ready.message
        g.set_pod("late")
        await g.notice("BrokerLimit", "late cannot join")
        await g.progress(100)
        assert g.report.counters.sessions == 1
        await host.allow(1000)
        await g.restart("bad", work=0.001)
        await g.join("late", work=0.001)
        await g.owners("good", "bad", "late")
        await g.audited(producer)
        assert g.report.counters.sessions == 1
        assert g.report.ready.message == "messages are routed"


async def test_a_handoff_that_gets_no_transfer_waits_alone(tmp_path: Path, host: Host) -> None:
    async with group(tmp_path, inbox_window=32) as g:
        await g.route()
        await g.join("good", work=0.001)
        await g.join("bad", prefetch=5, work=0.5)
        await g.owners("good", "bad")
        producer = await (await g.clients.producer(g.source, rate=100, keys=60)).started()
        await eventually(lambda: g.report.backlog > 20, "no backlog", 30.0)
        await host.allow(await host.queues())
        g.set_pod("bad", PodState.TERMINATING)
        await g.notice("BrokerLimit", "What bad hands off waits")
        await eventually(lambda: "its transfer: A limit" in g.waiting_for, lambda: f"not named: {g.report.handoffs}")
        await host.allow(1000)
        await g.owners("good")
        await g.audited(producer)
        assert g.report.counters.sessions == 1


@asynccontextmanager
async def channels(most: int) -> AsyncIterator[None]:
    """Connections that are opened in the block have no more channels than that."""
    with mock.patch.object(handshake, "_CHANNEL_MAX", most):
        yield


async def test_few_channels_make_things_slow_and_not_unreachable(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=16) as g, channels(10):
        await g.route()
        for name in "abcd":
            await g.join(name, prefetch=5, work=0.03)
        await g.owners(*"abcd")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await eventually(lambda: g.report.backlog > 200, "no backlog", 30.0)
        await g.restart("a", work=0.001)
        g.set_pod("b", PodState.TERMINATING)
        g.set_pod("c", PodState.TERMINATING)
        await g.restart("d", work=0.001)
        await g.owners("a", "d", deadline=60.0)
        await g.audited(producer)
        assert g.report.counters.sessions == 1


async def test_too_few_channels_are_named(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channels(3):
        await g.route()
        await eventually(lambda: g.ready == "BrokerLimit", lambda: f"it is not said: {g.reports[-1:]}", 20)
        assert "All 3 channels" in g.report.ready.message
        await g.stop()


@asynccontextmanager
async def one_hangs(tmp_path: Path, *, window: int) -> AsyncIterator[Group]:
    """A group of two members, of which `bad` acknowledges nothing."""
    async with group(tmp_path, inbox_window=window) as g:
        await g.route()
        await g.join("good", work=0.001)
        await g.join("bad", prefetch=5, hold_after=0)
        await g.owners("good", "bad")
        yield g


async def test_an_inbox_that_refuses_messages_is_its_members_trouble(tmp_path: Path, host: Host) -> None:
    async with one_hangs(tmp_path, window=64) as g:
        async with host.full(r"inbox\.bad$", 5):
            producer = await (await g.clients.producer(g.source, rate=200, keys=60)).started()
            notice = await g.notice("QueueRefuses", g.names.inbox("bad"))
            assert "What is for bad waits" in notice.message
            await g.progress(300)
            assert g.names.inbox("bad") in g.report.ready.message
            assert g.report.backlog > 0, "what is for it is kept on the broker"
            await g.restart("bad", prefetch=5, work=0.001)
            await producer.stop()
            await g.settled()
        await g.owners("good", "bad")
        await eventually(lambda: g.report.ready.message == "messages are routed", lambda: f"{g.report.ready}")
        await g.audited(producer)
        assert g.report.counters.sessions == 1


async def test_a_backlog_that_refuses_messages_is_its_partitions_trouble(tmp_path: Path, host: Host) -> None:
    async with one_hangs(tmp_path, window=32) as g:
        async with host.full(r"\.backlog\.", 5):
            producer = await (await g.clients.producer(g.source, rate=200, keys=60)).started()
            await g.notice("QueueRefuses", ".backlog.")
            await g.progress(300)
            assert g.ready == "Routing"
        await g.restart("bad", prefetch=5, work=0.001)
        await g.audited(producer)
        assert g.report.counters.sessions == 1


async def test_a_source_that_stands_is_told_and_goes_on_when_there_is_room(tmp_path: Path, host: Host) -> None:
    """What an inbox and a backlog refuse stays unacknowledged, and there is an end to how much may."""
    async with one_hangs(tmp_path, window=32) as g:
        async with host.full(r"\.backlog\.", 5):
            producer = await (await g.clients.producer(g.source, rate=1500, keys=60, count=6000)).started()
            await eventually(lambda: g.ready == "SourceStands", lambda: f"{g.report.ready}", 60.0)
            assert ".backlog." in g.report.ready.message
        await eventually(lambda: g.ready == "Routing", lambda: f"{g.report.ready}", 60.0)
        await g.restart("bad", prefetch=5)
        await g.audited(producer)
        assert g.report.counters.sessions == 1


@pytest.mark.parametrize("source", [None, QUORUM], ids=["classic", "quorum"])
async def test_what_waits_neither_holds_others_up_nor_has_them_repeated(
    tmp_path: Path, host: Host, source: dict[str, object] | None
) -> None:
    """Were acknowledgements to go in the order of the source, others would get less than 2000, and these again."""
    async with group(tmp_path, inbox_window=32, source_arguments=source) as g:
        await g.spawn()
        await g.join("good")
        await g.join("bad", prefetch=5, hold_after=0)
        await g.owners("good", "bad")
        async with host.full(r"\.backlog\.", 5):
            producer = await (await g.clients.producer(g.source, rate=1500, keys=60, count=3000)).started()
            await g.progress(1200)
            assert g.ready == "Routing"
            await stays(lambda: g.ready == "Routing", "it stands", 4.0)  # older than what may come again after a kill
            await g.kill()
            await g.again()
        await g.restart("bad", prefetch=5)
        await g.audited(producer)


async def test_what_goes_to_dead_waits_for_room_there(tmp_path: Path, host: Host) -> None:
    async with group(tmp_path, key=KeySpec(on_missing=OnMissing.DEAD_LETTER)) as g:
        await g.route()
        await g.join("a", work=0.001)
        await g.owners("a")
        async with host.full(r"\.dead$", 5):
            producer = await (await g.clients.producer(g.source, rate=200, keys=60, keyless=0.2)).started()
            await g.notice("QueueRefuses", g.names.dead)
            await g.progress(300)
            await producer.stop()
            await eventually(lambda: g.report.counters.dead > 20, "none is dead", 30.0)
        await eventually(lambda: g.report.ready.message == "messages are routed", lambda: f"{g.report.ready}", 30.0)
        assert await host.ready(g.names.dead) == g.report.counters.dead
        assert g.report.counters.sessions == 1
