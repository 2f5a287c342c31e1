"""Content headers and their field tables as bytes.

Invariant: what is not asked for is never decoded, so it stays as its producer wrote it, byte for byte: short ints,
decimals, nested tables and whatever else a client library would change or choke on. What is not well formed raises
`MalformedHeaderError`; nothing is guessed and nothing is read beyond its end.

A content header's payload (AMQP 0-9-1, 4.2.6.1) is class, weight, size of the body, property flags, then the properties
that the flags name, in a fixed order. The third property is the headers table: a length, then entries of name (short
string), type (one byte) and value. The types are those that RabbitMQ knows, which is not the list of the specification:
`s` is a 16-bit integer, `l` and `L` are both signed 64-bit ones, `x` is a byte array.
"""

from collections.abc import Iterator
from decimal import Decimal
from struct import Struct
from typing import Final, NamedTuple

from partymq.errors import BrokerError

FLAGS_AT: Final = 12
PROPERTIES_AT: Final = 14

CONTENT_TYPE: Final = 1 << 15
CONTENT_ENCODING: Final = 1 << 14
HEADERS: Final = 1 << 13
DELIVERY_MODE: Final = 1 << 12
PRIORITY: Final = 1 << 11
CORRELATION_ID: Final = 1 << 10
REPLY_TO: Final = 1 << 9
EXPIRATION: Final = 1 << 8
MESSAGE_ID: Final = 1 << 7
TIMESTAMP: Final = 1 << 6
TYPE: Final = 1 << 5
USER_ID: Final = 1 << 4
APP_ID: Final = 1 << 3
CLUSTER_ID: Final = 1 << 2
_MORE_FLAGS: Final = 1

_ORDER: Final = tuple(1 << bit for bit in range(15, 1, -1))
_PROPERTY_SIZES: Final = {DELIVERY_MODE: 1, PRIORITY: 1, TIMESTAMP: 8}
"""All others but the headers are short strings."""

_NUMBERS: Final = {
    ord(kind): Struct(">" + code)
    for kind, code in {
        "t": "?", "b": "b", "B": "B", "s": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q", "f": "f", "d": "d",
    }.items()
}  # fmt: skip
_DECIMAL: Final = Struct(">Bi")
_FIXED: Final = {kind: number.size for kind, number in _NUMBERS.items()} | {
    ord("D"): _DECIMAL.size,
    ord("T"): 8,
    ord("V"): 0,
}
_COUNTED: Final = -1
_UNKNOWN: Final = -2
_SIZES: Final = tuple(_COUNTED if kind in b"SxAF" else _FIXED.get(kind, _UNKNOWN) for kind in range(256))
"""A value's size by its type; `_COUNTED` when its size stands before it."""
_LONG: Final = Struct(">I")
_CUT_SHORT: Final = "a content header ends within a property"
_DELIVERY_COUNT: Final = b"x-delivery-count"


class MalformedHeaderError(BrokerError):
    """A content header is not what AMQP says; a broker, which reads every header, delivers none like that."""

    reason = "MalformedHeader"


class Entry(NamedTuple):
    """Where an entry of a table stands: the length of its name, the type of its value, its end."""

    start: int
    kind_at: int
    stop: int


class Property(NamedTuple):
    """Where a property stands."""

    flag: int
    start: int
    stop: int


def flags_of(header: bytes) -> int:
    """The property flags."""
    if len(header) < PROPERTIES_AT:
        raise MalformedHeaderError(f"a content header of {len(header)} bytes")
    flags = header[FLAGS_AT] << 8 | header[FLAGS_AT + 1]
    if flags & _MORE_FLAGS:
        raise MalformedHeaderError("a content header with flags for more properties than there are")
    return flags


def properties(header: bytes) -> Iterator[Property]:
    """The properties that are there, in their order."""
    flags, at = flags_of(header), PROPERTIES_AT
    for flag in _ORDER:
        if flags & flag:
            stop = _property_end(header, flag, at)
            yield Property(flag, at, stop)
            at = stop


def find_property(header: bytes, flag: int) -> Property | None:
    """One property, or None if it is not there."""
    if not flags_of(header) & flag:
        return None
    return next(found for found in properties(header) if found.flag == flag)


def table_at(header: bytes) -> int:
    """Where the headers table stands, its length first, or would stand."""
    flags, at = flags_of(header), PROPERTIES_AT
    size = len(header)
    # Two short strings at most stand before it; written out, as every message is asked.
    if flags & CONTENT_TYPE:
        at += 1 + header[at] if at < size else 1
    if flags & CONTENT_ENCODING:
        at += 1 + header[at] if at < size else 1
    if at > size:
        raise MalformedHeaderError(_CUT_SHORT)
    return at


