"""A connection to the broker whose messages stay bytes.

Invariant: a connection works as a whole or is lost as a whole. Whatever goes wrong on it (the network, the broker, a
stream out of step, a callback that raises) ends it, and everybody who waits for it or its channels is told the one
reason.

There is no task, no lock and no object per message: `data_received` hands a chunk to `Reader`, whose callbacks publish
and acknowledge into `Output`, and one write ends the chunk. Flow control is the transport's: while the broker takes
less than we have for it, no more is read than shows that it is alive.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Self, TypeVar, cast

from pamqp import commands
from pamqp.base import Frame

from partymq.amqp.causes import cause
from partymq.amqp.channel import Channel
from partymq.amqp.content import DeliveryCallback
from partymq.amqp.dial import dial
from partymq.amqp.frames import DEFAULT_FRAME_MAX, HEARTBEAT, PROTOCOL_HEADER, body_payload, method_frame
from partymq.amqp.handshake import agree, closed, refused, server_version, start_ok
from partymq.amqp.nodes import Endpoint, endpoints, first_to_answer, reached
from partymq.amqp.output import Output
from partymq.amqp.reader import Channels, Reader
from partymq.amqp.replies import Replies, settle
from partymq.amqp.tls import tls_context
from partymq.core.spec import BrokerAddress
from partymq.errors import (
    ConnectionLostError,
    NoChannelError,
    PartyMQError,
)
from partymq.foreign import shown

__all__ = ["Connection", "DeliveryCallback", "body_payload"]

WRITE_HIGH_WATER: Final = 4 * 1024 * 1024
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a clean close waits for the broker."""
SILENT_TICKS: Final = 4
"""Half heartbeats without a byte from the broker until it counts as gone."""

FrameType = TypeVar("FrameType", bound=Frame)


