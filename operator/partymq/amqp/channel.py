"""One channel: methods that wait for a reply, and the callbacks of its consumer and its confirms.

Invariant: whoever waits for a reply gets the one to that method, or is told why there is none. No delivery is handed on
after `close` was called, and no message or acknowledgement is sent after it: by then it is all back in its queue.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, TypeVar

from pamqp import commands
from pamqp.base import Frame

from partymq.amqp.content import Content, DeliveryCallback
from partymq.amqp.frames import (
    BODY,
    FRAME_END,
    FRAME_HEAD,
    FRAME_OVERHEAD,
    FRAME_SIZE,
    FRAME_SIZE_AT,
    HEADER,
    Arguments,
    ack_frame,
    bind_frame,
    consume_frame,
    declare_frame,
    delete_frame,
    get_frame,
    give_back_frame,
    method_frame,
    purge_frame,
    readdress,
)
from partymq.amqp.output import Output
from partymq.amqp.replies import Replies, settle
from partymq.core.consumers import OUR_TAG
from partymq.errors import AccessRefusedError, BrokerError, ChannelClosedError, ConnectionLostError
from partymq.foreign import shown
from partymq.limits import Limits

CONSUMER_TAG: Final = OUR_TAG
"""Of every consumer: one to a channel, and a fixed length puts the delivery tag at a fixed place in its frame."""
REFUSED: Final = 403

MAX_PREFETCH: Final = 65_535
"""The most that can be asked for."""

ConfirmCallback = Callable[[int, bool], None]


class Returned(NamedTuple):
    """A mandatory message for which the broker found no queue; its confirm comes after it."""

    exchange: str
    routing_key: str
    reason: str
    header: bytes
    """The content header's payload."""

    def __str__(self) -> str:
        place = f"exchange {shown(self.exchange)!r}" if self.exchange else "the default exchange"
        return f"a message to {place} with routing key {shown(self.routing_key)!r} came back: {self.reason}"


FrameType = TypeVar("FrameType", bound=Frame)


