"""What goes out: many small pieces, few writes.

Invariant: pieces leave in the order in which they were added. What is added while a chunk is read, or within one turn
of the event loop, leaves in one write.
"""

import asyncio


class Output:
    """The pieces that wait for the next write."""

    __slots__ = ("_loop", "_transport", "gathering", "parts", "wrote")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self.parts: list[bytes] = []
        """May be added to directly, by whoever then calls `schedule` if `gathering` is False."""
        self.gathering = False
        """True while somebody is bound to call `flush`."""
        self.wrote = False
        """Set by every write; the heartbeat looks at it and clears it."""

    def attach(self, transport: asyncio.Transport) -> None:
        """There is something to write to."""
        self._transport = transport

    def detach(self) -> None:
        """There is not any more: what waits and what comes is dropped."""
        self._transport = None
        self.parts.clear()

    def send(self, data: bytes) -> None:
        """Add a piece."""
        self.parts.append(data)
        if not self.gathering:
            self.schedule()

    def schedule(self) -> None:
        """Flush in the loop's next turn."""
        self.gathering = True
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits, at once."""
        self.gathering = False
        if self.parts:
            if self._transport is not None:
                self._transport.write(b"".join(self.parts))
                self.wrote = True
            self.parts.clear()
