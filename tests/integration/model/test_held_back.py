"""What a channel holds back from a quorum queue that does nothing: the same on the model and on the broker."""

import asyncio
from dataclasses import dataclass

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.frames import plain_header, publish_frame
from support.broker import QUORUM, amqp_url, depth, temporary_queue
from support.broker_script import NoBrokerError
from support.conditions import eventually
from support.group import address
from support.suspend import suspended
from unit.model.broker import Broker

MESSAGES = 100


@dataclass(frozen=True)
class Case:
    """What a client that holds everything sends before it closes its channel, while the queue does nothing."""

    before: int = 0
    """Publishes before the acknowledgements."""
    multiple: bool = False
    """One acknowledgement of all."""


CASES = [
    Case(),
    Case(multiple=True),
    Case(before=31, multiple=True),
    Case(before=33, multiple=True),
    Case(before=20),
]


def on_model(case: Case) -> int:
    """How many messages there are in the end."""
    broker = Broker()
    broker.declare("queue")
    channel = broker.connect().channel()
    channel.consume("queue")
    for _ in range(MESSAGES):
        channel.publish("queue", "")
    broker.settle()
    for _ in range(case.before):
        channel.publish("queue", "")
    if case.multiple:
        channel.ack(MESSAGES, multiple=True)
    else:
        for tag in range(1, MESSAGES + 1):
            channel.ack(tag)
    channel.close()
    broker.settle()
    result = broker.depth("queue")
    assert result is not None
    return result.messages


class Holder:
    """A client on the broker that holds all messages of a queue."""

    def __init__(self, channel: Channel, queue: str) -> None:
        self.channel = channel
        self.received = 0
        self.confirmed = asyncio.Event()
        self._frame = publish_frame(channel.number, "", queue)
        channel.confirm(lambda _tag, _multiple: self.confirmed.set(), lambda _tag, _multiple: None)

    def publish(self) -> None:
        self.channel.publish(self._frame, plain_header(0), b"")

    def on_delivery(self, _tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
        self.received += 1


async def _holder(connection: Connection, queue: str) -> Holder:
    holder = Holder(await connection.channel(), queue)
    await holder.channel.consume(queue, holder.on_delivery, prefetch=2000)
    for _ in range(MESSAGES):
        holder.publish()
    await eventually(lambda: holder.received == MESSAGES, "it is not given everything")
    return holder


async def _left(queue: str, expected: int) -> None:
    async def settled() -> bool:
        return await depth(amqp_url(), queue) == (expected, 0)

    await eventually(settled, f"{expected} messages do not stand in the queue in the end")


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_what_is_dropped_at_a_close(case: Case) -> None:
    async with temporary_queue(amqp_url(), "held", QUORUM) as queue:
        connection = await Connection.open(address(), name="test")
        holder = await _holder(connection, queue)
        try:
            async with suspended(queue):
                for _ in range(case.before):
                    holder.publish()
                if case.multiple:
                    holder.channel.ack(MESSAGES, multiple=True)
                else:
                    for tag in range(1, MESSAGES + 1):
                        holder.channel.ack(tag)
                await holder.channel.close()
        except NoBrokerError as error:
            pytest.skip(str(error))
        await _left(queue, on_model(case))
        await connection.close()


async def test_a_fence_proves_acknowledgements_where_nothing_stands_behind_it() -> None:
    """With a hundred publishes behind it, 217 of 250 acknowledgements were lost in four rounds of four."""
    async with temporary_queue(amqp_url(), "fence", QUORUM) as queue:
        connection = await Connection.open(address(), name="test")
        holder = await _holder(connection, queue)
        holder.confirmed.clear()
        try:
            async with suspended(queue):
                for tag in range(1, MESSAGES + 1):
                    holder.channel.ack(tag)
                holder.publish()
        except NoBrokerError as error:
            pytest.skip(str(error))
        await holder.confirmed.wait()
        await holder.channel.close()
        await _left(queue, 1)
        await connection.close()
