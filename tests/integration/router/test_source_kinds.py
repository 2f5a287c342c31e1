"""What may be a source: classic and quorum queues, no stream, and nothing that the broker deletes by itself."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aio_pika
import aio_pika.abc
import pytest

from partymq.amqp.topology import Topology
from partymq.router.flow import source_kind, source_obstacles
from partymq.router.reporting import consumer_scan
from support.broker import QUORUM, amqp_url, policy
from support.conditions import eventually
from support.group import Group, address, group

STREAM = {"x-queue-type": "stream"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_kind, "AGAIN", 2.0)


@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
async def test_the_type_of_a_queue_can_be_asked_and_asking_makes_none(kind: str, tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments={"x-queue-type": kind}) as g:
        topology = await Topology.open(address(), name="tests")
        try:
            assert await topology.queue_type(g.source) == kind
            assert await topology.queue_type(f"{g.source}-missing") is None
            assert await topology.poll(f"{g.source}-missing") is None
        finally:
            await topology.close()


async def test_a_stream_is_refused_until_a_queue_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_obstacles, "STREAM_AGAIN", 2.0)
    async with group(tmp_path, source_arguments=STREAM) as g:
        await g.route()
        await g.join("a")
        await eventually(lambda: bool(g.reports) and g.report.ready.reason == "SourceIsStream", "it is not refused", 20)
        assert "classic or a quorum queue" in g.report.ready.message
        async with await aio_pika.connect(amqp_url()) as connection:
            channel = await connection.channel()
            await channel.queue_delete(g.source)
            await channel.declare_queue(g.source, durable=True, arguments=dict(QUORUM))
        await eventually(lambda: g.report.ready.reason == "Routing", "it does not recover", 20)
        producer = await g.clients.producer(g.source, count=100)
        await producer.ended()
        await g.settled()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A queue that the broker deletes by itself, and what is said of it."""

    word: str
    auto_delete: bool = False
    durable: bool = True
    arguments: Mapping[str, object] = field(default_factory=dict)


TRANSIENT = [
    Kind(word="auto-delete", auto_delete=True),
    Kind(word="auto-delete", auto_delete=True, durable=False),
    Kind(word="expires", arguments={"x-expires": 60_000}),
    Kind(word="expires", arguments={"x-queue-type": "quorum", "x-expires": 60_000, "x-dead-letter-exchange": "x"}),
]


@asynccontextmanager
async def source_of(kind: Kind, name: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """The source declared anew as such a queue, with messages in it, and nobody who consumes it."""
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        await channel.queue_delete(name)
        arguments = dict(kind.arguments)
        await channel.declare_queue(name, durable=kind.durable, auto_delete=kind.auto_delete, arguments=arguments)  # type: ignore[arg-type]
        for number in range(10):
            await channel.default_exchange.publish(
                aio_pika.Message(str(number).encode(), headers={"partitionKey": "k"}), routing_key=name
            )
        yield channel


async def refused(g: Group, word: str) -> None:
    await eventually(lambda: g.ready == "SourceTransient", lambda: f"not refused: {g.reports[-1:]}", 20)
    assert word in g.report.ready.message
    assert g.report.counters.routed == 0


async def replaced(g: Group, channel: aio_pika.abc.AbstractChannel) -> None:
    """A durable queue comes in its place, and routing starts."""
    await channel.queue_delete(g.source)
    await channel.declare_queue(g.source, durable=True)
    await eventually(lambda: g.ready == "Routing", lambda: f"it does not recover: {g.report.ready}", 20)


@pytest.mark.parametrize("kind", TRANSIENT, ids=lambda kind: f"{kind.word}-{kind.durable}-{len(kind.arguments)}")
@pytest.mark.parametrize("api", [True, False], ids=["api", "no-api"])
async def test_what_the_broker_deletes_by_itself_is_refused_before_anything_is_read(
    tmp_path: Path, kind: Kind, *, api: bool
) -> None:
    async with group(tmp_path) as g, source_of(kind, g.source) as channel:
        if not api:
            g.config = replace(g.config, broker=replace(g.config.broker, management_uri="http://127.0.0.1:9"))
        await g.route()
        await g.join("a")
        await refused(g, kind.word)
        assert (await channel.declare_queue(g.source, passive=True)).declaration_result.message_count == 10
        await replaced(g, channel)


async def test_it_is_said_before_there_is_a_member(tmp_path: Path) -> None:
    async with group(tmp_path) as g, source_of(TRANSIENT[2], g.source):
        await g.route()
        await refused(g, "x-expires")


async def test_an_exclusive_source_is_refused_and_nothing_flaps(tmp_path: Path) -> None:
    async with group(tmp_path) as g, await aio_pika.connect(amqp_url()) as connection:
        owner = await connection.channel()
        await owner.queue_delete(g.source)
        await owner.declare_queue(g.source, exclusive=True, auto_delete=False)
        await g.route()
        await g.join("a")
        await refused(g, "exclusive")
        epoch = g.report.epoch
        await connection.close()
        await eventually(lambda: g.ready == "SourceMissing", "it is not seen that it is gone", 20)
        async with await aio_pika.connect(amqp_url()) as again:
            await replaced(g, await again.channel())
        assert g.report.epoch == epoch


async def test_a_source_that_expires_by_a_policy_is_refused_while_the_policy_holds(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        async with policy(f"^{g.source}$", {"expires": 600_000}) as name:
            await g.route()
            await g.join("a")
            await refused(g, name)
        await eventually(lambda: g.ready == "Routing", lambda: f"it does not recover: {g.report.ready}", 20)


async def test_a_policy_of_another_brokers_queue_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API shows a queue of that name, and no consumer of our journal."""
    monkeypatch.setattr(consumer_scan, "ASK_EVERY", 0.05)
    monkeypatch.setattr(consumer_scan, "shows", lambda *_: False)
    async with group(tmp_path) as g, policy(f"^{g.source}$", {"expires": 600_000}):
        await g.route()
        await g.join("a")
        await eventually(lambda: g.ready == "Routing", lambda: f"refused: {g.reports[-1:]}", 20)
