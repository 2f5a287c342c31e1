"""A producer with confirms at a steady rate: one pika connection in callbacks, light on the machine.

Invariant: a key's numbers are published in order on one channel, `SENT` is reported before the publish, `CONFIRMED`
after the broker's confirm; a return, a nack or a lost connection ends the process with an error, for then the source's
order is not known any more.
"""

import random
import signal
import sys
from collections import defaultdict
from pathlib import Path
from time import monotonic

import pika  # type: ignore[import-untyped]
from pika.channel import Channel  # type: ignore[import-untyped]
from pika.frame import Method  # type: ignore[import-untyped]

from support.events import CLOSED, Kind, now
from support.message import body_of
from support.options import KEY_HEADER, ProducerOptions
from support.spool import Reports

_TICK = 0.005


class Producer:
    """Runs until its count or SIGTERM, then until everything is confirmed."""

    def __init__(self, options: ProducerOptions, reports: Reports) -> None:
        self._options = options
        self._reports = reports
        # A load that is the same in every run, not a secret.
        self._random = random.Random(options.seed)
        self._next_seq: dict[str, int] = defaultdict(int, {"": options.first_keyless})
        self._sent = 0
        self._unconfirmed: dict[int, tuple[str, int]] = {}
        self._oldest = 1
        self._stopping = False
        self._failure = ""
        self._started = 0.0
        self._channel: Channel
        self._connection = pika.SelectConnection(
            pika.URLParameters(options.url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=lambda _, error: self._end(f"cannot connect: {error}"),
            on_close_callback=lambda _, why: self._end("" if self._stopping else f"connection closed: {why}"),
        )

    def run(self) -> str:
        """Produce; the empty string, or a sentence about what went wrong."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._connection.ioloop.start()
        return self._failure

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(
            lambda _, reason: self._end("" if self._stopping else f"channel closed: {reason}")
        )
        channel.add_on_return_callback(lambda *_: self._end(f"returned: is there a queue {self._options.queue}?"))
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._start())

    def _start(self) -> None:
        sys.stdout.write("producing\n")
        sys.stdout.flush()
        self._started = monotonic()
        self._tick()

    def _tick(self) -> None:
        options = self._options
        if options.count is not None and self._sent >= options.count:
            self._stopping = True
        if self._stopping:
            if not self._unconfirmed:
                self._reports.write(now(Kind.GONE, note=CLOSED))
                self._connection.close()
                return
        else:
            self._send()
        self._connection.ioloop.call_later(_TICK, self._tick)

    def _send(self) -> None:
        options = self._options
        due = options.in_flight
        if options.rate:
            due = min(due, int((monotonic() - self._started) * options.rate) - self._sent)
        if options.count is not None:
            due = min(due, options.count - self._sent)
        for _ in range(min(due, options.in_flight - len(self._unconfirmed))):
            self._publish()

    def _publish(self) -> None:
        options = self._options
        keyless = options.keyless > 0 and self._random.random() < options.keyless
        key = "" if keyless else f"{options.name}-{self._random.randrange(options.keys)}"
        seq = self._next_seq[key]
        self._next_seq[key] += 1
        self._sent += 1
        self._unconfirmed[self._sent] = (key, seq)
        headers: dict[str, object] = {KEY_HEADER: key} if options.in_header and not keyless else {}
        self._reports.write(now(Kind.SENT, key, seq))
        self._channel.basic_publish(
            exchange="",
            routing_key=options.queue,
            body=body_of(key, seq, options.size),
            properties=pika.BasicProperties(headers=headers, delivery_mode=2, content_type="application/json"),
            mandatory=True,
        )

    def _on_confirm(self, frame: Method) -> None:
        if self._failure:
            return  # the broker confirms what it has returned, too
        if frame.method.NAME != "Basic.Ack":
            self._end("the broker refused a message")
            return
        tag = frame.method.delivery_tag
        tags = range(self._oldest, tag + 1) if frame.method.multiple else (tag,)
        lines = [now(Kind.CONFIRMED, *self._unconfirmed.pop(one)) for one in tags if one in self._unconfirmed]
        self._reports.write("".join(lines))
        while self._oldest <= self._sent and self._oldest not in self._unconfirmed:
            self._oldest += 1

    def _end(self, failure: str) -> None:
        self._failure = self._failure or failure
        self._stopping = True
        self._connection.ioloop.stop()


def produce(options: ProducerOptions) -> str:
    """Run a producer; the empty string, or a sentence about what went wrong."""
    return Producer(options, Reports(Path(options.spool), options.name)).run()
