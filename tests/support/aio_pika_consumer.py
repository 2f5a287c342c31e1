"""A plain aio-pika consumer that reports what it sees: the example's shape, plus the reports.

Invariant: the report of an ack is on its way before the ack. With reports to a queue both go through one channel, whose
frames the broker takes in order: an ack that took effect has its report in the queue, even if the process is killed
right after.
"""

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Protocol

import aio_pika
import aio_pika.abc
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity
from pamqp.commands import Basic
from pamqp.common import FieldTable

from support.events import CLOSED, LOST, Kind, now
from support.message import received
from support.options import ConsumerOptions, Leave
from support.spool import Reports

_FLUSH_EVERY = 0.01
_ALIVE_EVERY = 0.1


class _Sink(Protocol):
    """Where report lines go: taken at once, on their way after `flush`."""

    def write(self, lines: str) -> None: ...

    async def flush(self) -> None: ...


class _FileSink(Reports):
    async def flush(self) -> None:
        """Nothing to do: a write is a system call."""


class _QueueSink:
    def __init__(self, channel: aio_pika.abc.AbstractChannel, queue: str, actor: str) -> None:
        self._channel = channel
        self._queue = queue
        self._properties = Basic.Properties(app_id=actor, delivery_mode=1)
        self._lines: list[str] = []
        self._one_by_one = asyncio.Lock()

    def write(self, lines: str) -> None:
        self._lines.append(lines)

    async def flush(self) -> None:
        async with self._one_by_one:
            if self._lines:
                body = "".join(self._lines).encode()
                self._lines.clear()
                channel = await self._channel.get_underlay_channel()
                await channel.basic_publish(body, routing_key=self._queue, properties=self._properties)


class _Consumer:
    def __init__(self, options: ConsumerOptions, channel: aio_pika.abc.AbstractChannel, sink: _Sink) -> None:
        self._options = options
        self._channel = channel
        self._sink = sink
        self._held: asyncio.Queue[tuple[tuple[str, int] | None, aio_pika.abc.AbstractIncomingMessage]] = asyncio.Queue()
        self._acked = 0

    async def run(self, queue: aio_pika.abc.AbstractQueue, stop: asyncio.Event) -> None:
        """Consume until told to stop, then leave as the options say."""
        await self._channel.set_qos(prefetch_count=self._options.prefetch)
        tag = await queue.consume(self._on_message)
        _show(consuming=True)
        sys.stdout.write("consuming\n")
        sys.stdout.flush()
        async with asyncio.TaskGroup() as tasks:
            beat = tasks.create_task(self._beat())
            work = tasks.create_task(self._work())
            await stop.wait()
            if self._options.leave is not Leave.DROP:
                await queue.cancel(tag)
            if self._options.leave is Leave.FINISH:
                await self._held.join()
            work.cancel()
            if self._options.leave is not Leave.DROP:
                # Also after the last ack: the broker drops what it has not handed to a quorum queue yet at the close.
                await asyncio.sleep(self._options.linger)
            beat.cancel()
        self._sink.write(now(Kind.GONE, note=LOST if self._options.leave is Leave.DROP else CLOSED))
        await self._sink.flush()

    async def _on_message(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        ident, line = received(message.body, message.headers, redelivered=bool(message.redelivered))
        self._sink.write(line)
        self._held.put_nowait((ident, message))

    async def _work(self) -> None:
        while True:
            ident, message = await self._held.get()
            if self._options.work:
                await asyncio.sleep(self._options.work)
            if self._options.hold_after is None or self._acked < self._options.hold_after:
                self._acked += 1
                if ident is not None:
                    self._sink.write(now(Kind.ACKED, *ident))
                await self._sink.flush()
                await message.ack()
            self._held.task_done()

    async def _beat(self) -> None:
        """Send reports that wait for nothing, and signs of life: when they end, what was held is free."""
        alive = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            if loop.time() >= alive:
                alive = loop.time() + _ALIVE_EVERY
                self._sink.write(now(Kind.ALIVE))
            await self._sink.flush()


async def consume(options: ConsumerOptions) -> str:
    """Run a consumer until SIGTERM; the empty string, or a sentence about what went wrong."""
    stop = asyncio.Event()
    failure = ""
    _show(consuming=False)  # the file of a container before this one in the same pod

    def lost(_: object, error: BaseException | None) -> None:
        nonlocal failure
        if not stop.is_set():
            failure = f"connection lost: {error}"
            if options.spool:
                Reports(Path(options.spool), options.name).write(now(Kind.GONE, note=LOST))
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def cancelled(_: object) -> None:
        nonlocal failure
        if not stop.is_set():
            failure = "the broker ended the consumer: its queue is gone"
            stop.set()

    named: FieldTable = {"connection_name": options.name}
    async with await aio_pika.connect(options.url, client_properties=named) as connection:
        connection.close_callbacks.add(lost)
        if (declared := await _when_declared(connection, options.queue, stop)) is None:
            return failure
        channel, queue = declared
        (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(cancelled)
        sink: _Sink
        if options.report_queue:
            # A pod's container may start again under the same name: each start is an actor of its own.
            sink = _QueueSink(channel, options.report_queue, f"{options.name}~{secrets.token_hex(2)}")
        else:
            sink = _FileSink(Path(options.spool), options.name)
        try:
            await _Consumer(options, channel, sink).run(queue, stop)
        except (AMQPError, ExceptionGroup) as error:
            failure = failure or f"failed: {error!r}"
    return failure


def _show(*, consuming: bool) -> None:
    """Tell the startup probe, as the example does."""
    if path := os.environ.get("READY_FILE"):
        Path(path).touch() if consuming else Path(path).unlink(missing_ok=True)


async def _when_declared(
    connection: aio_pika.abc.AbstractConnection, name: str, stop: asyncio.Event
) -> tuple[aio_pika.abc.AbstractChannel, aio_pika.abc.AbstractQueue] | None:
    """The queue, once whoever declares it has done so; None when it is to stop first."""
    while not stop.is_set():
        channel = await connection.channel(publisher_confirms=False)
        try:
            return channel, await channel.get_queue(name)
        except ChannelNotFoundEntity:
            await asyncio.sleep(0.1)
    return None
