"""Whatever stands in a content header or a body, each reader of it gives a value or says that it is malformed."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.amqp.frames import body_frames, plain_header
from partymq.core.names import Names
from partymq.core.spec import GroupId, KeyFrom, KeySpec
from partymq.message.dead_letter import describe, is_fence, revived
from partymq.message.key_missing import why_missing
from partymq.message.key_reader import key_reader
from partymq.message.rewrite import bare, passable, rewrite
from partymq.message.set_aside import message_id, set_aside, why_refused
from partymq.message.stamp import Stamper, read_fence, read_stamp
from partymq.message.tables import MalformedHeaderError, returns_of

pytestmark = pytest.mark.fuzz

NAMES = Names(GroupId(namespace="shop", name="orders"))
ORIGIN = b"\x02ex\x03key"
WORDS = [b"x-death", b"x-partymq-epoch", b"x-partymq-seq", b"x-partymq-partition", b"x-partymq-fence", b"CC", b"BCC"]
WORDS += [b"x-delivery-count", b"x-partymq-refused", b"partitionKey", b"time", b"queue", b"reason", b"a"]
BYTES = st.binary(max_size=12)


def counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@st.composite
def rows(draw: st.DrawFn, depth: int = 3) -> bytes:
    """Entries of a table, well formed or nearly so."""
    found = b""
    for _ in range(draw(st.integers(0, 5))):
        name, kind = draw(st.sampled_from(WORDS)), draw(st.sampled_from(b"SxAFIlLtbBsuifdDTV?\x00"))
        value = draw(BYTES)
        if kind in b"Sx":
            value = counted(value)
        elif kind == ord("F") and depth:
            value = counted(draw(rows(depth - 1)))
        elif kind == ord("A"):
            value = counted(draw(st.sampled_from([b"", b"F" + counted(draw(rows(0))), value])))
        elif kind in b"IilLdTf":
            value = draw(st.binary(min_size=8, max_size=8))[: 4 if kind in b"Iif" else 8]
        found += bytes((len(name),)) + name + bytes((kind,)) + value
    return found


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A content header's payload, of which only the length is certain."""
    flags = draw(st.sampled_from([0x2000, 0x3000, 0xFFFC, 0x2010, 0xA100]) | st.integers(0, 0xFFFF))
    table = counted(draw(rows())) if flags & 0x2000 else b""
    before = b"\x01a" * ((flags >> 15 & 1) + (flags >> 14 & 1))
    header = plain_header(draw(st.integers(0, 40)))[:12] + flags.to_bytes(2, "big") + before + table + draw(BYTES)
    cut = draw(st.integers(14, max(14, len(header)) + 20))
    return header[:cut]


KEYS = [
    KeySpec(),
    KeySpec(source=KeyFrom.PROPERTY, name="message_id"),
    KeySpec(source=KeyFrom.ROUTING_KEY, name=""),
    KeySpec(source=KeyFrom.BODY, name="/a/0"),
    KeySpec(source=KeyFrom.BODY, name="a"),
]
READERS: list[Callable[[bytes], object]] = [
    read_stamp,
    read_fence,
    returns_of,
    rewrite,
    bare,
    passable,
    message_id,
    why_refused,
    lambda header: Stamper(3, 7).stamp(header, 11, ORIGIN),
    lambda header: list(set_aside(header, "why", ORIGIN)),
]


@given(headers(), st.sampled_from(READERS))
def test_whatever_a_header_is_it_is_read_or_malformed(header: bytes, read: Callable[[bytes], object]) -> None:
    with suppress(MalformedHeaderError):
        read(header)


@given(headers(), st.binary(max_size=60), st.sampled_from(KEYS))
def test_whatever_a_message_is_it_has_a_key_or_none(header: bytes, body: bytes, key: KeySpec) -> None:
    frames = body_frames(body)
    found = key_reader(key)(header, frames, ORIGIN)
    assert found is None or isinstance(found, bytes)
    assert why_missing(key, header, frames).isprintable()


@given(headers(), st.binary(max_size=20))
def test_whatever_is_dead_is_shown_and_revived(header: bytes, body: bytes) -> None:
    found = describe(NAMES, header, body_frames(body), key_reader(KeySpec()))
    for shown in (found.id, found.reason, found.member or "", found.exchange, found.routing_key, found.why):
        assert shown.isprintable()
        assert len(shown) <= 310
    assert len(revived(header, "guest")) >= 14
    is_fence(header)
