"""What comes in: read chunks into frames, frames to their channels. The hot path of the whole router.

Invariant: every byte is looked at in order and once, wherever the network cut the stream; a stream that is not AMQP
ends the connection, and so does anything that no channel expects, that is shorter than what it has to hold, or that
comes so often that the broker cannot mean it. What ends it is said in our words: nothing that came is repeated.

Deliveries and confirms are parsed here, by hand, because there is one per message; pamqp decodes the rest, but for what
polls are answered. A delivery that is whole in its chunk (all but one in a chunk are) is handed on without any state;
the others take the way through `Content`.
"""

from collections.abc import Callable
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final

from pamqp.base import Frame
from pamqp.frame import unmarshal

from partymq.amqp.channel import CONSUMER_TAG, Channel
from partymq.amqp.frames import (
    BODY,
    CONFIRM,
    DECLARE_OK,
    DELIVER,
    FRAME_HEAD,
    FRAME_OVERHEAD,
    HEADER,
    HEADER_GROWTH,
    METHOD,
    NACK,
    SMALLEST_CONTENT_HEADER,
    declare_ok,
)
from partymq.errors import ConnectionLostError, NotAmqpError

_METHOD_ID: Final = Struct(">I")
_DELIVERY: Final = Struct(">QB")
"""Tag, and whether somebody was given the message before."""
_CONFIRM: Final = Struct(">QB")
_TAG_AT: Final = 7 + 4 + 1 + len(CONSUMER_TAG)
_MOST_TAG: Final = 1 << 63
"""More deliveries than there will ever be."""
_ORIGIN_AT: Final = _TAG_AT + _DELIVERY.size
_NACK_SIZE: Final = 7 + 4 + _CONFIRM.size + 1
_CONTENT: Final = Struct(">BHIHHQ")
_END: Final = 0xCE
_HEARTBEAT: Final = 8

FIRST_FRAME_MAX: Final = 8192
"""Before both sides have agreed: twice what AMQP asks for, and ten times what RabbitMQ sends."""
IDLE_FRAMES: Final = 200
"""Heartbeats, and methods of the whole connection, that may come between two calls of `lull`.

A broker sends a heartbeat in five seconds, and as many of them at once as a socket that is not read has collected.
"""
_NO_AMQP: Final = "what answers there does not speak AMQP 0-9-1"
_SHORT: Final = "a frame that does not hold what it has to: the other side does not speak AMQP 0-9-1"


class Channels(dict[int, Channel]):
    """The open channels by number."""

    def __missing__(self, number: int) -> Channel:
        raise ConnectionLostError(f"a frame on channel {number}, which is not open")


