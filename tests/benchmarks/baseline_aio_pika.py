"""A router as one writes it with aio-pika's documentation at hand: `python -m benchmarks.baseline_aio_pika OPTIONS`.

It keeps what PartyMQ keeps while nothing goes wrong and nobody comes or goes: a message is acknowledged once it is
confirmed in its target (publisher confirms are aio-pika's default, `process` acknowledges at the end of its block), and
a key's messages stay in order, because callbacks start in order and each publishes before it first waits for something
that is not first come, first served. It is given a larger prefetch and uvloop, so that it does what the library can.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

import aio_pika
import mmh3
import uvloop
from aio_pika.abc import AbstractIncomingMessage

PREFETCH = 1000


async def route(url: str, source: str, targets: Sequence[str], key: str) -> None:
    """Forwards what comes to `source` to the target of its key, which is in a header or in the body."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(source)

        async def forward(message: AbstractIncomingMessage) -> None:
            async with message.process():
                value = message.headers["partitionKey"] if key == "header" else json.loads(message.body)["partitionKey"]
                await channel.default_exchange.publish(
                    aio_pika.Message(
                        message.body, headers=message.headers, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
                    ),
                    routing_key=targets[mmh3.hash(str(value), 0, signed=False) % len(targets)],
                )

        await queue.consume(forward)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(route(**json.loads(sys.argv[1])))
