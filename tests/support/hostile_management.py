"""A management API that means harm, or is none: what a tenant's `management-uri` may point at.

Invariant: it counts what was asked of it, and with it everything that was sent, so that a test can say what got out.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import orjson

from partymq.core.spec import BrokerAddress
from partymq.limits import Limits

MIB: Final = 1024 * 1024
ESCAPES: Final = "\x1b]0;owned\x07\r\n\x9b31m\u202e"

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Gets the request's path and where to write."""


class HostileManagement:
    """One server; `asked` are the first lines of the requests that came."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.asked: list[str] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def address(self, limits: Limits = Limits(), *, path: str = "") -> BrokerAddress:  # noqa: B008 - frozen
        """A broker whose management API this is."""
        return BrokerAddress(
            host="127.0.0.1",
            password="hush-hush",
            management_uri=f"http://127.0.0.1:{self.port}{path}",
            limits=limits,
        )

    async def begin(self) -> None:
        """Serve until the process ends."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["HostileManagement"]:
        await self.begin()
        try:
            yield self
        finally:
            assert self._server is not None
            self._server.close()
            for writer in self._open:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.asked.append(head.partition("\r\n")[0])
                await self._answer(head.split(" ")[1], writer)
                await writer.drain()
        writer.close()


def head(status: str = "200 OK", **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", **fields: str) -> Answer:
    """The same answer to everything, but that the user is a monitoring one."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        if path.startswith("/api/whoami"):
            tags = b'{"tags":["monitoring"]}'
            writer.write(head(Content_Length=str(len(tags))) + tags)
            return
        writer.write(head(status, Content_Length=str(len(body)), **fields) + body)

    return answer


def json(value: object) -> Answer:
    return whole(orjson.dumps(value))


def gzip_bomb(size: int = 256 * MIB) -> Answer:
    """A few kilobytes that are `size` bytes once they are unpacked."""
    part = 16 * MIB
    parts = [gzip.compress(b"["), *[gzip.compress(b" " * part, 1)] * (size // part), gzip.compress(b"]")]
    return whole(b"".join(parts), Content_Encoding="gzip")


async def endless(_path: str, writer: asyncio.StreamWriter) -> None:
    """A body in chunks that does not end."""
    writer.write(head(Transfer_Encoding="chunked"))
    chunk = b"10000\r\n" + b"[" * 0x10000 + b"\r\n"
    while not writer.is_closing():
        writer.write(chunk)
        await writer.drain()


def banner(data: bytes) -> Answer:
    """What some other service says."""

    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


def consumers(count: int, queue: str = "partymq.shop.orders.inbox.p{}", tag: str = "t") -> list[dict[str, object]]:
    """As `/api/consumers` lists them."""
    return [
        {
            "queue": {"name": queue.format(number)},
            "consumer_tag": tag,
            "active": True,
            "ack_required": False,
            "prefetch_count": 0,
            "arguments": {},
            "channel_details": {"connection_name": f"c{number}", "peer_host": "10.0.0.5", "peer_port": number},
        }
        for number in range(count)
    ]
