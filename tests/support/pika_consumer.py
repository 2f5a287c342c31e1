"""A plain pika consumer that reports what it sees, with that library's way of leaving: its close cancels first.

Invariant: the same as of the aio-pika consumer; reports go to files only, whose writes are system calls.
"""

import signal
import sys
from collections import deque
from pathlib import Path

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection  # type: ignore[import-untyped]
from pika.spec import Basic, BasicProperties  # type: ignore[import-untyped]

from support.events import CLOSED, LOST, Kind, now
from support.message import received
from support.options import ConsumerOptions, Leave
from support.spool import Reports


class _Consumer:
    def __init__(self, options: ConsumerOptions, reports: Reports) -> None:
        self._options = options
        self._reports = reports
        self._held: deque[tuple[tuple[str, int] | None, int]] = deque()
        self._acked = 0
        self._stopping = False
        self.failure = ""
        parameters = pika.URLParameters(options.url)
        parameters.client_properties = {"connection_name": options.name}
        self._connection = BlockingConnection(parameters)
        self._channel = self._when_declared()
        self._channel.add_on_cancel_callback(self._on_cancel)

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._channel.basic_qos(prefetch_count=self._options.prefetch)
        tag = self._channel.basic_consume(self._options.queue, self._on_message)
        sys.stdout.write("consuming\n")
        sys.stdout.flush()
        while not self._stopping:
            self._connection.process_data_events(time_limit=0 if self._held else 0.02)
            self._handle_one()
        if self._options.leave is Leave.FINISH:
            self._channel.basic_cancel(tag)
            while self._held:
                self._handle_one()
            self._connection.sleep(self._options.linger)  # for the last acks to take effect, as in the other client
        elif self._options.leave is Leave.CANCEL:
            self._channel.basic_cancel(tag)
            self._connection.sleep(self._options.linger)
        self._reports.write(now(Kind.GONE, note=LOST if self._options.leave is Leave.DROP else CLOSED))
        self._connection.close()

    def _when_declared(self) -> BlockingChannel:
        while True:
            channel = self._connection.channel()
            try:
                channel.queue_declare(self._options.queue, passive=True)
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                self._connection.sleep(0.1)  # nobody tells a client that a queue is there now; heartbeats go on
            else:
                return channel

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _on_cancel(self, _: object) -> None:
        if not self._stopping:
            self.failure = "the broker ended the consumer: its queue is gone"
            self._stopping = True

    def _on_message(self, _: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        ident, line = received(body, properties.headers or {}, redelivered=method.redelivered)
        self._reports.write(line)
        self._held.append((ident, method.delivery_tag))

    def _handle_one(self) -> None:
        if not self._held:
            return
        ident, tag = self._held.popleft()
        if self._options.work:
            self._connection.sleep(self._options.work)
        if self._options.hold_after is not None and self._acked >= self._options.hold_after:
            return
        self._acked += 1
        if ident is not None:
            self._reports.write(now(Kind.ACKED, *ident))
        self._channel.basic_ack(tag)


def consume(options: ConsumerOptions) -> str:
    """Run a consumer until SIGTERM; the empty string, or a sentence about what went wrong."""
    reports = Reports(Path(options.spool), options.name)
    try:
        consumer = _Consumer(options, reports)
        consumer.run()
    except pika.exceptions.AMQPError as error:
        reports.write(now(Kind.GONE, note=LOST))
        return f"failed: {error!r}"
    return consumer.failure
