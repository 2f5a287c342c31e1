"""The connections of one HTTP port: how many there are, and for how long one may keep us waiting.

Invariant: whoever connects and asks at once is answered, however many others are there: nobody holds a connection
without asking for longer than a few seconds, the one that has done so for longest makes room for a new one, and
requests that have to wait leave half of the connections to those that do not.
"""

import asyncio
import resource
import time
from collections.abc import Callable, Collection
from typing import Final, cast

from aiohttp import web

from partymq.http.problems import Handler, problem

HEAD_WITHIN: Final = 10.0
"""Seconds for the head of a request, from the beginning or from the answer before, and for reading that."""
ANSWERED_WITHIN: Final = 60.0
"""Seconds for a request: one that waits for a router is answered in far less."""
LOOK_EVERY: Final = 1.0
FILES_SHARE: Final = 4
"""Of so many parts of the files that the process may open, one is for the connections of a port."""


class Connections:
    """All of one port; `server` makes what handles one."""

    def __init__(self, most: int, *, at_once: Collection[str]) -> None:
        """At most `most` connections; the paths `at_once` are answered from memory, and never refused."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(1, min(most, files // FILES_SHARE))
        self._at_once = at_once
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        """Those that have waited for longest first."""
        self._requests = 0
        self.server: Callable[[], asyncio.BaseProtocol] = asyncio.Protocol

    def protocol(self) -> asyncio.Protocol:
        """What the loop makes for a new connection."""
        return _Connection(cast(asyncio.Protocol, self.server()), self)

    def made(self, connection: "_Connection", transport: asyncio.Transport) -> None:
        """One more; another one makes room for it where there are too many."""
        if len(self._open) >= self._most:
            self._make_room()
        self._open[transport] = connection

    def lost(self, transport: asyncio.BaseTransport) -> None:
        """One less."""
        self._open.pop(transport, None)

    def _make_room(self) -> None:
        idle = (one for one in self._open.values() if not one.busy)
        (next(idle, None) or next(iter(self._open.values()))).drop()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Notes when a request begins and ends; refuses it where too many wait."""
        transport = request.transport
        connection = self._open.get(transport) if transport is not None else None
        if request.path in self._at_once:
            return await self._noted(connection, request, handler)
        if self._requests >= max(1, self._most // 2):
            return problem(503, "Too many requests wait at once: ask again in a moment.", "Busy")
        self._requests += 1
        try:
            return await self._noted(connection, request, handler)
        finally:
            self._requests -= 1

    async def _noted(
        self, connection: "_Connection | None", request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        if connection is None:
            return await handler(request)
        connection.begin()
        try:
            return await handler(request)
        finally:
            connection.end()

    def answered(self, connection: "_Connection") -> None:
        """It waits for the next request: all others have waited for longer."""
        if self._open.pop(connection.transport, None) is not None:
            self._open[connection.transport] = connection

    async def watch(self) -> None:
        """Drops whoever takes too long, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = time.monotonic()
            for connection in list(self._open.values()):
                if now - connection.since > (ANSWERED_WITHIN if connection.busy else HEAD_WITHIN):
                    connection.drop()


class _Connection(asyncio.Protocol):
    """Hands everything on to what handles the connection."""

    transport: asyncio.Transport

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self.since = time.monotonic()
        self.busy = False

    def begin(self) -> None:
        """A request is there."""
        self.busy, self.since = True, time.monotonic()

    def end(self) -> None:
        """Its answer is made, and is to be read."""
        self.busy, self.since = False, time.monotonic()
        self._connections.answered(self)

    def drop(self) -> None:
        """End it, whatever it waits for."""
        self._connections.lost(self.transport)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.made(self, self.transport)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.lost(self.transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
