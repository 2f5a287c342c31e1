"""AMQP 0-9-1 frames as bytes.

Invariant: what is built here is whole frames (or a whole content-header payload), ready to be joined and written.

Built by hand is what is needed per message, and what names a queue: pamqp refuses names that RabbitMQ allows
(`orders[eu]`, `größe`), and a source queue is named by its owner.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Final

from pamqp import commands
from pamqp.base import Frame
from pamqp.encode import field_table
from pamqp.frame import marshal

FRAME_END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
DEFAULT_FRAME_MAX: Final = 131_072
"""What RabbitMQ offers as it comes."""
SMALLEST_FRAME_MAX: Final = 4096
"""What AMQP lets nobody go below."""

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3

DELIVER: Final = 60 << 16 | 60
CONFIRM: Final = 60 << 16 | 80
NACK: Final = 60 << 16 | 120
DECLARE_OK: Final = 50 << 16 | 11

FRAME_HEAD: Final = Struct(">BHI")
"""Type, channel, size of the payload."""
FRAME_OVERHEAD: Final = 8
HEADER_GROWTH: Final = 4096
"""Bytes that RabbitMQ may add to a content header on its way, at most as we expect."""
SMALLEST_CONTENT_HEADER: Final = 14
"""Bytes of the payload of one without properties."""
FRAME_SIZE: Final = Struct(">I")
FRAME_SIZE_AT: Final = 3
"""Behind its type and channel."""
HEADER_HEAD: Final = Struct(">HHQ")
"""Start of a content header's payload: class, weight, size of the body. The property flags follow."""

NO_TABLE: Final = b"\x00\x00\x00\x00"

_COUNTS: Final = Struct(">II")
_ACK: Final = Struct(">BHIIQBB")
_METHOD_HEAD: Final = Struct(">BHII")
_ACK_SIZE: Final = 13
_BASIC: Final = 60

_HEADERS_FLAG: Final = 0x2000
_DELIVERY_MODE_FLAG: Final = 0x1000
_PRIORITY_FLAG: Final = 0x0800
_EXPIRATION_FLAG: Final = 0x0100

Arguments = Mapping[str, int | str | None]


def shortstr(text: str | bytes) -> bytes:
    """A short string: one byte of length, then at most 255 bytes of UTF-8, or whatever bytes they are."""
    encoded = text if isinstance(text, bytes) else text.encode()
    if len(encoded) > 255:
        raise ValueError(f"{text[:60]!r}... has {len(encoded)} bytes; names on the broker have at most 255.")
    return bytes((len(encoded),)) + encoded


def method_frame(channel: int, method: Frame) -> bytes:
    """A method that pamqp knows how to write."""
    return marshal(method, channel)


def publish_frame(channel: int, exchange: str, routing_key: str | bytes, *, mandatory: bool = True) -> bytes:
    """The whole Basic.Publish method frame; build it once for each channel and destination."""
    arguments = b"\x00\x00" + shortstr(exchange) + shortstr(routing_key) + (b"\x01" if mandatory else b"\x00")
    return _method(channel, 40, arguments, class_id=_BASIC)


def ack_frame(channel: int, tag: int, multiple: bool) -> bytes:
    """A Basic.Ack method frame."""
    return _ACK.pack(METHOD, channel, _ACK_SIZE, CONFIRM, tag, multiple, 0xCE)


def give_back_frame(channel: int) -> bytes:
    """Basic.Nack of everything that the channel holds, which returns to its queue."""
    return _method(channel, 120, bytes(8) + b"\x03", class_id=_BASIC)


def consume_frame(channel: int, queue: str, tag: str, *, exclusive: bool, arguments: Arguments) -> bytes:
    """Basic.Consume with manual acknowledgement."""
    rest = shortstr(queue) + shortstr(tag) + (b"\x04" if exclusive else b"\x00") + field_table(dict(arguments))
    return _method(channel, 20, b"\x00\x00" + rest, class_id=_BASIC)


def get_frame(channel: int, queue: str) -> bytes:
    """Basic.Get with manual acknowledgement."""
    return _method(channel, 70, b"\x00\x00" + shortstr(queue) + b"\x00", class_id=_BASIC)