class Connection(asyncio.Protocol):
    """An open connection; make one with `open`."""

    def __init__(self, address: BrokerAddress, endpoint: Endpoint) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self.endpoint = endpoint
        """The other end."""
        self._transport: asyncio.Transport | None = None
        self._gone = self._loop.create_future()
        self._replies = Replies()
        self._output = Output(self._loop)
        self._outputs: tuple[Output, ...] = (self._output,)
        """What is flushed at the end of a chunk."""
        self._channels = Channels()
        self._reader = Reader(self._channels, self._on_control)
        self._hooks: tuple[Callable[[], None], ...] = ()
        self._last_channel = 0
        self._channel_max = 0
        self._open = False
        self._reading_paused = False
        self._writing_paused = False
        self._held = False
        self._heard = True
        self._silent_ticks = 0
        self._tick: asyncio.TimerHandle | None = None
        self.frame_max = DEFAULT_FRAME_MAX
        self.server_version = (0, 0, 0)
        self.blocked_since: float | None = None
        self.on_blocked: Callable[[], None] = lambda: None
        """Called when the broker takes no messages, and when it takes them again."""
        self.on_congested: Callable[[bool], None] = lambda _on: None
        """Called when more waits to be written than should, and when that is over."""
        self.received = 0
        """All bytes that have been read."""
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(
        cls,
        address: BrokerAddress,
        *,
        name: str,
        near: Endpoint | None = None,
        heartbeat: int = 10,
        connect_timeout: float = 10.0,
    ) -> Self:
        """Connect to the first node that answers, `near` before others; `name` is what the broker's management shows.

        Raises `ConnectionLostError` when none does within `connect_timeout` seconds, and what one says that refuses.
        """
        context = tls_context(address.tls) if address.tls is not None else None

        async def connect(endpoint: Endpoint) -> Self:
            connection = cls(address, endpoint)
            try:
                async with reached(endpoint, within=connect_timeout):
                    await dial(lambda: connection, host=endpoint.host, info=endpoint.info, context=context)
                    await connection._handshake(name, heartbeat)
            except BaseException:
                connection.abort()
                raise
            return connection

        try:
            async with asyncio.timeout(connect_timeout):
                found = await endpoints(address, near=near)
        except TimeoutError:
            raise ConnectionLostError(
                f"The names in {address.where} were not looked up within {connect_timeout:g} seconds: is DNS there?"
            ) from None
        return await first_to_answer([partial(connect, one) for one in found], give_up=cls.abort)

    def add_chunk_hook(self, hook: Callable[[], None]) -> None:
        """Have `hook` called after every read chunk, before its write."""
        self._hooks = (*self._hooks, hook)

    def remove_chunk_hook(self, hook: Callable[[], None]) -> None:
        """Undo `add_chunk_hook`."""
        self._hooks = tuple(other for other in self._hooks if other != hook)

    def feeds(self, other: "Connection") -> None:
        """Have what is sent on `other` while a chunk is read here leave at its end, in one write."""
        self._outputs = (*self._outputs, other._output)  # noqa: SLF001 - of our own kind

    def ring(self) -> None:
        """Call the chunk hooks: something that they look at has happened elsewhere."""
        for hook in self._hooks:
            hook()

    def send(self, data: bytes) -> None:
        """Write whole frames, with whatever else is written at the end of the chunk or of the loop's turn."""
        self._output.send(data)

    def hold(self, on: bool) -> None:
        """Read no more than a chunk now and then, which shows that the broker lives, until told otherwise.

        RabbitMQ gives a connection up on which a single send takes longer than 30 seconds.
        """
        self._held = on
        if on:
            self._pause_reading()
        elif not self._writing_paused:
            self._resume_reading()

    @property
    def channel_max(self) -> int:
        """The most channels that may be open at the same time."""
        return self._channel_max

    async def channel(self) -> Channel:
        """Open a channel; raises `NoChannelError` when all that are allowed are open."""
        self._require_open()
        channel = Channel(self._free_number(), self._output, self._forget, most=self._address.limits.message)
        self._channels[channel.number] = channel
        await channel.open()
        return channel

    async def close(self) -> None:
        """Tell the broker, wait a moment for its consent, and close the socket, also when this is cancelled."""
        try:
            if not self.lost.done() and self._open:
                self._open = False
                for channel in self._channels.values():
                    channel.content.drop()
                method = commands.Connection.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
                with suppress(TimeoutError, PartyMQError):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await self._ask(method, commands.Connection.CloseOk)
            self._end(None)
            await asyncio.wait([self._gone], timeout=CLOSE_TIMEOUT)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop the socket as it is."""
        self._end(ConnectionLostError(f"the connection to {self.endpoint} was given up"))
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._output.attach(self._transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f": {cause(exc)}" if exc is not None else " by the other side"
        self._end(ConnectionLostError(f"the connection to {self.endpoint} was closed{reason}"))
        settle(self._gone, None)

    def data_received(self, data: bytes) -> None:
        for output in self._outputs:
            output.gathering = True
        self._heard = True
        self.received += len(data)
        try:
            self._reader.feed(data)
            for hook in self._hooks:
                hook()
        except Exception as error:  # noqa: BLE001 - whatever it is, the stream cannot go on behind it
            self._break(error)
        for output in self._outputs:
            output.flush()
        if (self._writing_paused or self._held) and not self._reading_paused:
            self._pause_reading()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._pause_reading()
        self.on_congested(True)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if not self._held:
            self._resume_reading()
        self.on_congested(False)

    # Inside.

    async def _handshake(self, name: str, heartbeat: int) -> None:
        self._output.send(PROTOCOL_HEADER)
        start = await self._expect(commands.Connection.Start)
        self.server_version = server_version(start.server_properties or {}, str(self.endpoint))
        tune = await self._ask(start_ok(self._address, name), commands.Connection.Tune)
        limits = agree(tune, heartbeat)
        self.frame_max = self._reader.frame_max = limits.frame_max
        self._channel_max = limits.channel_max
        self._send(
            commands.Connection.TuneOk(
                channel_max=limits.channel_max, frame_max=limits.frame_max, heartbeat=limits.heartbeat
            )
        )
        await self._ask(commands.Connection.Open(virtual_host=self._address.vhost), commands.Connection.OpenOk)
        self._open = True
        if limits.heartbeat:
            self._watch(limits.heartbeat / 2)

    def _on_control(self, method: Frame) -> None:
        match method:
            case commands.Connection.Close():
                self._send(commands.Connection.CloseOk())
                said = method.reply_code or 0, shown(method.reply_text or "")
                self._end(closed(*said) if self._open else refused(self._address, str(self.endpoint), *said))
            case commands.Connection.Blocked():
                self.blocked_since = self._loop.time()
                self.on_blocked()
            case commands.Connection.Unblocked():
                self.blocked_since = None
                self.on_blocked()
            case _:
                if not self._replies.resolve(method):
                    raise ConnectionLostError(f"an unexpected {method.name}")

    def _watch(self, interval: float) -> None:
        """Every half heartbeat: say that we live, see that the broker does."""
        self._tick = self._loop.call_later(interval, self._watch, interval)
        if not self._output.wrote:
            self._output.send(HEARTBEAT)
            self._output.flush()
        self._output.wrote = False
        self._reader.lull()
        self._silent_ticks = 0 if self._heard else self._silent_ticks + 1
        self._heard = False
        if self._silent_ticks >= SILENT_TICKS:
            self._break(ConnectionLostError(f"nothing came from the broker for {interval * SILENT_TICKS:g} seconds"))
        elif self._reading_paused:
            # One chunk, to see that it lives and whether it says that it is blocked; `data_received` pauses again.
            self._resume_reading()

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and self._reading_paused:
            self._reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _break(self, error: Exception) -> None:
        """End over an error that the other side knows nothing of."""
        self._output.detach()  # a chunk that was not processed to its end sends nothing
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        """Tell everybody, once; what is still to be written is."""
        self._open = False
        if self.lost.done():
            return
        if self._tick is not None:
            self._tick.cancel()
        self._output.flush()
        self._output.detach()
        if self._transport is not None:
            self._transport.close()
        self._replies.fail(error or ConnectionLostError("the connection was closed"))
        for channel in tuple(self._channels.values()):
            channel.fail(error)
        self._channels.clear()
        settle(self.lost, error)

    def _require_open(self) -> None:
        if self.lost.done() and (error := self.lost.exception()) is not None:
            raise error
        if not self._open:
            raise ConnectionLostError("the connection was closed")

    def _free_number(self) -> int:
        """The next free number in turn: a number rests for as long as can be before it is used again."""
        for _ in range(self._channel_max):
            self._last_channel = self._last_channel % self._channel_max + 1
            if self._last_channel not in self._channels:
                return self._last_channel
        raise NoChannelError(
            f"All {self._channel_max} channels that the broker allows on a connection are open. Raise channel_max in "
            "its configuration: 2047, the default, is enough for any group."
        )

    def _forget(self, number: int) -> None:
        del self._channels[number]

    def _send(self, method: Frame) -> None:
        self._output.send(method_frame(0, method))

    async def _ask(self, method: Frame, expected: type[FrameType]) -> FrameType:
        future = self._replies.expect(expected)
        self._send(method)
        reply = await future
        assert isinstance(reply, expected)
        return reply

    async def _expect(self, expected: type[FrameType]) -> FrameType:
        reply = await self._replies.expect(expected)
        assert isinstance(reply, expected)
        return reply
