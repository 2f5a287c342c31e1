"""A client that publishes and receives content headers and bodies as the bytes that they are.

Invariant: nothing of a message is decoded, so what a client library cannot say or read can be sent and compared.
Methods that carry no message are pamqp's.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands
from pamqp.base import Frame
from pamqp.common import FieldTable
from pamqp.header import ProtocolHeader

_HEAD = struct.Struct(">BHI")
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8

Answer = TypeVar("Answer", bound=Frame)

SMALLEST = 0
"""For `frame_max`: the smallest that the broker takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMessage:
    """A message as it came: the content header's payload and the whole body."""

    queue: str
    exchange: str
    routing_key: str
    header: bytes
    body: bytes


class RawAmqp:
    """A connection with one channel, in confirm mode; make one with `raw_amqp`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frame_max: int) -> None:
        self._reader = reader
        self._writer = writer
        self.frame_max = frame_max
        self._answers: asyncio.Queue[Frame] = asyncio.Queue()
        self._announced: commands.Basic.Deliver | None = None
        self._header = b""
        self._body = b""
        self.received: asyncio.Queue[RawMessage] = asyncio.Queue()
        self._consumed: list[str] = []

    @classmethod
    async def login(cls, url: str, frame_max: int) -> Self:
        """Connect and open the channel; `frame_max` may be `SMALLEST`."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port or 5672, limit=1 << 20)
        client = cls(reader, writer, frame_max or 4096)
        writer.write(ProtocolHeader().marshal())
        start = await client._read_until(commands.Connection.Start)
        secret = f"\0{unquote(address.username or 'guest')}\0{unquote(address.password or 'guest')}"
        capabilities: FieldTable = {"capabilities": {"publisher_confirms": True}}
        client._send(commands.Connection.StartOk(capabilities, "PLAIN", secret, "en_US"), 0)
        await client._read_until(commands.Connection.Tune)
        client.frame_max = frame_max or _smallest(str((start.server_properties or {})["version"]))
        client._send(commands.Connection.TuneOk(channel_max=8, frame_max=client.frame_max, heartbeat=0), 0)
        client._send(commands.Connection.Open(unquote(address.path[1:]) or "/"), 0)
        await client._read_until(commands.Connection.OpenOk)
        await client.call(commands.Channel.Open(), commands.Channel.OpenOk)
        await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        return client

    async def call(self, method: Frame, answer: type[Answer]) -> Answer:
        """Send a method and wait for the answer; deliveries meanwhile are kept."""
        self._send(method, 1)
        return await self._read_until(answer)

    async def consume(self, queue: str) -> None:
        """Consume a queue; acknowledged as they come."""
        self._consumed.append(queue)
        await self.call(commands.Basic.Consume(queue=queue, consumer_tag=queue), commands.Basic.ConsumeOk)

    async def publish(self, exchange: str, routing_key: str, header: bytes, body: bytes) -> None:
        """Publish and wait for the confirm; the header names its body's size."""
        self._send(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), 1)
        self._write(_HEADER, header)
        step = self.frame_max - 8
        for at in range(0, len(body), step):
            self._write(_BODY, body[at : at + step])
        await self._writer.drain()
        await self._read_until(commands.Basic.Ack)

    async def next(self) -> RawMessage:
        """The next delivery."""
        while self.received.empty():
            await self._read_one()
        return self.received.get_nowait()

    async def close(self) -> None:
        """Close the socket; with a cancel after the last acknowledgement, so that the broker drops none of them."""
        # Where the broker or the test has ended the connection before, nothing is left to be said.
        with suppress(AssertionError, OSError, EOFError):
            for queue in self._consumed:
                await self.call(commands.Basic.Cancel(consumer_tag=queue), commands.Basic.CancelOk)
        self._writer.close()
        await self._writer.wait_closed()

    def _send(self, method: Frame, channel: int) -> None:
        self._writer.write(pamqp.frame.marshal(method, channel))

    def _write(self, kind: int, payload: bytes) -> None:
        self._writer.write(_HEAD.pack(kind, 1, len(payload)) + payload + b"\xce")

    async def _read_until(self, answer: type[Answer]) -> Answer:
        while not isinstance(found := await self._read_one(), answer):
            pass
        return found

    async def _read_one(self) -> Frame | None:
        """Take one frame; the method that it is, if it is one."""
        kind, channel, size = _HEAD.unpack(await self._reader.readexactly(7))
        payload = await self._reader.readexactly(size)
        assert await self._reader.readexactly(1) == b"\xce"
        assert size + 8 <= self.frame_max, "a frame larger than was agreed on"
        if kind == _METHOD:
            method = pamqp.frame.unmarshal(_HEAD.pack(kind, channel, size) + payload + b"\xce")[2]
            assert isinstance(method, Frame)
            assert not isinstance(method, (commands.Channel.Close, commands.Connection.Close)), method.reply_text
            if isinstance(method, commands.Basic.Deliver):
                self._announced = method
            return method
        if kind == _HEADER:
            self._header, self._body = payload, b""
        elif kind == _BODY:
            self._body += payload
        if kind != _HEARTBEAT and len(self._body) == int.from_bytes(self._header[4:12], "big"):
            self._arrived()
        return None

    def _arrived(self) -> None:
        deliver, self._announced = self._announced, None
        assert deliver is not None
        self.received.put_nowait(
            RawMessage(
                queue=deliver.consumer_tag or "",
                exchange=deliver.exchange or "",
                routing_key=deliver.routing_key or "",
                header=self._header,
                body=self._body,
            )
        )
        self._send(commands.Basic.Ack(deliver.delivery_tag or 0), 1)


def _smallest(version: str) -> int:
    """RabbitMQ's since 4.1, and AMQP's."""
    return 8192 if tuple(int(part) for part in version.split(".")[:2]) >= (4, 1) else 4096


@asynccontextmanager
async def raw_amqp(url: str, frame_max: int = 131_072) -> AsyncIterator[RawAmqp]:
    """A connection that is closed in the end."""
    client = await RawAmqp.login(url, frame_max)
    try:
        yield client
    finally:
        await client.close()
