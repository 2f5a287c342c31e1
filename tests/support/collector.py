"""Brings the reports of consumers in pods, which they publish to a queue, into the spool.

Invariant: the queue is the only consumer's, so each actor's lines reach its file in the order in which they were
published.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import aio_pika.abc

from support.spool import Reports, Spool


@asynccontextmanager
async def collecting(url: str, queue: str, spool: Spool) -> AsyncIterator[None]:
    """Declare the report queue and collect from it; it is deleted in the end."""
    files: dict[str, Reports] = {}

    async def on_report(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        actor = message.app_id or "unknown"
        if actor not in files:
            files[actor] = Reports(spool.directory, actor)
        files[actor].write(message.body.decode())

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        reports = await channel.declare_queue(queue, durable=True)
        tag = await reports.consume(on_report, no_ack=True)
        try:
            yield
        finally:
            await reports.cancel(tag)
            await reports.delete(if_unused=False, if_empty=False)
            for file in files.values():
                file.close()
