"""What may be a source: classic and quorum queues, and no stream."""

from pathlib import Path

import aio_pika
import pytest

from partymq.amqp.topology import Topology
from partymq.router import intake
from support.broker import QUORUM, amqp_url
from support.conditions import eventually
from support.group import address, group

STREAM = {"x-queue-type": "stream"}


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
    monkeypatch.setattr(intake, "STREAM_AGAIN", 2.0)
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
