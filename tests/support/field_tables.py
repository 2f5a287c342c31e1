"""Content headers of any kind for tests, written from the specification and not with the code under test."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import strategies as st
from pamqp.header import ContentHeader

FIXED = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "l": 8, "L": 8, "f": 4, "d": 8, "D": 5, "V": 0}
PROPERTIES = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "message_type": 5,
    "user_id": 4,
    "app_id": 3,
    "cluster_id": 2,
}
"""Bits of the property flags, by pamqp's names, in the order of the properties."""


@dataclass(frozen=True, slots=True)
class Field:
    """An entry of a table: its name, its type, and its value as it stands on the wire."""

    name: bytes
    kind: str
    raw: bytes

    def __bytes__(self) -> bytes:
        return bytes((len(self.name),)) + self.name + self.kind.encode() + self.raw


def counted(data: bytes) -> bytes:
    """Bytes with their length in four bytes before them."""
    return struct.pack(">I", len(data)) + data


def short(text: bytes) -> bytes:
    """A short string."""
    return bytes((len(text),)) + text


def table(fields: Iterable[Field]) -> bytes:
    """A field table with its length."""
    return counted(b"".join(bytes(field) for field in fields))


def content_header(properties: dict[str, bytes], body_size: int = 0) -> bytes:
    """A content header's payload out of encoded properties."""
    flags = sum(1 << PROPERTIES[name] for name in properties)
    ordered = (properties[name] for name in PROPERTIES if name in properties)
    return struct.pack(">HHQH", 60, 0, body_size, flags) + b"".join(ordered)


def decoded(payload: bytes) -> dict[str, object]:
    """What pamqp makes of a content header's payload."""
    header = ContentHeader()
    header.unmarshal(payload)
    flags = int.from_bytes(payload[12:14], "big")
    return {name: value for name, value in header.properties if flags & 1 << PROPERTIES[name]}


def _harmless(name: bytes) -> bool:
    """Hypothesis draws constants of the code under test, too; what is treated there has tests of its own."""
    return len(name) < 60 and not name.startswith(b"x-") and name not in (b"CC", b"BCC")


names = st.text(min_size=1, max_size=20).map(str.encode).filter(_harmless)
_texts = st.text(max_size=30).map(str.encode).filter(lambda text: not text.startswith(b"amq.rabbitmq."))
_fixed = st.sampled_from(sorted(FIXED)).flatmap(
    lambda kind: st.binary(min_size=FIXED[kind], max_size=FIXED[kind]).map(lambda raw: (kind, raw))
)
_timestamps = st.integers(0, 0xFFFFFFFF).map(lambda seconds: ("T", struct.pack(">Q", seconds)))
_strings = _texts.map(lambda text: ("S", counted(text)))
_byte_arrays = st.binary(max_size=30).map(lambda data: ("x", counted(data)))
values = st.recursive(
    _fixed | _timestamps | _strings | _byte_arrays,
    lambda inner: (
        st.lists(inner, max_size=4).map(
            lambda items: ("A", counted(b"".join(kind.encode() + raw for kind, raw in items)))
        )
        | st.lists(st.tuples(names, inner), max_size=4).map(
            lambda items: ("F", table(Field(name, kind, raw) for name, (kind, raw) in items))
        )
    ),
    max_leaves=8,
)
fields = st.builds(lambda name, value: Field(name, *value), names, values)
tables = st.lists(fields, max_size=8)

_short_strings = _texts.map(short)
_OTHERS: dict[str, st.SearchStrategy[bytes]] = {
    "delivery_mode": st.sampled_from([b"\x01", b"\x02"]),
    "priority": st.integers(0, 255).map(lambda priority: bytes((priority,))),
    "timestamp": st.integers(0, 0xFFFFFFFF).map(lambda seconds: struct.pack(">Q", seconds)),
}
properties_but_headers = st.fixed_dictionaries(
    {}, optional={name: _OTHERS.get(name, _short_strings) for name in PROPERTIES if name != "headers"}
)