class Channel:
    """A channel of a `Connection`, which opens it and hands it what arrives for it."""

    __slots__ = (
        "_between",
        "_cancelled",
        "_closing",
        "_forget",
        "_output",
        "_replies",
        "_returned",
        "_returning",
        "closed",
        "confirmed",
        "content",
        "nacked",
        "number",
    )

    def __init__(
        self, number: int, output: Output, forget: Callable[[int], None], *, most: int = Limits().message
    ) -> None:
        """`most` are the bytes of a body that is taken in."""
        self.number = number
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.content = Content(number, most)
        self.content.on_returned = self._on_returned
        self.confirmed: ConfirmCallback = _ignore
        self.nacked: ConfirmCallback = _ignore
        self._between = FRAME_END + FRAME_HEAD.pack(BODY, number, 0)[:FRAME_SIZE_AT]
        self._output = output
        self._forget = forget
        self._replies = Replies()
        self._closing = False
        self._returning: commands.Basic.Return | None = None
        self._returned: Callable[[Returned], None] | None = None
        self._cancelled: Callable[[], None] | None = None

    @property
    def redelivered(self) -> bool:
        """True once something has come that some consumer had been given before."""
        return self.content.redelivered

    def take_redelivered(self) -> bool:
        """The same, since this was asked last."""
        redelivered, self.content.redelivered = self.content.redelivered, False
        return redelivered

    async def confirm_select(self, on_confirm: ConfirmCallback, on_nack: ConfirmCallback) -> None:
        """Have the broker confirm what is published here; the callbacks get (tag, multiple) while the chunk is read."""
        self.confirmed, self.nacked = on_confirm, on_nack
        await self._ask(commands.Confirm.Select(), commands.Confirm.SelectOk)

    def confirm(self, on_confirm: ConfirmCallback, on_nack: ConfirmCallback) -> None:
        """The same for what is published from now on, without waiting for the broker's word."""
        self.confirmed, self.nacked = on_confirm, on_nack
        self._output.send(method_frame(self.number, commands.Confirm.Select(nowait=True)))

    def on_return(self, callback: Callable[[Returned], None]) -> None:
        """Be told of a mandatory message that came back, before its confirm; its body is dropped."""
        self._returned = callback

    async def consume(
        self,
        queue: str,
        on_delivery: DeliveryCallback,
        *,
        prefetch: int = 0,
        arguments: Arguments | None = None,
        exclusive: bool = False,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        """Start the one consumer of this channel; deliveries may come before this returns.

        It is given at most `prefetch` messages that it has not acknowledged; 0 is no limit, but on a quorum queue 2000.
        """
        self.content.on_delivery = on_delivery
        self._cancelled = on_cancel
        limit = method_frame(self.number, commands.Basic.Qos(prefetch_count=prefetch))
        start = consume_frame(self.number, queue, CONSUMER_TAG, exclusive=exclusive, arguments=arguments or {})
        replies = self._replies.expect(commands.Basic.QosOk), self._replies.expect(commands.Basic.ConsumeOk)
        self._output.send(limit + start)  # one write: a takeover is waited for
        await asyncio.gather(*replies)

    async def cancel(self) -> None:
        """End the consumer: no delivery comes after this returns, and what it holds stays its own."""
        await self._ask(commands.Basic.Cancel(consumer_tag=CONSUMER_TAG), commands.Basic.CancelOk)

    def publish(self, frame: bytes, header: bytes, body_frames: bytes) -> None:
        """Send a message: a frame of `publish_frame`, a content header's payload, and body frames of any channel.

        After `close` it goes nowhere (the broker would close the connection over it) and is never confirmed.
        """
        if self._closing:
            return
        output = self._output
        head = FRAME_HEAD.pack(HEADER, self.number, len(header))
        if not body_frames:
            output.parts += (frame, head, header, FRAME_END)
        elif FRAME_OVERHEAD + FRAME_SIZE.unpack_from(body_frames, FRAME_SIZE_AT)[0] == len(body_frames):
            output.parts += (frame, head, header, self._between, body_frames[FRAME_SIZE_AT:])
        else:
            output.parts += (frame, head, header, FRAME_END, readdress(body_frames, self.number))
        if not output.gathering:
            output.schedule()

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, or all up to it; what was not before `close` went back with it."""
        if self._closing:
            return
        self._output.send(ack_frame(self.number, tag, multiple))

    def give_back(self) -> None:
        """Return everything that is unacknowledged to its queue, in its order.

        In one nack: after several the order on a quorum queue would be theirs. Unlike a `close` it takes effect after
        the acknowledgements before it.
        """
        if not self._closing:
            self._output.send(give_back_frame(self.number))

    async def inspect(self, queue: str) -> tuple[int, int]:
        """The ready messages and the consumers of a queue of any kind; a missing queue closes the channel (404)."""
        return (await self.inspect_all([queue]))[0]

    async def inspect_all(self, queues: Collection[str]) -> list[tuple[int, int]]:
        """The same of several queues, in one write; the first one that is missing closes the channel."""
        asked = [self._replies.expect(commands.Queue.DeclareOk) for _ in queues]
        self._output.send(b"".join([declare_frame(self.number, queue, passive=True) for queue in queues]))
        try:
            return [_counts(await reply) for reply in asked]  # they come in this order, and mostly in one chunk
        except BaseException:
            for reply in asked:
                if not reply.cancel() and not reply.cancelled():
                    reply.exception()  # looked at: the first one was raised
            raise

    async def get(self, queue: str) -> None:
        """Ask for one message, as a question to a queue that refuses it (405, a single active consumer).

        What comes all the same is dropped here, and goes back to its queue when the channel is closed.
        """
        await self._call(get_frame(self.number, queue), commands.Basic.GetEmpty)

    def redirect(self, on_delivery: DeliveryCallback) -> None:
        """Hand what is delivered from now on to somebody else."""
        if not self._closing:
            self.content.on_delivery = on_delivery

    async def declare_queue(self, queue: str, arguments: Arguments, *, durable: bool = True) -> None:
        """Declare a queue; one that exists with other properties closes the channel (406)."""
        frame = declare_frame(self.number, queue, arguments=arguments, durable=durable)
        await self._call(frame, commands.Queue.DeclareOk)

    async def declare_exchange(self, exchange: str, kind: str) -> None:
        """Declare a durable exchange."""
        method = commands.Exchange.Declare(exchange=exchange, exchange_type=kind, durable=True)
        await self._ask(method, commands.Exchange.DeclareOk)

    async def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange, if it exists."""
        await self._ask(commands.Exchange.Delete(exchange=exchange), commands.Exchange.DeleteOk)

    async def bind_queue(self, queue: str, exchange: str, arguments: Arguments) -> None:
        """Bind a queue to an exchange."""
        await self._call(bind_frame(self.number, queue, exchange, arguments=arguments), commands.Queue.BindOk)

    async def purge(self, queue: str) -> int:
        """Drop the ready messages of a queue; says how many."""
        return (await self._call(purge_frame(self.number, queue), commands.Queue.PurgeOk)).message_count or 0

    async def delete_queue(self, queue: str) -> int:
        """Delete a queue with all that is in it; says how many messages were ready. A missing queue is no error."""
        return (await self._call(delete_frame(self.number, queue), commands.Queue.DeleteOk)).message_count or 0

    async def open(self) -> None:
        """Done once, by the connection."""
        await self._ask(commands.Channel.Open(), commands.Channel.OpenOk)

    async def close(self) -> None:
        """Close the channel and wait for the broker.

        The consumer is not cancelled first: what it holds goes back before anybody else is served.
        """
        if self.closed.done():
            return
        if not self._closing:
            self._closing = True
            self.content.drop()
            method = commands.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            self._output.send(method_frame(self.number, method))
        await asyncio.wait([self.closed])
        error = self.closed.exception()
        if error is not None and not isinstance(error, ChannelClosedError):  # that one crossed ours: closed it is
            raise error

    def on_method(self, method: Frame) -> None:
        """A method for this channel that is neither a delivery nor a confirm."""
        match method:
            case commands.Basic.Return():
                self._returning = method
                self.content.skip()
            case commands.Basic.GetOk():
                self.content.skip()
                self._replies.resolve(commands.Basic.GetEmpty())
            case commands.Basic.Cancel():
                if self._cancelled is not None:
                    self._cancelled()
            case commands.Channel.Close():
                self._output.send(method_frame(self.number, commands.Channel.CloseOk()))
                self._end(_why(method.reply_code or 0, shown(method.reply_text or "")))
            case commands.Channel.CloseOk():
                self._end(None)
            case _:
                if not self._replies.resolve(method):
                    raise ConnectionLostError(f"an unexpected {method.name} on channel {self.number}")

    def fail(self, error: Exception | None) -> None:
        """The connection ended: cleanly, or with this error."""
        self._closing = True
        self.content.drop()
        self._replies.fail(error or ConnectionLostError("the connection was closed"))
        settle(self.closed, error)

    def _end(self, error: BrokerError | None) -> None:
        self._closing = True
        self.content.drop()
        self._replies.fail(error or ChannelClosedError(200, "at this side's request"))
        self._forget(self.number)
        settle(self.closed, error)

    def _on_returned(self, header: bytes) -> None:
        method, self._returning = self._returning, None
        if self._returned is not None and method is not None:
            reason = f"{method.reply_code} {shown(method.reply_text or '')}"
            self._returned(Returned(method.exchange or "", method.routing_key or "", reason, header))

    async def _ask(self, method: Frame, reply: type[FrameType]) -> FrameType:
        return await self._call(method_frame(self.number, method), reply)

    async def _call(self, frame: bytes, expected: type[FrameType]) -> FrameType:
        future = self._replies.expect(expected)
        self._output.send(frame)
        reply = await future
        assert isinstance(reply, expected)
        return reply


def _counts(reply: Frame) -> tuple[int, int]:
    assert isinstance(reply, commands.Queue.DeclareOk)
    return reply.message_count or 0, reply.consumer_count or 0


def _ignore(tag: int, multiple: bool) -> None:
    """A confirm that nobody asked for."""


def _why(code: int, text: str) -> BrokerError:
    """What the broker closed a channel for; it says 403 of a queue in exclusive use, too."""
    if code == REFUSED and " access to " in text:
        return AccessRefusedError.permission(text)
    return ChannelClosedError(code, text)
