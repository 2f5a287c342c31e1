"""A managed client: it asks for an inbox over HTTP and consumes it. On SIGTERM it finishes what it holds."""

import asyncio
import os
import signal
import socket
from contextlib import suppress

import aio_pika
import aiohttp

NAME = os.environ.get("PARTYMQ_CLIENT", socket.gethostname())
ME = f"{os.environ.get('PARTYMQ_URL', 'http://localhost:8085')}/clients/{NAME}"
AUTH = {"Authorization": f"Bearer {os.environ.get('PARTYMQ_API_TOKEN', '')}"}  # where a token is asked for


async def post(http: aiohttp.ClientSession, what: str, body: object = None) -> aiohttp.ClientResponse:
    while True:
        try:
            answer = await http.post(f"{ME}/{what}", json=body)
            if answer.status not in (429, 503):  # too often; it connects to the broker, or another server routes
                answer.raise_for_status()
                return answer
        except aiohttp.ClientConnectionError as error:  # it has not started yet
            print(error, flush=True)
        await asyncio.sleep(1)


async def main() -> None:
    stop, held = asyncio.Event(), asyncio.Queue[aio_pika.abc.AbstractIncomingMessage | None]()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
    async with aiohttp.ClientSession(headers=AUTH) as http, await aio_pika.connect(url) as amqp:
        binding = await (await post(http, "bind", {"managed": True})).json()
        channel = await amqp.channel()
        await channel.set_qos(prefetch_count=20)  # with more than 32, wait a moment after the last ack before leaving
        queue = await channel.get_queue(binding["queue"])
        amqp.close_callbacks.add(lambda *_: held.put_nowait(None))
        cancelled = (await channel.get_underlay_channel()).on_consumer_cancel_callbacks
        cancelled.add(lambda _: held.put_nowait(None))  # somebody deleted the inbox, or unbound us
        await queue.consume(held.put, consumer_tag="orders")

        async def leave() -> None:
            await stop.wait()
            await queue.cancel("orders")
            held.put_nowait(None)

        leaving = asyncio.create_task(leave())
        while message := await held.get():  # one after the other, so that they stay in order
            print(message.headers.get("partitionKey"), message.body.decode(), flush=True)
            await message.ack()
        if leaving.cancel():  # it had not left; whoever starts us again soon gets the same keys
            raise SystemExit("the connection to RabbitMQ or the inbox is lost")
        with suppress(TimeoutError):  # a server that is gone, too, notices later that we are
            await asyncio.wait_for(post(http, "unbind"), 5)


asyncio.run(main())
