"""Content headers and field tables as bytes, walked but never decoded.

Invariant: walking visits exactly the entries that a decoder would see; what is malformed raises `MalformedError`, it is
never guessed.

Formats: AMQP 0-9-1 sections 4.2.5.5 (field tables) and 4.2.6.1 (content header), with the types that RabbitMQ really uses
(its errata list: `s` is a signed 16-bit integer, `l` a signed 64-bit one, `x` a byte array).
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from pamqp import decode

HEADERS: Final = 0x2000
DELIVERY_MODE: Final = 0x1000
PRIORITY: Final = 0x0800
EXPIRATION: Final = 0x0100
USER_ID: Final = 0x0010

FLAGS_AT: Final = 12
PROPERTIES_AT: Final = 14
_FIXED: Final = {
    "t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "l": 8, "L": 8, "f": 4, "d": 8, "D": 5, "T": 8, "V": 0,
}  # fmt: skip
_SIZED: Final = frozenset("SxFA")


class MalformedError(ValueError):
    """Bytes that are no content header or no field table."""


class Entry(NamedTuple):
    """One entry of a table, as offsets: [start, end) is all of it, the value begins at `value` with type `kind`."""

    name: bytes
    kind: str
    start: int
    value: int
    end: int


class Property(NamedTuple):
    """One property of a content header, as offsets."""

    flag: int
    start: int
    end: int


def properties(header: bytes) -> Iterator[Property]:
    """The properties present, in the order of the wire."""
    try:
        flags = struct.unpack_from(">H", header, FLAGS_AT)[0]
        at = PROPERTIES_AT
        for flag in _ORDER:
            if flags & flag:
                end = at + _property_size(header, at, flag)
                if end > len(header):
                    raise MalformedError("a property ends behind its header")
                yield Property(flag, at, end)
                at = end
    except (IndexError, struct.error) as error:
        raise MalformedError(f"a content header of {len(header)} bytes is cut off") from error


_ORDER: Final = (
    0x8000, 0x4000, HEADERS, DELIVERY_MODE, PRIORITY, 0x0400, 0x0200, EXPIRATION, 0x0080, 0x0040, 0x0020, USER_ID, 0x0008, 0x0004,
)  # fmt: skip
NAMES: Final = {
    "content_type": 0x8000, "content_encoding": 0x4000, "delivery_mode": DELIVERY_MODE, "priority": PRIORITY,
    "correlation_id": 0x0400, "reply_to": 0x0200, "expiration": EXPIRATION, "message_id": 0x0080, "timestamp": 0x0040,
    "type": 0x0020, "user_id": USER_ID, "app_id": 0x0008, "cluster_id": 0x0004,
}  # fmt: skip
"""Property names as clients spell them, with `-` or `_`; the headers are not one of them."""


def _property_size(header: bytes, at: int, flag: int) -> int:
    if flag == HEADERS:
        return 4 + struct.unpack_from(">I", header, at)[0]
    if flag in (DELIVERY_MODE, PRIORITY):
        return 1
    if flag == 0x0040:
        return 8
    return 1 + header[at]


def table_of(header: bytes) -> tuple[int, int]:
    """Where the entries of the headers table stand, [start, end); both are where it belongs if there is none."""
    flags = (header[FLAGS_AT] << 8) | header[FLAGS_AT + 1]
    at = PROPERTIES_AT
    if flags & 0xC000:  # content type and encoding stand before it
        try:
            if flags & 0x8000:
                at += 1 + header[at]
            if flags & 0x4000:
                at += 1 + header[at]
        except IndexError as error:
            raise MalformedError("a content header is cut off") from error
    if not flags & HEADERS:
        return at, at
    end = at + 4 + int.from_bytes(header[at : at + 4], "big")
    if end > len(header) or at + 4 > len(header):
        raise MalformedError("a headers table ends behind its content header")
    return at + 4, end


def entries(data: bytes, start: int, end: int) -> Iterator[Entry]:
    """The entries of the table whose entries stand at [start, end)."""
    at = start
    while at < end:
        try:
            value = at + 2 + data[at]
            name = data[at + 1 : value - 1]
            kind = chr(data[value - 1])
            size = _FIXED.get(kind)
            if size is None:
                if kind not in _SIZED:
                    raise MalformedError(f"a table has the unknown type {kind!r}")
                size = 4 + struct.unpack_from(">I", data, value)[0]
        except (IndexError, struct.error) as error:
            raise MalformedError("a table is cut off") from error
        if value + size > end:
            raise MalformedError("an entry ends behind its table")
        yield Entry(name, kind, at, value, value + size)
        at = value + size


def find(header: bytes, name: bytes) -> Entry | None:
    """The first entry of that name in the headers table."""
    if name not in header:
        return None
    start, end = table_of(header)
    return next((entry for entry in entries(header, start, end) if entry.name == name), None)


def value_of(data: bytes, entry: Entry) -> object:
    """The decoded value of one entry."""
    if entry.kind == "S":
        return data[entry.value + 4 : entry.end].decode()
    if entry.kind == "x":
        return data[entry.value + 4 : entry.end]
    return decode.embedded_value(data[entry.value - 1 : entry.end])[1]
