"""A plain consumer: it knows its queue's name and nothing of PartyMQ. On SIGTERM it finishes what it holds."""

import asyncio
import os
import signal
from pathlib import Path

import aio_pika


def show(*, consuming: bool) -> None:
    """Tell the startup probe: Kubernetes takes an old pod away only for a new one that consumes."""
    if path := os.environ.get("READY_FILE"):
        Path(path).touch() if consuming else Path(path).unlink(missing_ok=True)


async def inbox(connection: aio_pika.abc.AbstractConnection, stop: asyncio.Event) -> aio_pika.abc.AbstractQueue:
    while not stop.is_set():  # PartyMQ declares the queue once it sees the pod: perhaps a moment after we start
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=20)  # with more than 32, wait a moment after the last ack before leaving
        try:
            return await channel.get_queue(os.environ["QUEUE"])
        except aio_pika.exceptions.ChannelNotFoundEntity:
            await asyncio.sleep(0.2)
    raise SystemExit("stopped before the queue was there")


async def main() -> None:
    show(consuming=False)  # the file of a container before this one in the same pod
    stop, held = asyncio.Event(), asyncio.Queue[aio_pika.abc.AbstractIncomingMessage | None]()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await aio_pika.connect(os.environ["AMQP_URL"]) as connection, asyncio.TaskGroup() as tasks:
        queue = await inbox(connection, stop)

        async def leave() -> None:
            await stop.wait()
            await queue.cancel("orders")  # fails if the connection is lost: the process ends, Kubernetes restarts it
            held.put_nowait(None)

        connection.close_callbacks.add(lambda *_: stop.set())
        cancelled = (await queue.channel.get_underlay_channel()).on_consumer_cancel_callbacks
        cancelled.add(lambda _: stop.set())  # somebody deleted the queue
        tasks.create_task(leave())
        await queue.consume(held.put, consumer_tag="orders")
        show(consuming=True)
        while message := await held.get():  # one after the other, so that they stay in order
            print(message.headers.get("partitionKey"), message.body.decode(), flush=True)
            await message.ack()


asyncio.run(main())
