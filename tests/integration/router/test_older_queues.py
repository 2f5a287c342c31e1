"""A group whose queues an older version has declared, without what this one asks for besides, goes on with them."""

from pathlib import Path

import aio_pika
from pamqp.common import FieldTable

from partymq.amqp.our_queues import CONSUMER_TIMEOUT, DELIVERY_LIMIT
from support.broker import amqp_url
from support.group import group

OLDER: FieldTable = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-consumer-timeout": CONSUMER_TIMEOUT,
}
ONE_ACTIVE: FieldTable = {**OLDER, "x-single-active-consumer": True}


async def test_queues_of_an_older_version_are_taken_as_they_are(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        names = g.names
        kinds = {
            names.journal: ONE_ACTIVE,
            names.inbox("a"): {**ONE_ACTIVE, "x-dead-letter-exchange": names.dlx},
            names.outlets: OLDER,
            names.backlog(0): OLDER,
        }
        async with await aio_pika.connect(amqp_url()) as connection:
            channel = await connection.channel()
            for name, arguments in kinds.items():
                await channel.declare_queue(name, durable=True, arguments=arguments)
        await g.route()
        await g.join("a")
        await g.join("b")
        await g.owners("a", "b")
        producer = await g.clients.producer(g.source, count=200, keys=20)
        await producer.ended()
        await g.settled()
        verdict = g.spool.audit()
        assert verdict.ok, verdict.report()
