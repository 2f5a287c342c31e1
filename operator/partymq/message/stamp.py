"""The stamp, a message's place in its partition's order, and the fence, a message that only its sender knows.

Invariant: stamping changes nothing of a message but what would break a promise on its way (see `rewrite`); all else
stays byte for byte. A stamp is set once, when a message is read from the source, and replaces whatever the message
carries under `x-partymq-`: nobody can forge a place, or a fence.
"""

from struct import Struct
from typing import Final, NamedTuple

from partymq.amqp.frames import marker_header
from partymq.message.rewrite import ALWAYS_HIGH, ALWAYS_LOW, MAYBE_HIGH, OURS, REQUESTER, rewrite
from partymq.message.tables import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    FLAGS_AT,
    HEADERS,
    PROPERTIES_AT,
    find_header,
    table_at,
    value_at,
)

_PARTITION_NAME: Final = b"x-partymq-partition"
_EPOCH_NAME: Final = b"x-partymq-epoch"
_SEQ_NAME: Final = b"x-partymq-seq"
_FENCE_NAME: Final = b"x-partymq-fence"

_PARTITION: Final = b"\x13" + _PARTITION_NAME + b"I"
_EPOCH: Final = b"\x0f" + _EPOCH_NAME + b"l"
_SEQ: Final = b"\x0d" + _SEQ_NAME + b"l"
_EXCHANGE: Final = b"\x12x-partymq-exchangeS"
_ROUTING_KEY: Final = b"\x15x-partymq-routing-keyS"

_STAMP: Final = Struct(f">{len(_PARTITION)}si{len(_EPOCH)}sq{len(_SEQ)}sq")
_FIRST_TABLE_ENTRY: Final = PROPERTIES_AT + 4
_LONG: Final = Struct(">I")
_BODY_SIZE: Final = slice(4, 12)
_NO_BODY: Final = bytes(8)

_BEFORE_HEADERS: Final = (CONTENT_TYPE | CONTENT_ENCODING) >> 8
_HAS_HEADERS: Final = HEADERS >> 8


class Stamp(NamedTuple):
    """The later message of a partition has the higher (epoch, seq); partition -1 has the messages without a key."""

    epoch: int
    seq: int
    partition: int


class Stamper:
    """Stamps the messages of one partition in one epoch."""

    __slots__ = ("_origin", "_places", "_prefix", "_size")

    def __init__(self, partition: int, epoch: int) -> None:
        self._prefix = _STAMP.pack(_PARTITION, partition, _EPOCH, epoch, _SEQ, 0)[:-8]
        self._origin = b""
        self._places = b""
        self._size = 0

    def stamp(self, header: bytes, seq: int, origin: bytes) -> bytes:
        """The content header's payload with the stamp at the head of its headers table.

        `origin` is where the message was first published: exchange and routing key as two short strings.
        """
        if origin != self._origin:
            self._origin, self._places = origin, _places(origin)
            self._size = _STAMP.size + len(self._places)
        high = header[12]
        if (
            high & ALWAYS_HIGH
            or header[13] & ALWAYS_LOW
            or header.find(OURS) >= 0  # `in` first takes what is bytes for a number: an exception each time
            or (high & MAYBE_HIGH and REQUESTER in header)
            or (header.find(b"CC") >= 0 and (b"\x02CC" in header or b"\x03BCC" in header))
        ):
            header = rewrite(header)
            high = header[12]
        at = table_at(header) if high & _BEFORE_HEADERS else PROPERTIES_AT
        stamp = self._prefix + seq.to_bytes(8, "big") + self._places
        if high & _HAS_HEADERS:
            size = int.from_bytes(header[at : at + 4], "big") + self._size
            return header[:at] + size.to_bytes(4, "big") + stamp + header[at + 4 :]
        flagged = header[:FLAGS_AT] + bytes((high | _HAS_HEADERS,)) + header[FLAGS_AT + 1 : at]
        return flagged + self._size.to_bytes(4, "big") + stamp + header[at:]


def read_stamp(header: bytes) -> Stamp | None:
    """A message's stamp, or None; it stands first, unless the broker has written the table anew."""
    at = table_at(header) + 4 if header[FLAGS_AT] & _BEFORE_HEADERS else _FIRST_TABLE_ENTRY
    if len(header) >= at + _STAMP.size:
        partition_head, partition, epoch_head, epoch, seq_head, seq = _STAMP.unpack_from(header, at)
        if partition_head == _PARTITION and epoch_head == _EPOCH and seq_head == _SEQ:
            return Stamp(epoch, seq, partition)
    epoch, seq, partition = (_number(header, name) for name in (_EPOCH_NAME, _SEQ_NAME, _PARTITION_NAME))
    return None if epoch is None or seq is None or partition is None else Stamp(epoch, seq, partition)


def fence_header(fence: str, *, expires: bool, urgent: bool = False) -> bytes:
    """The content header of a fence, which has no body; with `expires` it vanishes if nobody is there to take it.

    With `urgent` it does not wait behind other messages for that.
    """
    return marker_header({_FENCE_NAME.decode(): fence}, expires=expires, urgent=urgent)


def read_fence(header: bytes) -> str | None:
    """A fence's id, or None for any other message."""
    if header[_BODY_SIZE] != _NO_BODY or (at := find_header(header, _FENCE_NAME)) < 0:
        return None
    fence = value_at(header, at)
    return fence.decode(errors="replace") if isinstance(fence, bytes) else None


def _places(origin: bytes) -> bytes:
    split = 1 + origin[0]
    exchange, routing_key = origin[1:split], origin[split + 1 :]
    return b"".join(
        (_EXCHANGE, _LONG.pack(len(exchange)), exchange, _ROUTING_KEY, _LONG.pack(len(routing_key)), routing_key)
    )


def _number(header: bytes, name: bytes) -> int | None:
    at = find_header(header, name)
    number = value_at(header, at) if at >= 0 else None
    return number if isinstance(number, int) else None
