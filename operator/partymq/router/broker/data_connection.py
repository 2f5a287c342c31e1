"""The data connection of one session, the one that its source is read through, and the one way to fail.

Invariant: any surprise on either (closed, a channel closed by the broker, a return, a nack, a cancel) ends the session,
and both of them: nothing is retried locally, what was unfinished is settled by the broker alone (docs/design.md, "One
way to fail, one way to start").
"""

import asyncio
from collections.abc import Callable
from typing import Final

from partymq.amqp.channel import Channel, Returned
from partymq.amqp.connection import Connection
from partymq.amqp.frames import FRAME_OVERHEAD, HEADER_GROWTH
from partymq.amqp.nodes import Endpoint
from partymq.amqp.replies import settle
from partymq.errors import BrokerError, LimitReachedError, NoChannelError
from partymq.router.broker.holdings import Holding
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.source_connection import Dial, SourceConnection
from partymq.router.signals import Signal

CHANNEL_RETRY = 0.05
ASIDE_RETRY = 1.0
"""Seconds between tries to have one more channel, or connection."""
ZOMBIES_SINCE: Final = (4, 3)


class DataConnection:
    """The session's connections, with a single place where their failures arrive."""

    def __init__(
        self, connection: Connection, *, dial: Dial | None = None, budget: Budget | None = None, tenant: str = ""
    ) -> None:
        """`dial` opens another connection, and is told what for; what messages weigh is counted in `budget`.

        What has to be in memory as a whole is counted for `tenant`, too.
        """
        self._connection = connection
        self._once: list[Callable[[], None]] = []
        connection.add_chunk_hook(self._chunk_over)
        self._dial = dial
        self.budget = budget or Budget()
        self.whole = Holding(self.budget.wholes, tenant, self.fail)
        connection.lost.add_done_callback(lambda _lost: self.whole.close())
        self._source_connection: SourceConnection | None = None
        self._asides: set[Connection] = set()
        self._arrivals: tuple[Callable[[], None], ...] = ()
        connection.on_congested = self._on_congested
        connection.lost.add_done_callback(lambda _lost: self._abort_source_connection())
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._explain_return: Callable[[Returned], bool] = lambda _: False
        self.short = Signal[[LimitReachedError | None]]()
        """Something waits for a channel or a connection, or has one."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the data connection is."""
        return self._connection.endpoint

    @property
    def server_version(self) -> tuple[int, int, int]:
        """RabbitMQ's version."""
        return self._connection.server_version

    @property
    def makes_zombies(self) -> bool:
        """Whether the broker serves a consumer again that died while it was taken over: see `broker.takeover`."""
        return self._connection.server_version >= ZOMBIES_SINCE

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

    @property
    def channel_max(self) -> int:
        """The most channels that the session may have."""
        return self._connection.channel_max

    async def channel_in_turn(self) -> Channel:
        """As `channel`, but when all that the broker allows are open, waits for one to be closed."""
        while True:
            try:
                channel = await self.channel()
            except NoChannelError as error:
                self.short.emit(error)
                await asyncio.sleep(CHANNEL_RETRY)
            else:
                self.short.emit(None)
                return channel

    async def channel(self) -> Channel:
        """A new channel; should the broker close it, the session is over."""
        channel = await self._connection.channel()
        channel.closed.add_done_callback(self._channel_closed)
        channel.on_return(self.returned)
        return channel

    async def source_connection(self) -> SourceConnection:
        """A connection to read a source through; there is one at a time, and `shut_source_connection` closes it."""
        assert self._dial is not None, "this link is not made for a source"
        assert self._source_connection is None, "a source is closed before another one is opened"
        connection = await self._dial("source")
        channel = await self._only_channel(connection)
        self._source_connection = source_connection = SourceConnection(
            connection, channel, self.budget, self.whole.part()
        )
        connection.feeds(self._connection)
        for hook in self._arrivals:
            connection.add_chunk_hook(hook)
        if self._connection.lost.done():
            source_connection.abort()
        return source_connection

    async def aside(self) -> tuple[Connection, Channel]:
        """A channel on a connection of its own, for a reader that may have to wait; who asks closes both.

        When the broker allows no more connections, waits until it does.
        """
        while True:
            try:
                connection = await self.beside("backlog")
            except LimitReachedError as error:
                self.short.emit(error)
                await asyncio.sleep(ASIDE_RETRY)
            else:
                self.short.emit(None)
                break
        return connection, await self._only_channel(connection)

    async def beside(self, what: str) -> Connection:
        """A connection that ends with the session, and not the session with it; who asks closes it.

        Raises LimitReachedError when the broker allows no more.
        """
        assert self._dial is not None, "this link is not made for that"
        connection = await self._dial(what)
        connection.lost.add_done_callback(lambda _lost: self._asides.discard(connection))
        self._asides.add(connection)
        if self._connection.lost.done():
            connection.abort()
        return connection

    async def _only_channel(self, connection: Connection) -> Channel:
        """Opens it; should the broker close either, the session is over."""
        connection.lost.add_done_callback(self._source_connection_lost)
        try:
            channel = await connection.channel()
        except BaseException:
            connection.abort()
            raise
        channel.closed.add_done_callback(self._source_connection_lost)
        return channel

    async def shut_source_connection(self) -> None:
        """Closes it, and gives back what is unacknowledged."""
        if self._source_connection is not None:
            await self._source_connection.close()
            self._source_connection = None

    def _source_connection_lost(self, lost: "asyncio.Future[None]") -> None:
        if not lost.cancelled() and (error := lost.exception()) is not None:
            self.lost_beside(error)

    def lost_beside(self, error: BaseException) -> None:
        """A connection is lost that the session needed: it ends, unless it is the end of the session that did that."""
        if not self._connection.lost.done():
            self.fail(error)

    def _abort_source_connection(self) -> None:
        if self._source_connection is not None:
            self._source_connection.abort()
        for connection in tuple(self._asides):
            connection.abort()

    def _on_congested(self, on: bool) -> None:
        if self._source_connection is not None:
            self._source_connection.congested(on)

    def hold(self, on: bool) -> None:
        """Reads the data connection no more than now and then, or on; for whoever has only that one."""
        self._connection.hold(on)

    def abort(self) -> None:
        """Drops both connections as they are."""
        self._abort_source_connection()
        self._connection.abort()

    def explain_returns(self, explain: Callable[[Returned], bool]) -> None:
        """Has `explain` say whether a message that came back was to be expected, and is taken care of."""
        self._explain_return = explain

    def returned(self, message: Returned) -> None:
        """A message came back, whatever connection it left by; its confirm comes after this."""
        if not self._explain_return(message):
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
            self.abort()

    def cancelled(self, queue: str) -> Callable[[], None]:
        """What to do when the broker cancels the consumer of `queue`."""
        return lambda: self.fail(BrokerError(f"the broker ended our consumer of {queue}: was the queue deleted?"))

    def on_chunk(self, hook: Callable[[], None]) -> None:
        """Calls `hook` once for every chunk that was read from the data connection and processed."""
        self._connection.add_chunk_hook(hook)

    def on_arrivals(self, hook: Callable[[], None]) -> None:
        """Calls `hook` once for every chunk that was read from a source and processed."""
        self._arrivals = (*self._arrivals, hook)
        if self._source_connection is not None:
            self._source_connection.connection.add_chunk_hook(hook)

    def off_chunk(self, hook: Callable[[], None]) -> None:
        """The opposite of `on_chunk`."""
        self._connection.remove_chunk_hook(hook)

    def after_chunk(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, when the chunk that is being read was processed."""
        self._once.append(callback)

    def ring(self) -> None:
        """Calls the hooks now: something was settled that did not come over this connection."""
        self._connection.ring()

    def _chunk_over(self) -> None:
        if self._once:
            callbacks, self._once = self._once, []
            for callback in callbacks:
                callback()

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
