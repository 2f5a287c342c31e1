"""Cheap clients in a process of their own: `python -m benchmarks.client_process`.

Invariant: a client costs so little that what is measured is not the client: our own connection, one acknowledgement for
a read chunk, no task for a message. Commands come as JSON lines on standard input and are answered one by one.

A timed message's body begins with `load.STAMP`. Its numbers are checked: first deliveries of a key are in order.
"""

import asyncio
import json
import sys
from collections import deque
from typing import Any

import uvloop

from benchmarks.harness import clock
from benchmarks.load import KEYS, STAMP, Confirms, content_header
from benchmarks.results import percentile
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.frames import body_frames, publish_frame
from partymq.errors import ChannelClosedError
from support.conditions import eventually
from support.group import address

_BODY_AT = 7
_IN_FLIGHT = 3000
_TICK = 0.001
_NO_LIMIT = 10**9
_KEYS_MAX = 10**6
"""Keys of one producer, which are no other's."""
_NOT_FOUND = 404
_DECLARED_WITHIN = 60.0


class Tally:
    """What all consumers of this process have taken."""

    def __init__(self) -> None:
        self.count = 0
        self.timed = False
        self.since = 0.0
        """Messages published before this are not in the figures."""
        self.latencies: list[float] = []
        self.moved: list[float] = []
        """For keys that changed their consumer: seconds from its last message there to the first one here."""
        self.stayed: list[float] = []
        """Seconds between messages of a key at one consumer."""
        self.disorder = 0
        self._keys: dict[int, tuple[str, float, int]] = {}

    def reset(self) -> None:
        """Starts anew; where keys are is still known."""
        self.since = clock()
        self.latencies, self.moved, self.stayed = [], [], []

    def take(self, consumer: str, body: bytes) -> None:
        """Counts a message."""
        self.count += 1
        if not self.timed:
            return
        published, key, number = STAMP.unpack_from(body, _BODY_AT)
        now = clock()
        if published >= self.since:
            self.latencies.append(now - published)
        before = self._keys.get(key)
        if before is None:
            self._keys[key] = (consumer, now, number)
            return
        owner, last, newest = before
        self._keys[key] = (consumer, now, max(number, newest))
        # What a session's end repeats is no disorder; what comes before its predecessor is.
        self.disorder += number > newest + 1
        (self.stayed if owner == consumer else self.moved).append(now - max(last, self.since))

    def figures(self) -> dict[str, Any]:
        """Since the last reset, in milliseconds."""
        return {
            "disorder": self.disorder,
            "latency": _summary(self.latencies),
            "moved": _summary(self.moved),
            "stayed": _summary(self.stayed),
        }


