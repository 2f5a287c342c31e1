"""A broker is tried before it is trusted: what handoffs rest on holds for our kind of queue, and for no other."""

import pytest

from partymq.amqp.connection import Connection
from partymq.core.names import SELF_TEST
from partymq.errors import BrokerUnsuitableError
from partymq.router.broker.suitability import QUEUE, examine
from support.group import address
from support.own_broker import OwnBroker


async def test_the_broker_does_what_handoffs_rest_on(broker: OwnBroker) -> None:
    connection = await Connection.open(address(), name="test")
    await examine(connection)
    await connection.close()
    assert SELF_TEST not in await broker.control("list_queues", "name")


@pytest.mark.parametrize("otherwise", [{"x-single-active-consumer": False}, {"x-queue-type": "classic"}])
async def test_one_that_does_not_is_refused(broker: OwnBroker, otherwise: dict[str, object]) -> None:
    """A queue of another kind stands for a broker of another kind."""
    arguments = {key: value for key, value in QUEUE.items() if key != "x-delivery-limit"} | otherwise
    connection = await Connection.open(address(), name="test")
    with pytest.raises(BrokerUnsuitableError, match="consumers that wait"):
        await examine(connection, arguments)  # type: ignore[arg-type]
    await connection.close()
    assert SELF_TEST not in await broker.control("list_queues", "name")
