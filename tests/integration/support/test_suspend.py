"""A queue's process does nothing for as long as a test says, and then goes on."""

from collections.abc import Mapping

import aio_pika
import pytest

from support.broker import QUORUM, amqp_url, depth, temporary_queue
from support.broker_script import NoBrokerError
from support.conditions import eventually
from support.suspend import suspend, suspended

CLASSIC: Mapping[str, object] = {}


async def filled(queue: str) -> None:
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.default_exchange.publish(aio_pika.Message(b"x"), routing_key=queue)


async def test_of_a_suspended_quorum_queue_the_broker_says_that_it_is_empty() -> None:
    async with temporary_queue(amqp_url(), "suspended.one", QUORUM) as queue:
        await filled(queue)
        try:
            async with suspended(queue):
                assert await depth(amqp_url(), queue) == (0, 0)
        except NoBrokerError as error:
            pytest.skip(str(error))
        assert await depth(amqp_url(), queue) == (1, 0)


@pytest.mark.parametrize("arguments", [CLASSIC, QUORUM])
async def test_it_goes_on_by_itself(arguments: Mapping[str, object]) -> None:
    async with temporary_queue(amqp_url(), "suspended.two", arguments) as queue:
        await filled(queue)
        try:
            await suspend(queue, 1.0)
        except NoBrokerError as error:
            pytest.skip(str(error))

        async def answers() -> bool:
            return await depth(amqp_url(), queue) == (1, 0)

        await eventually(answers, "the queue does not go on")