def _summary(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(second * 1000 for second in seconds)
    return {
        "count": len(ordered),
        "p50": percentile(ordered, 0.5),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
    }


class Pace:
    """How fast all consumers of this process work."""

    def __init__(self) -> None:
        self.work = 0.0
        """Seconds that a message takes."""
        self.open = True
        """While this is False messages are taken and held."""


class Consumer:
    """Works its messages off one after the other."""

    def __init__(self, name: str, channel: Channel, pace: Pace, tally: Tally) -> None:
        self._name = name
        self._channel = channel
        self._pace = pace
        self._tally = tally
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._busy = False
        self._acked = self._done = 0
        self._leaving: asyncio.Event | None = None

    def on_delivery(self, tag: int, _origin: bytes, _header: bytes, body: bytes) -> None:
        """The channel's callback."""
        pace = self._pace
        if pace.open and not pace.work and not self._waiting:
            self._tally.take(self._name, body)
            self._done = tag
        else:
            self._waiting.append((tag, body))
            self.go()

    def ack(self) -> None:
        """Acknowledges what is done; called once for a chunk."""
        if self._done > self._acked:
            self._acked = self._done
            self._channel.ack(self._done, multiple=True)

    def go(self) -> None:
        """Works on, if it may."""
        while self._waiting and self._pace.open and not self._busy:
            tag, body = self._waiting[0]
            self._tally.take(self._name, body)
            if self._pace.work:
                self._busy = True
                asyncio.get_running_loop().call_later(self._pace.work, self._finish)
                return
            self._waiting.popleft()
            self._done = tag
        self.ack()
        if self._leaving is not None and not self._waiting and not self._busy:
            self._leaving.set()

    def _finish(self) -> None:
        self._done, _ = self._waiting.popleft()
        self._busy = False
        self.ack()
        self.go()

    async def leave(self) -> None:
        """Finishes what it holds, and closes."""
        self._leaving = asyncio.Event()
        self.go()
        await self._leaving.wait()
        await self._channel.close()


class Producer:
    """Publishes timed messages at a rate, or as fast as confirms come."""

    def __init__(self, channel: Channel, *, queue: str, size: int, keys: int, first_key: int, frame_max: int) -> None:
        self._first_key = first_key
        self._channel = channel
        self._frame = publish_frame(channel.number, "", queue)
        self._headers = [content_header(key, size) for key in range(keys)]
        self._rest = b"x" * (size - STAMP.size)
        self._keys = keys
        self._frame_max = frame_max
        self._confirms = Confirms()

    async def open(self) -> None:
        """Before anything is published."""
        await self._channel.confirm_select(self._confirms.confirm, lambda *_: None)

    async def run(self, *, rate: float, seconds: float, messages: int) -> None:
        """Publishes for so long, and so many at most; a rate of 0 is as fast as can be."""
        begun, confirms = clock(), self._confirms
        first, end = confirms.sent, confirms.sent + messages
        while (passed := clock() - begun) < seconds and confirms.sent < end:
            room = min(_IN_FLIGHT - len(confirms), end - confirms.sent)
            due = int(passed * rate) - (confirms.sent - first) if rate else room
            for _ in range(min(due, room)):
                self._publish()
            await asyncio.sleep(_TICK)
        while self._confirms:
            await asyncio.sleep(_TICK)

    def _publish(self) -> None:
        number, key = divmod(self._confirms.sent, self._keys)
        stamp = STAMP.pack(clock(), self._first_key + key, number)
        body = body_frames(stamp + self._rest, self._channel.number, self._frame_max)
        self._channel.publish(self._frame, self._headers[key], body)
        self._confirms.publish()


class Clients:
    """All clients of this process, on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._consumers: dict[str, Consumer] = {}
        self._producers: dict[str, Producer] = {}
        self._tally, self._pace = Tally(), Pace()
        self._producing: asyncio.Task[None] | None = None
        connection.add_chunk_hook(self._ack)

    async def do(self, command: str, **options: Any) -> dict[str, Any]:
        """Carries a command out."""
        match command:
            case "consume":
                await self._consume(**options)
            case "leave":
                await self._consumers.pop(options["name"]).leave()
            case "pace":
                self._set_pace(**options)
            case "produce":
                self._producing = asyncio.create_task(self._produce(**options))
            case "produced":
                assert self._producing is not None, "nothing is produced"
                await self._producing
            case "count":
                return {"count": self._tally.count}
            case "reset":
                self._tally.reset()
            case "figures":
                return self._tally.figures()
            case _:
                raise ValueError(f"no such command: {command}")
        return {}

    async def _consume(self, *, queue: str, name: str, prefetch: int, timed: bool) -> None:
        self._tally.timed = timed

        async def consuming() -> bool:
            channel = await self._connection.channel()
            consumer = self._consumers[name] = Consumer(name, channel, self._pace, self._tally)
            try:
                await channel.consume(queue, consumer.on_delivery, prefetch=prefetch)
            except ChannelClosedError as error:
                if error.code != _NOT_FOUND:
                    raise
                return False
            return True

        # A router waits only some seconds for a busy broker to declare an inbox before it shows the member.
        await eventually(consuming, f"there is no queue {queue}", _DECLARED_WITHIN)

    def _set_pace(self, *, work: float, open: bool) -> None:  # noqa: A002
        self._pace.work, self._pace.open = work, open
        for consumer in self._consumers.values():
            consumer.go()

    async def _produce(
        self, *, queue: str, size: int, rate: float, seconds: float, messages: int = _NO_LIMIT, keys: int = KEYS
    ) -> None:
        if queue not in self._producers:
            channel = await self._connection.channel()
            self._producers[queue] = producer = Producer(
                channel,
                queue=queue,
                size=size,
                keys=keys,
                first_key=len(self._producers) * _KEYS_MAX,
                frame_max=self._connection.frame_max,
            )
            await producer.open()
        await self._producers[queue].run(rate=rate, seconds=seconds, messages=messages)

    def _ack(self) -> None:
        for consumer in self._consumers.values():
            consumer.ack()


async def main() -> None:
    """Serves until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    connection = await Connection.open(address(), name="benchmark clients")
    try:
        clients = Clients(connection)
        while line := await reader.readline():
            print(json.dumps(await clients.do(**json.loads(line))), flush=True)
    finally:
        await connection.close()


if __name__ == "__main__":
    uvloop.run(main())
