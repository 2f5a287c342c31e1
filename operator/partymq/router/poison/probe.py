"""A connection that may be lost: over it, one message at a time is published that the broker may refuse.

Invariant: of a probe nothing depends but the one message that is on its way over it. It consumes the queue `outlets` as
every channel does that publishes for a session, so a successor, or the next probe, waits until nothing that it sent can
arrive any more (see `publish.publisher`).
"""

import asyncio
from collections.abc import Awaitable, Callable

from partymq.amqp.channel import Channel, Returned
from partymq.amqp.connection import Connection
from partymq.errors import BrokerError, ConnectionLostError
from partymq.router.broker.settling import be_counted

CHANNEL_AT = slice(1, 3)
"""Where a frame says which channel it is for."""
LOOK_EVERY = 15.0


class NackedError(BrokerError):
    """The broker answered a publish with basic.nack: a queue does not take it."""


class UnansweredError(BrokerError):
    """The broker does not answer a publish at all."""


class Probe:
    """One connection with one channel at a time; make one with `open`."""

    def __init__(self, connection: Connection, outlets: str, on_return: Callable[[Returned], None]) -> None:
        self._connection = connection
        self._outlets = outlets
        self._on_return = on_return
        self._channel: Channel | None = None
        self._answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls,
        dial: Callable[[], Awaitable[Connection]],
        *,
        outlets: str,
        on_return: Callable[[Returned], None],
    ) -> "Probe":
        """Connects."""
        probe = cls(await dial(), outlets, on_return)
        try:
            await probe._open_channel()
        except BaseException:
            probe.abort()
            raise
        return probe

    async def _open_channel(self) -> Channel:
        channel = await self._connection.channel()
        channel.on_return(self._on_return)
        await be_counted(channel, self._outlets, on_cancel=self._connection.abort)
        await channel.confirm_select(self._on_confirm, self._on_nack)
        self._channel = channel
        return channel

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages."""
        return self._connection.blocked_since is not None

    async def publish(self, frame: bytes, header: bytes, body: bytes, *, patience: float) -> None:
        """Returns when the broker has the message; raises NackedError, or why there is no probe any more.

        Raises UnansweredError when there is no answer for so many seconds in which the broker was not blocked.
        """
        channel = self._channel
        if channel is None or channel.closed.done():  # a message before this one was refused: it was not stored
            channel = await self._open_channel()
        answer = self._answer = asyncio.get_running_loop().create_future()
        number = channel.number.to_bytes(2, "big")
        channel.publish(frame[: CHANNEL_AT.start] + number + frame[CHANNEL_AT.stop :], header, body)
        closed, waited = channel.closed, 0.0
        while not answer.done() and not closed.done():
            every = min(LOOK_EVERY, patience)
            await asyncio.wait({answer, closed}, timeout=every, return_when=asyncio.FIRST_COMPLETED)
            waited = 0.0 if self.blocked else waited + every
            if waited > patience and not answer.done() and not closed.done():
                raise UnansweredError(
                    f"the broker has not confirmed a publish for {patience:g} seconds: a queue of the group has no "
                    "leader or no majority; `rabbitmq-queues quorum_status` tells which"
                )
        if not answer.done():
            raise closed.exception() or ConnectionLostError("the connection was closed")
        if not answer.result():
            raise NackedError("the broker could not store a message (basic.nack): a queue has failed, or is full")

    async def close(self) -> None:
        """In order."""
        await self._connection.close()

    def abort(self) -> None:
        """As it is."""
        self._connection.abort()

    def _on_confirm(self, _tag: int, _multiple: bool) -> None:
        self._answered(True)

    def _on_nack(self, _tag: int, _multiple: bool) -> None:
        self._answered(False)

    def _answered(self, stored: bool) -> None:
        if not self._answer.done():
            self._answer.set_result(stored)
