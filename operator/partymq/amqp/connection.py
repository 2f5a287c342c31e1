"""A connection of our own to the broker: message frames go through as bytes.

Invariant: frames are processed in the order of the wire, and what they cause is sent in one write at the end of each chunk
that was read. There is no task, future, lock or decode for a message. The connection is lost once, and everybody who waits
on it is told.

Frame format: AMQP 0-9-1 section 4.2.3. Handshake and everything else that is rare: pamqp.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Callable
from typing import Final, cast

from pamqp import base, commands, frame, header, heartbeat

from partymq.amqp import tls
from partymq.amqp.channel import Channel
from partymq.amqp.frames import body_payload as body_payload
from partymq.amqp.wire import BODY, BODY_PREFIX, HEADER, METHOD
from partymq.amqp.wire import PUBLISH_CHANNEL as PUBLISH_CHANNEL
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, BrokerTooOldError, ConnectionLostError

OLDEST: Final = (4, 0, 0)
FRAME_MAX: Final = 131072
CHANNEL_MAX: Final = 2047
HIGH_WATER: Final = 4 * 1024 * 1024
"""Bytes waiting to be sent from which on nothing more is read: the broker is slower than we are."""
CLOSE_WITHIN: Final = 5.0

_HEAD = struct.Struct(">BHI")
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_ACK: Final = b"\x00\x3c\x00\x50"
_NACK: Final = b"\x00\x3c\x00\x78"
_CAPABILITIES: Final = {
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
    "basic.nack": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Connection(asyncio.Protocol):
    """An open connection; make one with `open`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.lost.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.server_version = (0, 0, 0)
        self.frame_max = FRAME_MAX
        self.blocked_since: float | None = None
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._out: list[bytes] = []
        self._in_chunk = False
        self._flushing = False
        self._hooks: tuple[Callable[[], None], ...] = ()
        self._channels: dict[int, Channel] = {}
        self._free: list[int] = []
        self._highest = 0
        self._methods: asyncio.Queue[object] = asyncio.Queue()
        self._opened = False
        self._closing = False
        self._heartbeat = 0
        self._read_since_beat = True
        self._missed = 0
        self._reading = True
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls, address: BrokerAddress, *, name: str, heartbeat: int = 10, connect_timeout: float = 10.0
    ) -> "Connection":
        """Connects and logs in.

        Raises `ConnectionLostError`, `AccessRefusedError` or `BrokerTooOldError`, each with what to do.
        """
        where = f"{address.host}:{address.port}"
        connection: Connection | None = None
        try:
            async with asyncio.timeout(connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    cls,
                    address.host,
                    address.port,
                    ssl=tls.context(address.tls) if address.tls is not None else None,
                    server_hostname=address.host if address.tls is not None else None,
                )
                await connection._handshake(address, name, heartbeat)
        except (OSError, TimeoutError, ssl.SSLError) as error:
            if connection is not None:
                connection.abort()
            detail = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise ConnectionLostError(f"cannot connect to the broker at {where}: {detail}") from error
        except BrokerError:
            if connection is not None:
                connection.abort()
            raise
        return connection

    # --- handshake

    async def _handshake(self, address: BrokerAddress, name: str, beat: int) -> None:
        self.send(header.ProtocolHeader(0, 9, 1).marshal())
        start = cast("commands.Connection.Start", await self._next_method(address))
        self._check_version(start)
        self._method(
            commands.Connection.StartOk(
                client_properties={
                    "product": "PartyMQ", "platform": "Python", "connection_name": name, "capabilities": dict(_CAPABILITIES),
                },
                mechanism="PLAIN",
                response=f"\0{address.username}\0{address.password}",
            )
        )  # fmt: skip
        tune = cast("commands.Connection.Tune", await self._next_method(address))
        self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self._channel_max = min(tune.channel_max or CHANNEL_MAX, CHANNEL_MAX)
        self._heartbeat = beat
        self._method(
            commands.Connection.TuneOk(
                channel_max=self._channel_max, frame_max=self.frame_max, heartbeat=self._heartbeat
            )
        )
        self._method(commands.Connection.Open(virtual_host=address.vhost))
        await self._next_method(address)
        self._opened = True
        self._beat()

    def _check_version(self, start: commands.Connection.Start) -> None:
        version = start.server_properties.get("version", "")
        if isinstance(version, bytes):
            version = version.decode()
        numbers = [int(part) for part in str(version).split("-")[0].split("+")[0].split(".")[:3] if part.isdecimal()]
        self.server_version = cast("tuple[int, int, int]", tuple((*numbers, 0, 0, 0)[:3]))
        if self.server_version < OLDEST:
            raise BrokerTooOldError(
                f"the broker is {start.server_properties.get('product', 'RabbitMQ')} {version}: PartyMQ needs RabbitMQ 4.0 or "
                "newer (consumer priorities on single-active-consumer quorum queues); upgrade it"
            )

    async def _next_method(self, address: BrokerAddress) -> object:
        getter = asyncio.ensure_future(self._methods.get())
        try:
            await asyncio.wait({getter, self.lost}, return_when=asyncio.FIRST_COMPLETED)
            if not getter.done():
                self.lost.result()
                raise ConnectionLostError("the connection was closed during the handshake")
            method = getter.result()
        finally:
            getter.cancel()
        if isinstance(method, commands.Connection.Close):
            raise AccessRefusedError(
                f"the broker refused user {address.username!r} on virtual host {address.vhost!r}: {method.reply_code} "
                f"{method.reply_text}; check the connection Secret, the user's permissions and the virtual host"
            )
        return method

    def _method(self, method: base.Frame, channel: int = 0) -> None:
        self.send(frame.marshal(method, channel))

    # --- channels

    async def channel(self) -> Channel:
        """Opens a channel; the first one is the publish channel."""
        if self.lost.done():
            self.lost.result()
            raise ConnectionLostError("the connection is closed")
        if not self._free and self._highest >= self._channel_max:
            raise BrokerError(f"all {self._channel_max} channels of a connection are in use")
        number = self._free.pop() if self._free else self._highest + 1
        self._highest = max(self._highest, number)
        channel = self._channels[number] = Channel(self, number)
        await channel.call(commands.Channel.Open())
        return channel

    def forget(self, channel: Channel) -> None:
        """The channel is closed on both sides: its number may be used again."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]
            self._free.append(channel.number)

    # --- sending

    def send(self, data: bytes) -> None:
        """Sends bytes: at the end of the chunk that is being processed, else once in this round of the loop."""
        self._out.append(data)
        if not self._in_chunk and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    def add_chunk_hook(self, hook: Callable[[], None]) -> None:
        """Calls `hook` at the end of every chunk, before the write."""
        self._hooks = (*self._hooks, hook)

    def remove_chunk_hook(self, hook: Callable[[], None]) -> None:
        """The opposite of `add_chunk_hook`."""
        self._hooks = tuple(h for h in self._hooks if h != hook)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport; large writes are one system call."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def pause_writing(self) -> None:
        """The broker takes less than we send: it must not give us more either."""
        if self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The broker has taken what we sent."""
        if self._transport is not None:
            self._reading = True
            self._missed = 0
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Processes all whole frames, then writes once."""
        self._read_since_beat = True
        self._in_chunk = True
        try:
            self._rest = self._process(self._rest + data if self._rest else data)
            for hook in self._hooks:
                hook()
        except Exception as error:  # noqa: BLE001 - nobody else would end the connection for a defect
            self._lose(error)
        finally:
            self._in_chunk = False
        if self._out:
            self._flush()

    def _process(self, data: bytes) -> bytes:
        """Handles the frames in `data`; returns what is left of a frame that is not whole."""
        at, size, head, channels = 0, len(data), _HEAD.unpack_from, self._channels
        while size - at > 7:
            kind, number, length = head(data, at)
            start = at + 7
            end = start + length
            if end >= size:
                break
            channel = channels.get(number)
            if kind == BODY:
                if channel is not None and channel.tag:
                    channel.missing -= length
                    part = BODY_PREFIX + data[at + 3 : end + 1]
                    if channel.missing:
                        channel.parts.append(part)
                    else:
                        if channel.parts:
                            part = b"".join((*channel.parts, part))
                            channel.parts.clear()
                        channel.on_delivery(channel.tag, channel.origin, channel.header, part)
            elif kind == HEADER:
                if channel is not None and channel.tag:
                    content = data[start:end]
                    missing = int.from_bytes(content[4:12], "big")
                    if missing:
                        channel.header = content
                        channel.missing = missing
                    else:
                        channel.on_delivery(channel.tag, channel.origin, content, b"")
            elif kind == METHOD and channel is not None:
                method = data[start : start + 4]
                if method == _DELIVER:
                    tag_at = start + 5 + data[start + 4]
                    channel.tag = int.from_bytes(data[tag_at : tag_at + 8], "big")
                    channel.origin = data[tag_at + 9 : end]
                elif method == _ACK:
                    channel.on_confirm(int.from_bytes(data[start + 4 : start + 12], "big"), data[start + 12] & 1 == 1)
                elif method == _NACK:
                    channel.on_nack(int.from_bytes(data[start + 4 : start + 12], "big"), data[start + 12] & 1 == 1)
                else:
                    channel.on_method(cast("base.Frame", frame.unmarshal(data[at : end + 1])[2]))
            elif kind == METHOD and number == 0:
                self._on_method(frame.unmarshal(data[at : end + 1])[2])
            at = end + 1
        return data[at:]

    def _on_method(self, method: object) -> None:
        match method:
            case commands.Connection.Blocked():
                self.blocked_since = self._loop.time()
            case commands.Connection.Unblocked():
                self.blocked_since = None
            case commands.Connection.Close() if self._opened:
                self._method(commands.Connection.CloseOk())
                self._flush()
                self._lose(
                    ConnectionLostError(f"the broker closed the connection: {method.reply_code} {method.reply_text}")
                )
            case commands.Connection.CloseOk():
                self._lose(None)
            case _:
                self._methods.put_nowait(method)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lose(ConnectionLostError(f"the connection to the broker broke: {exc or 'closed by the other side'}"))

    # --- the end

    def _beat(self) -> None:
        """Sends a heartbeat twice an interval; gives the broker up after two intervals of silence."""
        if self._read_since_beat or not self._reading:
            self._missed = 0
        else:
            self._missed += 1
        self._read_since_beat = False
        if self._missed >= 4:
            self._lose(ConnectionLostError(f"the broker has been silent for {2 * self._heartbeat} s"))
            return
        self.send(heartbeat.Heartbeat().marshal())
        self._timer = self._loop.call_later(self._heartbeat / 2, self._beat)

    def _lose(self, error: Exception | None) -> None:
        if self.lost.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        gone = error or ConnectionLostError("the connection was closed")
        if error is None:
            self.lost.set_result(None)
        else:
            self.lost.set_exception(error)
        for channel in list(self._channels.values()):
            channel.end(gone)
        if self._transport is not None:
            self._transport.close() if error is None else self._transport.abort()

    async def close(self) -> None:
        """Closes in order; returns when the broker has agreed or time is up."""
        if not self.lost.done():
            self._method(commands.Connection.Close(reply_code=200, reply_text="", class_id=0, method_id=0))
            with contextlib.suppress(TimeoutError, Exception):
                async with asyncio.timeout(CLOSE_WITHIN):
                    await asyncio.shield(self.lost)
        self.abort()

    def abort(self) -> None:
        """Drops the connection at once."""
        self._lose(ConnectionLostError("the connection was dropped"))
