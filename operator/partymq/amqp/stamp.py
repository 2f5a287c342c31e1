"""The stamp: which partition a message is of, and its place in it.

Invariant: a message that PartyMQ forwards is the one that was published, byte for byte, but for headers that begin with
`x-partymq-` and for what would break a promise if it were published again as it is:

- `expiration` would start anew at every queue and drop messages silently: kept as header `x-partymq-expiration`;
- `user-id` is refused by the broker when it is not the router's own user (validated user-id): `x-partymq-user-id`;
- `priority` above 4 overtakes on a quorum queue of RabbitMQ 4 (two priorities, high before normal): `x-partymq-priority`;
- the headers `CC` and `BCC` would route copies once more (sender-selected distribution): `x-partymq-cc`, `x-partymq-bcc`.

The stamp stands first in the headers table, at a fixed distance, so that it is read without walking the table.
"""

import struct
from typing import Final, NamedTuple

from partymq.amqp.tables import (
    EXPIRATION,
    FLAGS_AT,
    HEADERS,
    PRIORITY,
    PROPERTIES_AT,
    USER_ID,
    MalformedError,
    entries,
    find,
    properties,
    table_of,
)

_PARTITION: Final = b"\x13x-partymq-partitionI"
_EPOCH: Final = b"\x0fx-partymq-epochl"
_SEQ: Final = b"\x0dx-partymq-seql"
_EXCHANGE: Final = b"\x12x-partymq-exchangeS"
_ROUTING_KEY: Final = b"\x15x-partymq-routing-keyS"
_OURS: Final = b"x-partymq-"
_FENCE: Final = b"x-partymq-fence"
_REWRITTEN: Final = ((EXPIRATION, b"x-partymq-expiration"), (USER_ID, b"x-partymq-user-id"))
_COPIES: Final = {b"CC": b"x-partymq-cc", b"BCC": b"x-partymq-bcc"}
_HIGHEST_NORMAL: Final = 4
_ODD: Final = EXPIRATION | USER_ID | PRIORITY
_LAYOUT = struct.Struct(f">{len(_PARTITION)}xi{len(_EPOCH)}xq{len(_SEQ)}xq")
_EPOCH_AT: Final = len(_PARTITION) + 4
_SEQ_AT: Final = _EPOCH_AT + len(_EPOCH) + 8
_U32 = struct.Struct(">I")
_CONTENT = struct.Struct(">HHQH")


class Stamp(NamedTuple):
    """Newer messages of a partition have the higher (epoch, seq); partition -1 has the messages without a key."""

    epoch: int
    seq: int
    partition: int


