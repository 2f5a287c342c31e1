"""The connection that declares and polls is opened again when it is lost, and is nobody's when all is over."""

import asyncio

import pytest

from partymq.amqp.connection import Connection
from partymq.amqp.lost_nodes import LostNodes
from partymq.amqp.topology import Topology
from partymq.errors import ConnectionLostError
from support.fake_broker import ADDRESS, FakeBroker


async def test_a_connection_that_is_opened_again_too_late_is_given_up() -> None:
    first, second, opens = FakeBroker(), FakeBroker(), asyncio.Event()
    for broker in (first, second):
        broker.tune.heartbeat = 0

    async def connect(broker: FakeBroker) -> Connection:
        with broker.listening():
            return await Connection.open(ADDRESS, name="test")

    async def reopen() -> Connection:
        await opens.wait()
        return await connect(second)

    topology = Topology(await connect(first), reopen=reopen, lost_nodes=LostNodes(ADDRESS), patience=10.0)
    first.lose()
    polling = asyncio.ensure_future(topology.poll("q"))
    await asyncio.sleep(0)
    await topology.close()
    opens.set()
    with pytest.raises(ConnectionLostError):
        await polling
    assert second.aborted