def declare_frame(
    channel: int, queue: str, *, arguments: Arguments | None = None, passive: bool = False, durable: bool = True
) -> bytes:
    """Queue.Declare of a queue, or a passive one: asks for the counts of a queue of any kind."""
    flags = b"\x01" if passive else b"\x02" if durable else b"\x00"
    table = field_table(dict(arguments)) if arguments else NO_TABLE
    return _method(channel, 10, b"\x00\x00" + shortstr(queue) + flags + table)


def declare_ok(frame: bytes) -> commands.Queue.DeclareOk:
    """What a whole Queue.DeclareOk frame says of a queue, whose name we know: hundreds of groups poll theirs."""
    messages, consumers = _COUNTS.unpack_from(frame, len(frame) - 1 - _COUNTS.size)
    return commands.Queue.DeclareOk(message_count=messages, consumer_count=consumers)


def bind_frame(channel: int, queue: str, exchange: str, *, arguments: Arguments) -> bytes:
    """Queue.Bind without routing key."""
    names = shortstr(queue) + shortstr(exchange) + shortstr("")
    return _method(channel, 20, b"\x00\x00" + names + b"\x00" + field_table(dict(arguments)))


def purge_frame(channel: int, queue: str) -> bytes:
    """Queue.Purge."""
    return _method(channel, 30, b"\x00\x00" + shortstr(queue) + b"\x00")


def delete_frame(channel: int, queue: str) -> bytes:
    """Queue.Delete without conditions (quorum queues close the connection over them)."""
    return _method(channel, 40, b"\x00\x00" + shortstr(queue) + b"\x00")


def header_frame(channel: int, header: bytes) -> bytes:
    """The frame of a content header's payload."""
    return FRAME_HEAD.pack(HEADER, channel, len(header)) + header + FRAME_END


def plain_header(body_size: int) -> bytes:
    """The content header of a persistent message without headers."""
    return HEADER_HEAD.pack(_BASIC, 0, body_size) + _DELIVERY_MODE_FLAG.to_bytes(2, "big") + b"\x02"


def marker_header(headers: Mapping[str, str], *, expires: bool, urgent: bool = False) -> bytes:
    """The content header of a persistent message without a body.

    With `expires` it is gone in a moment, once it is at the queue's head; with `urgent` it is there at once.
    """
    flags = _HEADERS_FLAG | _DELIVERY_MODE_FLAG | (_EXPIRATION_FLAG if expires else 0)
    flags |= _PRIORITY_FLAG if urgent else 0
    tail = b"\x02" + (b"\xff" if urgent else b"") + (shortstr("0") if expires else b"")
    return HEADER_HEAD.pack(_BASIC, 0, 0) + flags.to_bytes(2, "big") + field_table(dict(headers)) + tail


def body_frames(payload: bytes, channel: int = 1, frame_max: int = SMALLEST_FRAME_MAX) -> bytes:
    """A body as frames, by default of a size that every connection allows; empty for an empty one."""
    step = frame_max - FRAME_OVERHEAD
    parts = (payload[at : at + step] for at in range(0, len(payload), step))
    return b"".join(FRAME_HEAD.pack(BODY, channel, len(part)) + part + FRAME_END for part in parts)


def readdress(frames: bytes, channel: int) -> bytes:
    """The same body frames on another channel."""
    head = FRAME_HEAD.pack(BODY, channel, 0)[:FRAME_SIZE_AT]
    parts: list[bytes] = []
    at = 0
    while at < len(frames):
        end = at + FRAME_SIZE.unpack_from(frames, at + FRAME_SIZE_AT)[0] + FRAME_OVERHEAD
        parts += (head, frames[at + FRAME_SIZE_AT : end])
        at = end
    return b"".join(parts)


def body_payload(frames: bytes) -> bytes:
    """The body that was cut into these frames."""
    if not frames:
        return b""
    size = int.from_bytes(frames[3:7], "big")
    if size + FRAME_OVERHEAD == len(frames):
        return frames[7:-1]
    parts, at = [], 0
    while at < len(frames):
        size = int.from_bytes(frames[at + 3 : at + 7], "big")
        parts.append(frames[at + 7 : at + 7 + size])
        at += size + FRAME_OVERHEAD
    return b"".join(parts)


def _method(channel: int, method_id: int, arguments: bytes, *, class_id: int = 50) -> bytes:
    head = _METHOD_HEAD.pack(METHOD, channel, len(arguments) + 4, class_id << 16 | method_id)
    return head + arguments + FRAME_END
