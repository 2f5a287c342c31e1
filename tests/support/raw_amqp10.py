"""A producer that speaks AMQP 1.0 and writes every section of a message as the bytes that a test says.

Invariant: a message counts as sent when the broker has accepted it. What 0-9-1 has no word for can be sent: RabbitMQ
takes messages of both on one port, and gives to one what came by the other.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

_SASL: Final = b"AMQP\x03\x01\x00\x00"
_AMQP: Final = b"AMQP\x00\x01\x00\x00"
_ACCEPTED: Final = b"\x00\x53\x24"

NULL: Final = b"\x40"


class NotAcceptedError(Exception):
    """The broker refused a message, or ended the connection over it."""


def utf8(text: str) -> bytes:
    """A string."""
    data = text.encode()
    return b"\xa1" + bytes((len(data),)) + data if len(data) < 256 else b"\xb1" + struct.pack(">I", len(data)) + data


def symbol(text: str) -> bytes:
    """A symbol."""
    data = text.encode()
    return b"\xa3" + bytes((len(data),)) + data if len(data) < 256 else b"\xb3" + struct.pack(">I", len(data)) + data


def binary(data: bytes) -> bytes:
    """Bytes."""
    return b"\xb0" + struct.pack(">I", len(data)) + data


def ulong(number: int) -> bytes:
    """An unsigned integer of 64 bits."""
    return b"\x80" + struct.pack(">Q", number)


def uint(number: int) -> bytes:
    """An unsigned integer of 32 bits."""
    return b"\x70" + struct.pack(">I", number)


def timestamp(milliseconds: int) -> bytes:
    """Milliseconds since 1970."""
    return b"\x83" + struct.pack(">q", milliseconds)


def uuid(data: bytes) -> bytes:
    """Sixteen bytes."""
    return b"\x98" + data


def listed(*items: bytes) -> bytes:
    """A list."""
    return _compound(b"\xd0", items)


def mapped(*items: bytes) -> bytes:
    """A map; keys and values in turns."""
    return _compound(b"\xd1", items)


def _compound(kind: bytes, items: tuple[bytes, ...]) -> bytes:
    data = struct.pack(">I", len(items)) + b"".join(items)
    return kind + struct.pack(">I", len(data)) + data


def section(descriptor: int, value: bytes) -> bytes:
    """A described value: 0x70 header, 0x72 message annotations, 0x73 properties, 0x74 application properties."""
    return b"\x00\x53" + bytes((descriptor,)) + value


def header(*fields: bytes) -> bytes:
    """durable, priority, ttl, ..."""
    return section(0x70, listed(*fields))


def annotations(*items: bytes) -> bytes:
    """Message annotations; symbols and values in turns."""
    return section(0x72, mapped(*items))


def properties(**fields: bytes) -> bytes:
    """Properties by their names."""
    names = "message_id user_id to subject reply_to correlation_id content_type content_encoding absolute_expiry_time"
    return section(0x73, listed(*(fields.get(name, NULL) for name in f"{names} creation_time group_id".split())))


def application(*items: bytes) -> bytes:
    """Application properties; strings and values in turns."""
    return section(0x74, mapped(*items))


def data(body: bytes) -> bytes:
    """A body of bytes."""
    return section(0x75, binary(body))


class RawAmqp10:
    """A connection with one session and one link to a queue; make one with `raw_amqp10`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent = 0

    @classmethod
    async def login(cls, url: str, queue: str) -> Self:
        """Connect and attach to the queue."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port or 5672)
        client = cls(reader, writer)
        writer.write(_SASL)
        assert await reader.readexactly(8) == _SASL
        await client._read_until(0x40)
        user, password = unquote(address.username or "guest"), unquote(address.password or "guest")
        client._send(section(0x41, listed(symbol("PLAIN"), binary(f"\0{user}\0{password}".encode()))), kind=1)
        assert b"\x50\x00" in await client._read_until(0x44), "the user is refused"
        writer.write(_AMQP)
        assert await reader.readexactly(8) == _AMQP
        vhost = f"vhost:{unquote(address.path[1:]) or '/'}"
        client._send(section(0x10, listed(utf8("raw"), utf8(vhost), uint(1 << 20))))
        await client._read_until(0x10)
        client._send(section(0x11, listed(NULL, uint(0), uint(1000), uint(1000))))
        await client._read_until(0x11)
        source = section(0x28, listed(utf8("raw")))
        target = section(0x29, listed(utf8(f"/queues/{quote(queue, safe='')}")))
        role, unsettled = b"\x42", b"\x50\x00"
        client._send(
            section(0x12, listed(utf8("link"), uint(0), role, unsettled, NULL, source, target, NULL, NULL, uint(0)))
        )
        await client._read_until(0x13)
        return client

    async def send(self, *sections: bytes) -> None:
        """Send a message of these sections and wait until it is accepted; raises `NotAcceptedError`."""
        number = self._sent
        self._sent += 1
        fields = listed(uint(0), uint(number), binary(b"%d" % number), uint(0), b"\x42")
        self._send(section(0x14, fields) + b"".join(sections))
        if _ACCEPTED not in (outcome := await self._read_until(0x15)):
            raise NotAcceptedError(outcome)

    async def close(self) -> None:
        """Close the socket."""
        self._writer.close()
        await self._writer.wait_closed()

    def _send(self, body: bytes, *, kind: int = 0) -> None:
        self._writer.write(struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body)

    async def _read_until(self, descriptor: int) -> bytes:
        """The performative with this descriptor."""
        while True:
            try:
                size, offset, _, _ = struct.unpack(">IBBH", await self._reader.readexactly(8))
                body = await self._reader.readexactly(size - 8)
            except asyncio.IncompleteReadError as error:
                raise NotAcceptedError("the connection is closed") from error
            assert offset == 2
            if body.startswith(b"\x00\x53" + bytes((descriptor,))):
                return body
            if body[:3] in (b"\x00\x53\x16", b"\x00\x53\x17", b"\x00\x53\x18"):  # detach, end, close
                raise NotAcceptedError(body)


@asynccontextmanager
async def raw_amqp10(url: str, queue: str) -> AsyncIterator[RawAmqp10]:
    """A link to the queue that is closed in the end."""
    client = await RawAmqp10.login(url, queue)
    try:
        yield client
    finally:
        await client.close()