def entries(header: bytes, at: int, stop: int) -> Iterator[Entry]:
    """The entries of the table that stands at `at`, its length first, and ends at `stop`."""
    at += 4
    while at < stop:
        kind_at = at + 1 + header[at]
        after = value_end(header, kind_at, stop)
        yield Entry(at, kind_at, after)
        at = after


def find_header(header: bytes, name: bytes) -> int:
    """Where the type of the first header with this name stands, -1 if there is none.

    A search for the bytes says at once that there is none, which is frequent. What it finds may as well be part of a
    value, so the walk over the entries decides.
    """
    needle = bytes((len(name),)) + name
    found = header.find(needle)
    if found < 0 or not header[FLAGS_AT] & (HEADERS >> 8):
        return -1
    at = table_at(header)
    stop = _property_end(header, HEADERS, at)
    at += 4
    sizes, long_at = _SIZES, _LONG.unpack_from
    while at < stop:
        kind_at = at + 1 + header[at]
        size = sizes[header[kind_at]] if kind_at < stop else _UNKNOWN
        if size == _COUNTED and kind_at + 5 <= stop:
            after = kind_at + 5 + long_at(header, kind_at + 1)[0]
        else:
            after = kind_at + 1 + size
        if size == _UNKNOWN or after > stop or after <= kind_at:
            after = value_end(header, kind_at, stop)
        if at >= found and header.startswith(needle, at):
            return kind_at
        at = after
    return -1


def returns_of(header: bytes) -> int:
    """How often the message has come back to the quorum queue that it is delivered from; 0 where nobody counts."""
    at = find_header(header, _DELIVERY_COUNT)
    count = value_at(header, at) if at >= 0 else 0
    return count if isinstance(count, int) else 0


def value_end(header: bytes, kind_at: int, stop: int) -> int:
    """Where the value ends whose type stands at `kind_at`, in a table that ends at `stop`."""
    if kind_at < stop:
        size = _SIZES[header[kind_at]]
        after = kind_at + 1 + size
        if size == _UNKNOWN:
            raise MalformedHeaderError(f"a header of the unknown type {chr(header[kind_at])!r}")
        if size == _COUNTED:
            after = kind_at + 5
            if after <= stop:
                after += _LONG.unpack_from(header, kind_at + 1)[0]
        if after <= stop:
            return after
    raise MalformedHeaderError("a header reaches beyond the end of its table")


def value_at(header: bytes, kind_at: int) -> object:
    """The value whose type stands at `kind_at`, if it is a scalar; None if it is anything else, or a timestamp.

    Strings and byte arrays are bytes.
    """
    kind = header[kind_at]
    if kind in b"Sx":
        return header[kind_at + 5 : kind_at + 5 + _LONG.unpack_from(header, kind_at + 1)[0]]
    number = _NUMBERS.get(kind)
    if number is not None:
        return number.unpack_from(header, kind_at + 1)[0]
    if kind == ord("D"):
        scale, digits = _DECIMAL.unpack_from(header, kind_at + 1)
        return Decimal((digits < 0, tuple(map(int, str(abs(digits)))), -scale))
    return None


def table_in(header: bytes, kind_at: int) -> tuple[int, int] | None:
    """Where the first table in an array stands, its length first, and where it ends; None where there is none."""
    if header[kind_at : kind_at + 1] != b"A":
        return None
    stop = kind_at + 5 + _LONG.unpack_from(header, kind_at + 1)[0]
    first = kind_at + 5
    if header[first : first + 1] != b"F" or first >= stop:
        return None
    return first + 1, value_end(header, first, stop)


def time_at(header: bytes, kind_at: int) -> int | None:
    """The timestamp whose type stands at `kind_at`, Unix seconds; None where it is another type."""
    return _NUMBERS[ord("l")].unpack_from(header, kind_at + 1)[0] if header[kind_at : kind_at + 1] == b"T" else None


def _property_end(header: bytes, flag: int, at: int) -> int:
    size = _PROPERTY_SIZES.get(flag)
    if size is not None:
        stop = at + size
    elif flag == HEADERS:
        stop = at + 4
        if stop <= len(header):
            stop += _LONG.unpack_from(header, at)[0]
    else:
        stop = at + 1
        if stop <= len(header):
            stop += header[at]
    if stop > len(header):
        raise MalformedHeaderError(_CUT_SHORT)
    return stop
