"""What a successor relies on: where no outlet is left, nothing of an earlier session comes any more."""

import asyncio

import pytest

from partymq.amqp.channel import MAX_PREFETCH
from partymq.amqp.connection import Connection
from partymq.amqp.frames import body_frames, body_payload, plain_header
from partymq.amqp.topology import QueueState, Topology
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.settling import await_alone
from partymq.router.publish.publisher import OUTLETS, Publisher
from support.broker import unique
from support.conditions import eventually
from support.group import address

IN_FLIGHT = 40_000
BODY = b"x" * 800


@pytest.mark.parametrize("round_", range(2))
async def test_nothing_arrives_after_the_last_outlet_is_gone(round_: int) -> None:
    topology = await Topology.open(address(), name="test")
    outlets, others, *queues = (unique("q") for _ in range(2 + OUTLETS))
    await asyncio.gather(*(topology.declare_quorum(queue) for queue in (outlets, others, *queues)))
    connections = [await Connection.open(address(), name=f"test {n}") for n in range(2)]
    try:
        before, after = [Publisher(DataConnection(each), await each.channel()) for each in connections]
        await before.open(outlets)
        await after.open(others)  # a real successor opens its outlets later: here it is to be as quick as can be
        witness = await connections[1].channel()
        await witness.consume(outlets, lambda *_message: None)
        sinks = [before.sink(queue) for queue in queues]
        for number in range(IN_FLIGHT):
            sinks[number % OUTLETS].publish(plain_header(len(BODY)), body_frames(BODY))
        await eventually(lambda: sinks[0].unconfirmed < IN_FLIGHT // OUTLETS - 500, "nothing is confirmed", every=0)
        connections[0].abort()

        await await_alone(topology, outlets)
        for queue in queues:
            after.sink(queue).publish(plain_header(4), body_frames(b"last"))
        await after.confirmed()
        for queue in queues:
            assert await _last(connections[1], topology, queue) == b"last"
    finally:
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(topology.delete(queue) for queue in (outlets, others, *queues)))
        await topology.close()


async def _last(connection: Connection, topology: Topology, queue: str) -> bytes:
    """The body of the message that stands last in a queue."""
    bodies: list[bytes] = []
    state = await topology.poll(queue)
    assert isinstance(state, QueueState)
    channel = await connection.channel()
    await channel.consume(queue, lambda _tag, _origin, _header, body: bodies.append(body), prefetch=MAX_PREFETCH)
    await eventually(lambda: len(bodies) >= state.ready, f"{state.ready} messages do not come")
    await channel.close()
    return body_payload(bodies[-1])
