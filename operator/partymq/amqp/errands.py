"""What is done to queues and exchanges on a connection that may be lost over it.

Invariant: whoever asks for something is told that it is done, or why it is not. When the connection is lost, it is
opened again and what was asked is asked again: so only what does no harm when it is done twice is done here. A
declaration over which the connection is lost again and again fails, for its caller alone.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.errors import (
    BrokerError,
    ChannelClosedError,
    ConnectionLostError,
    ForeignQueueError,
    LimitReachedError,
    LockedQueueError,
    NoChannelError,
    PartyMQError,
)

T = TypeVar("T")

AGAIN: Final = 0.05
AGAIN_MAX: Final = 2.0
"""Seconds between tries to connect again, and to do something again."""


class Errands:
    """Opens a channel for each errand; the connection lasts, or is opened again by `reopen`."""

    def __init__(self, connection: Connection, *, reopen: Callable[[], Awaitable[Connection]], patience: float) -> None:
        """A lost connection is opened again for `patience` seconds before whoever asks is told."""
        self.reopen = reopen
        self._connection = connection
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.Lock()
        self._closed = False
        self.away_since: float | None = None
        """When the connection was found lost, while it cannot be opened again."""
        self.away_for: PartyMQError | None = None
        """Why it cannot."""

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        await self._connection.close()

    async def run(self, thing: str, work: Callable[[Channel], Awaitable[T]], *, tries: int | None = None) -> T:
        """Do something to `thing` on a channel of its own, which the broker closes when it refuses.

        Done again where the connection is lost over it: `tries` times, or as long as it can be opened again.
        """
        pause = AGAIN
        while True:
            connection = await self.connected()
            try:
                async with one_channel(connection) as channel:
                    return await work(channel)
            except ChannelClosedError as error:
                raise explained(error, thing) from error
            except NoChannelError:
                pass  # other errands have them all: this one takes its turn
            except ConnectionLostError as error:
                self.raise_unless_lost(error)
                tries = None if tries is None else tries - 1
                if tries == 0:
                    raise BrokerError(f"The broker fails over {thing}: {error}.") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN_MAX)

    def raise_unless_lost(self, error: ConnectionLostError) -> None:
        """Raises the error, unless it means that the connection is lost: that is opened again."""
        if self._closed or not self._connection.lost.done():
            raise error

    async def connected(self) -> Connection:
        """The connection; opened again where it was lost. Raises why it cannot be when patience is at its end."""
        async with self._opening:
            pause = AGAIN
            while self._connection.lost.done() and not self._closed:
                if self.away_since is None:
                    self.away_since = self._loop.time()
                try:
                    self._connection = await self.reopen()
                    if self._closed:  # meanwhile
                        self._connection.abort()
                except PartyMQError as error:
                    self.away_for = error
                    if self._loop.time() - self.away_since > self._patience:
                        raise
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, AGAIN_MAX)
            self.away_since = self.away_for = None
            return self._connection


@asynccontextmanager
async def one_channel(connection: Connection) -> AsyncIterator[Channel]:
    """A channel for one errand: the broker closes it when it refuses."""
    channel = await connection.channel()
    try:
        yield channel
    finally:
        with suppress(ConnectionLostError):
            await channel.close()


def explained(error: ChannelClosedError, thing: str) -> BrokerError:
    """What the broker means that refuses something to `thing`."""
    if (limit := LimitReachedError.said(error.text)) is not None:
        return limit
    match error.code:
        case 404:
            return BrokerError(f"The broker does not find {thing}: {error.text}.")
        case 405:
            return LockedQueueError(
                f"{thing[:1].upper()}{thing[1:]} is in exclusive use by somebody else: {error.text}. Once their "
                "connection is closed, PartyMQ declares its own."
            )
        case 406:
            return ForeignQueueError(
                f"The broker has another {thing} than PartyMQ declares: {error.text}. If nobody needs what is in it, "
                "delete it, and PartyMQ declares its own."
            )
        case _:
            return error
