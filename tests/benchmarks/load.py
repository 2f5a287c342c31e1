"""Messages, and how fast they go.

Invariant: the load disturbs what it is for as little as can be: sources are filled over the project's own connection
and left alone until the broker is idle, and rates come from ten polls a second.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct

from pamqp.encode import field_table

from benchmarks.harness import Run, clock, cpu_seconds
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.frames import HEADER_HEAD, body_frames, publish_frame
from partymq.amqp.topology import QueueState
from partymq.errors import PartyMQError
from support.group import address

QUEUES: Mapping[str, Mapping[str, int | str | None]] = {
    "classic": {"x-queue-type": "classic"},
    "quorum": {"x-queue-type": "quorum"},
}
KEYS = 1000
KEY_NAME = "partitionKey"

_IN_FLIGHT = 3000
_IN_FLIGHT_BYTES = 8 * 1024 * 1024
_BASIC = 60
_HEADERS_AND_DELIVERY_MODE = (0x3000).to_bytes(2, "big")
_PERSISTENT = b"\x02"
_IDLE_SHARE = 0.1
_DEADLINE = 120.0


def content_header(key: int, size: int) -> bytes:
    """The content header of a persistent message with a key in its header `partitionKey`."""
    table = field_table({KEY_NAME: f"key-{key}"})
    return HEADER_HEAD.pack(_BASIC, 0, size) + _HEADERS_AND_DELIVERY_MODE + table + _PERSISTENT


def json_body(key: int, size: int) -> bytes:
    """A JSON object of so many bytes with the key in a field."""
    start = json.dumps({KEY_NAME: f"key-{key}", "text": ""}).encode()
    return start[:-2] + b"x" * (size - len(start)) + start[-2:]


class Confirms:
    """Publishes that the broker has not confirmed."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._low = 1
        self.sent = 0

    def publish(self) -> None:
        """One more is sent."""
        self.sent += 1
        self._open.add(self.sent)

    def confirm(self, tag: int, multiple: bool) -> None:
        """The callback of the channel."""
        if not multiple:
            self._open.discard(tag)
            return
        self._open.difference_update(range(self._low, tag + 1))
        self._low = max(self._low, tag + 1)

    def __len__(self) -> int:
        return len(self._open)


class Filler:
    """Publishes as fast as confirms come: messages of one size, keys in turn."""

    def __init__(self, channel: Channel, queue: str, *, size: int, key: str, frame_max: int) -> None:
        self._channel = channel
        self._frame = publish_frame(channel.number, "", queue)
        self._headers = [content_header(k, size) for k in range(KEYS)]
        bodies = [json_body(k, size) for k in range(KEYS if key == "body" else 1)]
        self._bodies = [body_frames(body, channel.number, frame_max) for body in bodies]
        self._in_flight = max(1, min(_IN_FLIGHT, _IN_FLIGHT_BYTES // size))
        self._left = 0
        self._done = asyncio.Event()
        self._confirms = Confirms()

    async def run(self, connection: Connection, messages: int) -> None:
        """Publishes so many, and waits until all are confirmed."""
        await self._channel.confirm_select(self._confirms.confirm, _nacked)
        self._left = messages
        connection.add_chunk_hook(self._pump)
        self._pump()
        async with asyncio.timeout(_DEADLINE):
            await self._done.wait()

    def _pump(self) -> None:
        confirms, headers, bodies = self._confirms, self._headers, self._bodies
        while self._left and len(confirms) < self._in_flight:
            self._left -= 1
            n = confirms.sent
            self._channel.publish(self._frame, headers[n % KEYS], bodies[n % len(bodies)])
            confirms.publish()
        if not self._left and not confirms:
            self._done.set()


def _nacked(tag: int, multiple: bool) -> None:
    raise PartyMQError(f"the broker could not store publish {tag}")


async def fill(run: Run, queue: str, messages: int, *, size: int, key: str = "header") -> None:
    """Fills a queue, and waits until the broker has got over it."""
    await publish(queue, messages, size=size, key=key)
    await idle(run)


async def publish(queue: str, messages: int, *, size: int, key: str = "header") -> None:
    """Publishes messages as fast as they are confirmed."""
    connection = await Connection.open(address(), name="benchmark filler")
    try:
        channel = await connection.channel()
        filler = Filler(channel, queue, size=size, key=key, frame_max=connection.frame_max)
        await filler.run(connection, messages)
    finally:
        await connection.close()


async def idle(run: Run, deadline: float = 10.0) -> None:
    """Waits until the broker uses little CPU, for as long as that may take; a second where it cannot be seen."""
    if run.broker_pid is None:
        await asyncio.sleep(1.0)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5 if run.quick else deadline):
            while True:
                before = cpu_seconds(run.broker_pid)
                await asyncio.sleep(0.3)
                if cpu_seconds(run.broker_pid) - before < 0.3 * _IDLE_SHARE:
                    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What the middle of a round shows."""

    per_second: float
    cpu: float
    """Microseconds of CPU a message of the process that was watched."""
    broker_cpu: float
    """And of the broker."""


async def rate(run: Run, moved: Callable[[], Awaitable[int]], messages: int, pid: int | None = None) -> Rate:
    """Waits until all but 10 % of `messages` have moved, and measures from the last look that showed less than 10 %."""
    begin: tuple[float, int, float, float] | None = None
    async with asyncio.timeout(_DEADLINE):
        while True:
            sample = (clock(), await moved(), cpu_seconds(pid), cpu_seconds(run.broker_pid))
            if begin is None or sample[1] < messages * 0.1:
                begin = sample
            elif sample[1] >= messages * 0.9:
                return _between(begin, sample)
            await asyncio.sleep(0.02 if run.quick else 0.1)


def _between(begin: tuple[float, int, float, float], end: tuple[float, int, float, float]) -> Rate:
    seconds, count, own, broker = (b - a for a, b in zip(begin, end, strict=True))
    return Rate(per_second=count / seconds, cpu=own / count * 1e6, broker_cpu=broker / count * 1e6)


async def ready(run: Run, *queues: str) -> int:
    """Ready messages in these queues."""
    states = await asyncio.gather(*(run.topology.poll(queue) for queue in queues))
    return sum(state.ready for state in states if isinstance(state, QueueState))


STAMP = Struct(">dII")
"""What the body of a timed message begins with: when it was published, its key, its number within the key."""
