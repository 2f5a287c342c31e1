"""The connection that a source is read through: one of its own, because it may have to wait.

Invariant: what was read here and is not confirmed stays within this group's part of the budget; beyond it, and while
the data connection takes no more, no more is read from the socket than shows that the broker lives. What the router
needs to get rid of messages (confirms, credit, journal) comes through other connections, so it always goes on.

The prefetch cannot do this: it counts messages, and changing it can reorder what a quorum queue takes back.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.errors import NotAmqpError
from partymq.router.broker.holdings import Part, weight
from partymq.router.broker.memory_budget import Budget

MOST: Final = 10_000
"""Deliveries that are not confirmed: five times a source's prefetch, of which a node that was cut off may give more."""

Dial = Callable[[str], Awaitable[Connection]]
"""Opens a connection; what for is part of its name."""


class SourceConnection:
    """One connection with one channel, for one opening of a source."""

    def __init__(self, connection: Connection, channel: Channel, budget: Budget, whole: Part) -> None:
        """`whole` is for what comes while nothing waits: before anything is accounted for, and when it is let go."""
        self.connection = connection
        self.channel = channel
        self._share = budget.share(self._over)
        self._whole = whole
        self._accounted = False
        self._is_over = False
        self._congested = False
        self._dropping = False
        self._kept = 0
        self._marks: deque[tuple[int, int]] = deque()
        """After each chunk that ended a message: its last delivery, and all bytes that had come until then."""
        self._marked = 0
        self._freed = 0
        """How many of the bytes that came are not under way any more."""
        self._left = 0
        """How many had come when nothing waited any more, or by the last chunk since."""

    def keep(self, header: bytes, body: bytes) -> None:
        """A message comes before anybody knows whether the source is to be read; raises as `account` does."""
        self._kept += 1
        if self._kept > MOST:
            raise _too_many()
        if not self._accounted:
            self._whole.add(weight(header, body))

    def account(self, last: int, next_: int, *, idle: bool) -> None:
        """Messages have come up to the delivery `last`, and all before `next_` are confirmed; called once for a chunk.

        `idle` says that everything that has come is confirmed. Raises NotAmqpError where much more has come than was
        asked for.
        """
        if not self._accounted:
            self._accounted = True
            self._whole.holds(0)
        if last - next_ >= MOST:
            raise _too_many()
        received, marks = self.connection.received, self._marks
        if self._dropping:
            if last > self._marked:  # it is still handed on
                self._marked = last
                self._whole.add(received - self._left)
            self._left = received
            return
        if last > self._marked:
            self._marked = last
            marks.append((last, received))
        while marks and marks[0][0] < next_:
            self._freed = marks.popleft()[1]
        self._share.holds(received - self._freed, idle=idle)

    def congested(self, on: bool) -> None:
        """The data connection takes no more for now, or takes it again."""
        self._congested = on
        self._apply()

    def _over(self, on: bool) -> None:
        self._is_over = on
        self._apply()

    def _apply(self) -> None:
        self.connection.hold((self._is_over or self._congested) and not self._dropping)

    def let_go(self) -> None:
        """Hardly anything comes any more, or nothing of it is kept: it is read, so that answers behind it arrive."""
        if not self._dropping:
            self._dropping = True
            self._left = self.connection.received
        self._share.let_go()
        self._apply()

    async def close(self) -> None:
        """Closes the channel, which gives back what is unacknowledged, and the connection."""
        await self.channel.close()
        self._share.close()
        self._whole.holds(0)
        await self.connection.close()

    def abort(self) -> None:
        """Drops the socket as it is."""
        self._share.close()
        self.connection.abort()


def _too_many() -> NotAmqpError:
    return NotAmqpError(f"the broker delivers more of the source than was asked for: {MOST} messages, unacknowledged")
