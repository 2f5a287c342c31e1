"""A TCP proxy that can stall: the network between a router and its broker, or a balancer before several.

Invariant: what it has taken it passes on in order, however long it was stalled; it never closes a side by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Listens on a port of its own; make one with `proxy`."""

    def __init__(self, host: str, port: Callable[[], int]) -> None:
        self._host = host
        self._port = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def stall(self) -> None:
        """Pass on nothing, and keep what comes."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on what was kept, and what comes."""
        self._flows.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect both sides until one of them closes."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            to_broker, from_broker = None, None
            from_broker, to_broker = await asyncio.open_connection(self._host, self._port())
            await asyncio.gather(self._pass(reader, to_broker), self._pass(from_broker, writer))
        finally:
            self._tasks.discard(task)
            for side in filter(None, (writer, to_broker)):
                side.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        await self._flows.wait()
        writer.close()

    async def close(self) -> None:
        """Cut everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxy(host: str, port: int | Callable[[], int]) -> AsyncIterator[Proxy]:
    """A proxy to an address, until the block is over; a port may be chosen for each connection."""
    made = Proxy(host, port if callable(port) else lambda: port)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
