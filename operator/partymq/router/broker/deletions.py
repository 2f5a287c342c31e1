"""Deleting a queue whose name may be declared anew, over a connection that may be lost over it.

Invariant: when `delete` returns, the queue is gone, and nothing that was asked for here can delete a namesake later. It
is asked for again only where the broker has answered that it failed; and its channel consumes the queue `outlets`, as
every channel does that publishes for a session, so a successor waits for it (see `publish.publisher`).

RabbitMQ ends the connection over which a quorum queue is deleted while the node of its leader is lost (541, 4.0 to 4.3:
`rabbit_quorum_queue` asks that node once more when the queue is gone). Over the data connection that would end the
session, and all that is on its way would come again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from partymq.amqp.channel import Channel
from partymq.errors import ConnectionClosedError, ConnectionLostError, LimitReachedError
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.settling import be_counted

LOG = logging.getLogger(__name__)

ENDS_WITHIN: Final = 0.5
"""Seconds, or as many as the deletion took: so long a queue's members on other nodes may go on to end once it is
answered. A namesake that is declared meanwhile is not started there (docs/rabbitmq-defects.md)."""
AT_ONCE: Final = 4
"""Queues that are deleted at the same time, each over a connection of its own."""
AGAIN: Final = 0.1
AGAIN_MAX: Final = 5.0
"""Seconds between tries, the first and the longest."""
FAILED: Final = 541
"""INTERNAL_ERROR: what was asked for has ended, and not well."""


class Deletions:
    """Of one session."""

    def __init__(self, link: DataConnection, *, outlets: str) -> None:
        self._link = link
        self._outlets = outlets
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def delete(self, queue: str) -> None:
        """Deletes it, with all that is in it; raises BrokerError where the broker refuses that.

        Ends the session where it cannot be known whether it took effect.
        """
        pause = AGAIN
        async with self._turn:
            while not await self._deleted(queue):
                await asyncio.sleep(pause)
                pause = min(2 * pause, AGAIN_MAX)

    async def _deleted(self, queue: str) -> bool:
        """False when it was not tried, or when the broker has said that it failed."""
        asked = False
        try:
            async with self._channel() as channel:
                await self._be_waited_for(channel)
                asked = True
                await channel.delete_queue(queue)
        except ConnectionLostError as error:
            answered = isinstance(error, ConnectionClosedError) and error.code == FAILED
            if answered or not asked:
                LOG.info("%s is not deleted yet: %s", queue, error)
                return False
            self._link.lost_beside(error)
            raise
        return True

    async def _be_waited_for(self, channel: Channel) -> None:
        await be_counted(channel, self._outlets)

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Channel]:
        """On a connection of its own; where the broker allows no more of them, on the session's."""
        try:
            connection = await self._link.beside("deletion")
        except LimitReachedError:
            channel = await self._link.channel_in_turn()
            yield channel
            await channel.close()
            return
        try:
            yield await connection.channel()
            await connection.close()
        finally:
            connection.abort()
