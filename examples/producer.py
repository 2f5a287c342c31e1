"""A plain producer: it publishes orders to the source queue as before; those of one customer stay in order."""

import asyncio
import itertools
import json
import os
import random

import aio_pika


async def main() -> None:
    """Publish RATE orders a second for KEYS customers, each confirmed by the broker, until stopped."""
    customers = [f"customer-{number}" for number in range(int(os.environ.get("KEYS", "100")))]
    async with await aio_pika.connect(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")) as connection:
        channel = await connection.channel()  # with publisher confirms: the default of aio-pika
        source = await channel.declare_queue("orders", durable=True, arguments={"x-queue-type": "quorum"})
        for number in itertools.count():
            customer = random.choice(customers)  # noqa: S311
            message = aio_pika.Message(
                json.dumps({"order": number, "customer": customer}).encode(),
                headers={"partitionKey": customer},
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await channel.default_exchange.publish(message, routing_key=source.name)
            await asyncio.sleep(1 / float(os.environ.get("RATE", "50")))


asyncio.run(main())