class Reader:
    """Feeds channels from read chunks."""

    __slots__ = ("_channels", "_control", "_idle", "_missing", "_rest", "frame_max")

    def __init__(self, channels: Channels, control: Callable[[Frame], None]) -> None:
        self._channels = channels
        self._control = control
        self._rest: list[bytes] = []
        """What came of a frame that is not whole, in pieces: a large one may take a hundred chunks."""
        self._missing = 0
        """Bytes until that frame is whole, or its head."""
        self._idle = 0
        self.frame_max = FIRST_FRAME_MAX
        """The most bytes of a frame; what both sides agree on stands here from then on."""

    def lull(self) -> None:
        """Called every few seconds: heartbeats are counted anew."""
        self._idle = 0

    def feed(self, data: bytes) -> None:
        """Process a chunk as far as it has whole frames and keep the rest."""
        if self._rest:
            data = self._joined(data)
        at, after, end = 0, 0, len(data)
        channels = self._channels
        while end - at >= FRAME_OVERHEAD:
            kind, number, size = FRAME_HEAD.unpack_from(data, at)
            after = at + size + FRAME_OVERHEAD
            if after > end:
                self._check_size(kind, size)
                break
            if data[after - 1] != _END:
                self._check_size(kind, size)
                raise NotAmqpError("a frame without its end: the stream is out of step")
            if kind == METHOD:
                try:
                    method = _METHOD_ID.unpack_from(data, at + 7)[0]
                except StructError:
                    raise NotAmqpError(_SHORT) from None
                if method == DELIVER:
                    after = self._deliver(channels[number], data, at, after, end)
                elif method == CONFIRM:
                    try:
                        tag, multiple = _CONFIRM.unpack_from(data, at + 11)
                    except StructError:
                        raise NotAmqpError(_SHORT) from None
                    channels[number].confirmed(tag, multiple != 0)
                else:
                    self._check_size(kind, size)
                    self._method(number, method, data[at:after])
            else:
                self._no_method(kind, number, data[at + 7 : after - 1])
            at = after
        if at < end:
            self._rest.append(data[at:])
            self._missing = max(after, at + FRAME_OVERHEAD) - end

    def _joined(self, data: bytes) -> bytes:
        """A chunk behind what came before it; nothing while the first frame is not whole."""
        self._rest.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        whole = b"".join(self._rest)
        self._rest.clear()
        return whole

    def _deliver(self, channel: Channel, data: bytes, at: int, after: int, end: int) -> int:
        """Hand on a delivery whose method frame ends at `after`; says where the next frame starts."""
        try:
            tag, redelivered = _DELIVERY.unpack_from(data, at + _TAG_AT)
            routing_key_at = at + _ORIGIN_AT + 1 + data[at + _ORIGIN_AT]
            if routing_key_at + 2 + data[routing_key_at] != after or tag >= _MOST_TAG:
                raise NotAmqpError(_SHORT)
        except (StructError, IndexError):
            raise NotAmqpError(_SHORT) from None
        origin = data[at + _ORIGIN_AT : after - 1]
        if redelivered:
            channel.content.redelivered = True
        if end - after >= _CONTENT.size:
            kind, number, header_size, _, _, body_size = _CONTENT.unpack_from(data, after)
            body_at = after + header_size + FRAME_OVERHEAD
            stop: int = body_at + body_size + FRAME_OVERHEAD if body_size else body_at
            if (
                stop <= end
                and kind == HEADER
                and header_size >= SMALLEST_CONTENT_HEADER
                and number == channel.number
                and data[body_at - 1] == _END
                and (not body_size or data.startswith(FRAME_HEAD.pack(BODY, number, body_size), body_at))
                and data[stop - 1] == _END
            ):
                channel.content.on_delivery(tag, origin, data[after + 7 : body_at - 1], data[body_at:stop])
                return stop
        channel.content.begin(tag, origin)
        return after

    def _method(self, number: int, method: int, frame: bytes) -> None:
        if method == NACK:
            if len(frame) < _NACK_SIZE:
                raise NotAmqpError(_SHORT)
            tag, bits = _CONFIRM.unpack_from(frame, 11)
            self._channels[number].nacked(tag, bits & 1 != 0)
            return
        try:
            decoded = declare_ok(frame) if method == DECLARE_OK else unmarshal(frame)[2]
        except Exception:  # noqa: BLE001 - pamqp raises whatever it happens to hit, too deep a table among it
            raise NotAmqpError("a method that cannot be read: the other side does not speak AMQP 0-9-1") from None
        if not isinstance(decoded, Frame):
            raise NotAmqpError(_NO_AMQP)
        if number == 0:
            self._count()
            self._control(decoded)
        elif number in self._channels:
            self._channels[number].on_method(decoded)
        elif decoded.name != "Channel.CloseOk":  # ours crossed the broker's close: answered although all was settled
            raise ConnectionLostError(f"{decoded.name} on channel {number}, which is not open")

    def _no_method(self, kind: int, number: int, payload: bytes) -> None:
        """A frame of content that was not whole in its chunk, or a heartbeat."""
        if kind == HEADER:
            self._channels[number].content.header(payload)
        elif kind == BODY:
            self._channels[number].content.body(payload)
        elif kind == _HEARTBEAT and not number and not payload:
            self._count()
        else:
            raise NotAmqpError(_NO_AMQP)

    def _count(self) -> None:
        self._idle += 1
        if self._idle > IDLE_FRAMES:
            raise NotAmqpError(f"the broker sends heartbeats without end: {IDLE_FRAMES} within a few seconds")

    def _check_size(self, kind: int, size: int) -> None:
        if kind not in {METHOD, HEADER, BODY, _HEARTBEAT}:
            raise NotAmqpError(_NO_AMQP)
        # RabbitMQ adds to a header (how often a message was delivered, where it died) and then does not measure it.
        if size > self.frame_max - FRAME_OVERHEAD + (HEADER_GROWTH if kind == HEADER else 0):
            raise NotAmqpError(f"a frame of more than was agreed on, which is {self.frame_max} bytes")
