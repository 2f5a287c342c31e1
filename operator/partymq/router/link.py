"""The data connection of one session, and the one way to fail.

Invariant: any surprise on it (closed, a channel closed by the broker, a return, a nack, a cancel) ends the session:
nothing is retried locally, what was unfinished is settled by the broker alone (design, section 6).
"""

import asyncio
from collections.abc import Callable

from partymq.amqp.channel import Channel, Returned
from partymq.amqp.connection import Connection
from partymq.amqp.frames import FRAME_OVERHEAD, HEADER_GROWTH
from partymq.amqp.replies import settle
from partymq.errors import BrokerError


class Link:
    """The session's connection, with a single place where its failures arrive."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.explain_return: Callable[[Returned], bool] = lambda _: False
        """Says whether a message that came back was to be expected, and is taken care of."""

    @property
    def header_max(self) -> int:
        """The most bytes of a content header that can be published from now on, whatever RabbitMQ adds on the way.

        A header is one frame; a larger one makes the broker close the connection.
        """
        return self._connection.frame_max - FRAME_OVERHEAD - HEADER_GROWTH

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages from us (an alarm): a state to wait through, not a failure."""
        return self._connection.blocked_since is not None

    def on_blocked(self, callback: Callable[[], None]) -> None:
        """Calls back when `blocked` changes."""
        self._connection.on_blocked = callback

    async def channel(self) -> Channel:
        """A new channel; should the broker close it, the session is over."""
        channel = await self._connection.channel()
        channel.closed.add_done_callback(self._channel_closed)
        channel.on_return(self._on_return)
        return channel

    def _on_return(self, message: Returned) -> None:
        if not self.explain_return(message):
            self.fail(BrokerError(f"{message}; starting again"))

    def _channel_closed(self, closed: "asyncio.Future[None]") -> None:
        if not closed.cancelled() and (error := closed.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Ends the session with the first failure, at once: not even what was read with it is acknowledged.

        A message that came back is confirmed right after.
        """
        if not self._failed.done():
            settle(self._failed, error)
            self._connection.abort()

    def cancelled(self, queue: str) -> Callable[[], None]:
        """What to do when the broker cancels the consumer of `queue`."""
        return lambda: self.fail(BrokerError(f"the broker ended our consumer of {queue}: was the queue deleted?"))

    def on_chunk(self, hook: Callable[[], None]) -> None:
        """Calls `hook` once for every chunk that was read and processed."""
        self._connection.add_chunk_hook(hook)

    def off_chunk(self, hook: Callable[[], None]) -> None:
        """The opposite of `on_chunk`."""
        self._connection.remove_chunk_hook(hook)

    @property
    def failure(self) -> BaseException | None:
        """Why the session ends, where that was found here: what fails over it afterwards only says that it is over."""
        return self._failed.exception() if self._failed.done() else None

    async def watch(self) -> None:
        """Raises what ends the session, when it happens."""
        await asyncio.wait({self._failed, self._connection.lost}, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        self._connection.lost.result()
