"""One AMQP channel of our own connection.

Invariant: replies are matched to calls in order, and whoever waits for one is told when the channel or the connection goes.
Deliveries and confirms are callbacks with bytes and numbers: nothing is allocated for them but what they carry.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pamqp import base, commands, frame

from partymq.amqp.frames import ack_frame
from partymq.amqp.wire import END, PUBLISH_CHANNEL, header_prefix
from partymq.errors import ChannelClosedError

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection

DeliveryCallback = Callable[[int, bytes, bytes, bytes], None]
"""Delivery tag, origin (exchange and routing key as short strings), content header's payload, body frames."""


def _ignore(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """Takes what comes for a channel that does not consume, or not any more."""


class Channel:
    """A channel; it lives until `close` or until something goes wrong, and is never reopened."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self.number = number
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._connection = connection
        self._send = connection.send
        self._calls: deque[asyncio.Future[base.Frame]] = deque()
        self._on_return: Callable[[str], None] = lambda _text: None
        self._on_cancel: Callable[[], None] | None = None
        # Read and written by the connection's loop over frames:
        self.on_delivery: DeliveryCallback = _ignore
        self.on_confirm: Callable[[int, bool], None] = lambda _tag, _multiple: None
        self.on_nack: Callable[[int, bool], None] = lambda _tag, _multiple: None
        self.tag = 0
        self.origin = b""
        self.header = b""
        self.missing = 0
        self.parts: list[bytes] = []

    # --- what the router sends for every message

    def publish(self, frame: bytes, header: bytes, body: bytes) -> None:
        """Sends a message: a `publish_frame` of this channel, a content header, body frames of the publish channel."""
        assert not body or self.number == PUBLISH_CHANNEL, "body frames are addressed to the publish channel"
        self._send(frame + header_prefix(self.number, len(header)) + header + END + body)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledges a delivery, or all up to it; there is no reply."""
        self._send(ack_frame(self.number, tag, multiple))

    # --- calls

    async def confirm_select(
        self, on_confirm: Callable[[int, bool], None], on_nack: Callable[[int, bool], None]
    ) -> None:
        """Asks for confirms: (sequence number, multiple), the first publish has number 1."""
        self.on_confirm, self.on_nack = on_confirm, on_nack
        await self.call(commands.Confirm.Select())

    def on_return(self, callback: Callable[[str], None]) -> None:
        """Calls back when a mandatory message comes back."""
        self._on_return = callback

    async def qos(self, prefetch: int) -> None:
        """Most unacknowledged messages of each consumer of this channel; 0 is no limit."""
        await self.call(commands.Basic.Qos(prefetch_count=prefetch))

    async def consume(
        self,
        queue: str,
        on_delivery: DeliveryCallback,
        *,
        arguments: Mapping[str, int | str] | None = None,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        """Starts this channel's one consumer; deliveries may come before this returns."""
        self.on_delivery, self._on_cancel = on_delivery, on_cancel
        await self.call(commands.Basic.Consume(queue=queue, consumer_tag="partymq", arguments=dict(arguments or {})))

    async def purge(self, queue: str) -> int:
        """Drops the ready messages of a queue; returns how many."""
        return int((await self.call(commands.Queue.Purge(queue=queue))).message_count)  # type: ignore[attr-defined]

    async def delete_queue(self, queue: str) -> int:
        """Deletes a queue; returns how many ready messages it had."""
        return int((await self.call(commands.Queue.Delete(queue=queue))).message_count)  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Gives unacknowledged messages back; returns once the broker has. There is no basic.cancel before."""
        if self.closed.done():
            return
        self.on_delivery = _ignore
        await self.call(commands.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0))

    async def call(self, method: base.Frame) -> base.Frame:
        """Sends a method and returns its reply; raises what closed the channel or the connection."""
        if self.closed.done():
            self.closed.result()
            raise ChannelClosedError(504, f"{method.name} on a channel that is closed")
        reply: asyncio.Future[base.Frame] = asyncio.get_running_loop().create_future()
        self._calls.append(reply)
        self._send(frame.marshal(method, self.number))
        return await reply

    # --- what the connection tells

    def on_method(self, method: base.Frame) -> None:
        """Takes every method but deliveries and confirms."""
        match method:
            case commands.Channel.Close():
                self._send(frame.marshal(commands.Channel.CloseOk(), self.number))
                self.end(ChannelClosedError(method.reply_code or 0, method.reply_text or ''))
            case commands.Channel.CloseOk():
                self._answer(method)
                self.end(None)
            case commands.Basic.Return():
                self.tag = 0  # its content frames follow
                self._on_return(
                    f"{method.reply_code} {method.reply_text}, exchange {method.exchange!r}, "
                    f"routing key {method.routing_key!r}"
                )
            case commands.Basic.Cancel():
                if self._on_cancel is not None:
                    self._on_cancel()
            case _:
                self._answer(method)

    def _answer(self, method: base.Frame) -> None:
        if self._calls:
            reply = self._calls.popleft()
            if not reply.done():
                reply.set_result(method)

    def end(self, error: Exception | None) -> None:
        """The channel is gone, by our own close or for `error`."""
        if self.closed.done():
            return
        self.on_delivery = _ignore
        self._connection.forget(self)
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
        gone = error or ChannelClosedError(504, "closed while a reply was awaited")
        while self._calls:
            reply = self._calls.popleft()
            if not reply.done():
                reply.set_exception(gone)
