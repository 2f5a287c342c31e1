"""Sessions that fail leave nothing behind that Python complains about."""

import asyncio
import gc
import logging
from pathlib import Path

import aio_pika
import pytest

from support.broker import amqp_url
from support.conditions import eventually
from support.group import group


async def test_no_task_of_a_failing_session_is_destroyed_while_it_is_pending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Records would hold the errors, and these all that was there when they were raised.
    caplog.set_level(logging.CRITICAL, logger="partymq")
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    async with group(tmp_path) as g, await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        await channel.declare_queue(g.names.outlets, durable=True)  # ours is a quorum queue: no session can start
        await g.route()
        await eventually(lambda: bool(g.reports) and "outlets" in g.report.ready.message, "no session fails", 30.0)
        await channel.queue_delete(g.names.outlets)
        await g.join("a")
        await g.owners("a")
        await g.stop()
        gc.collect()
        await asyncio.sleep(0)
    assert complaints == []