def _long_string(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


class Stamper:
    """Stamps the messages of one partition in one epoch."""

    __slots__ = ("_last_origin", "_origin", "_prefix")

    def __init__(self, partition: int, epoch: int) -> None:
        self._prefix = _PARTITION + struct.pack(">i", partition) + _EPOCH + struct.pack(">q", epoch) + _SEQ
        self._last_origin = b"\x00\x00"
        self._origin = _origin_entries(self._last_origin)

    def stamp(self, header: bytes, seq: int, origin: bytes) -> bytes:
        """The content header with the stamp; `origin` is the exchange and the routing key as the deliver method has them."""
        if origin != self._last_origin:
            self._last_origin = origin
            self._origin = _origin_entries(origin)
        flags = (header[12] << 8) | header[13]
        if flags & _ODD or _OURS in header or b"\x02CC" in header or b"\x03BCC" in header:
            header = _clean(header)
            flags = (header[12] << 8) | header[13]
        stamp = self._prefix + seq.to_bytes(8, "big") + self._origin
        if not flags & 0xC000:  # the usual case is short: nothing stands before the headers
            if flags & HEADERS:
                size = int.from_bytes(header[14:18], "big") + len(stamp)
                return header[:14] + size.to_bytes(4, "big") + stamp + header[18:]
            at = PROPERTIES_AT
        else:
            start, end = table_of(header)
            if flags & HEADERS:
                return header[: start - 4] + _U32.pack(end - start + len(stamp)) + stamp + header[start:]
            at = start
        flagged = header[:FLAGS_AT] + (flags | HEADERS).to_bytes(2, "big") + header[PROPERTIES_AT:at]
        return flagged + _U32.pack(len(stamp)) + stamp + header[at:]


def _origin_entries(origin: bytes) -> bytes:
    split = 1 + origin[0]
    exchange, routing_key = origin[1:split], origin[split + 1 :]
    return _EXCHANGE + _long_string(exchange) + _ROUTING_KEY + _long_string(routing_key)


def _clean(header: bytes) -> bytes:
    """The content header without our own headers, and with what must not be published again moved into headers."""
    flags, kept, moved = int.from_bytes(header[FLAGS_AT:PROPERTIES_AT], "big"), {}, b""
    for flag, start, end in properties(header):
        kept[flag] = header[start:end]
    for flag, name in _REWRITTEN:
        if (value := kept.pop(flag, None)) is not None:
            moved += _entry(name, b"S" + _long_string(value[1:]))
            flags &= ~flag
    if kept.get(PRIORITY, b"\x00")[0] > _HIGHEST_NORMAL:
        moved += _entry(b"x-partymq-priority", b"B" + kept.pop(PRIORITY))
        flags &= ~PRIORITY
    start, end = table_of(header)
    table = b""
    for entry in entries(header, start, end):
        if not entry.name.startswith(_OURS):
            table += _entry(_COPIES.get(entry.name, entry.name), header[entry.value - 1 : entry.end])
    if table or moved or flags & HEADERS:
        flags |= HEADERS
        kept[HEADERS] = _long_string(moved + table)
    ordered = b"".join(kept[flag] for flag in sorted(kept, reverse=True))
    return header[:FLAGS_AT] + flags.to_bytes(2, "big") + ordered


def _entry(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


def read_stamp(header: bytes) -> Stamp | None:
    """The stamp of a message, None where it has none."""
    if _PARTITION not in header:
        return None
    at = 18 if not header[FLAGS_AT] & 0xC0 else table_of(header)[0]
    if (
        header.startswith(_PARTITION, at)
        and header.startswith(_EPOCH, at + _EPOCH_AT)
        and header.startswith(_SEQ, at + _SEQ_AT)
    ):
        partition, epoch, seq = _LAYOUT.unpack_from(header, at)
        return Stamp(epoch, seq, partition)
    return _walk_stamp(header)


def _walk_stamp(header: bytes) -> Stamp | None:
    """Reads a stamp that somebody has taken apart."""
    values = {}
    try:
        start, end = table_of(header)
        for entry in entries(header, start, end):
            if entry.name.startswith(_OURS) and entry.kind in "bBsuIiLl":
                signed = entry.kind not in "Bui"
                values[entry.name] = int.from_bytes(header[entry.value : entry.end], "big", signed=signed)
        return Stamp(values[b"x-partymq-epoch"], values[b"x-partymq-seq"], values[b"x-partymq-partition"])
    except (KeyError, MalformedError):
        return None


def fence_header(name: str, *, expires: bool) -> bytes:
    """The content header of a fence: an empty persistent message that only its sender knows.

    With `expires` it has the time to live 0: it reaches an active consumer, or vanishes.
    """
    table = _entry(_FENCE, b"S" + _long_string(name.encode()))
    flags = HEADERS | 0x1000 | (EXPIRATION if expires else 0)
    return _CONTENT.pack(60, 0, 0, flags) + _long_string(table) + b"\x02" + (b"\x010" if expires else b"")


def read_fence(header: bytes) -> str | None:
    """The name of a fence; None for every other message."""
    if _FENCE not in header or (entry := find(header, _FENCE)) is None:
        return None
    return header[entry.value + 4 : entry.end].decode()
