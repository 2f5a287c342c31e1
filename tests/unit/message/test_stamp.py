"""Stamping changes nothing but what would break a promise; a stamp is read back whatever a broker does to the table."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import encode
from pamqp.common import FieldTable
from pamqp.header import ContentHeader

from partymq.amqp.frames import marker_header, plain_header
from partymq.message import tables
from partymq.message.rewrite import bare, passable
from partymq.message.stamp import Stamp, Stamper, fence_header, read_fence, read_stamp
from support.field_tables import (
    PROPERTIES,
    Field,
    content_header,
    counted,
    decoded,
    properties_but_headers,
    short,
    table,
)
from support.field_tables import tables as random_tables

ORIGIN = b"\x09amq.topic\x06orders"
PLACES = [
    Field(b"x-partymq-exchange", "S", counted(b"amq.topic")),
    Field(b"x-partymq-routing-key", "S", counted(b"orders")),
]
MOVED = {"expiration", "user_id", "priority"}
harmless = properties_but_headers.map(
    lambda properties: {name: value for name, value in properties.items() if name not in MOVED}
)


def stamp_fields(partition: int, epoch: int, seq: int) -> list[Field]:
    return [
        Field(b"x-partymq-partition", "I", struct.pack(">i", partition)),
        Field(b"x-partymq-epoch", "l", struct.pack(">q", epoch)),
        Field(b"x-partymq-seq", "l", struct.pack(">q", seq)),
    ]


def stamped(header: bytes, partition: int = 3, epoch: int = 7, seq: int = 11, origin: bytes = ORIGIN) -> bytes:
    return Stamper(partition, epoch).stamp(header, seq, origin)


def headers_of(header: bytes) -> list[tuple[bytes, bytes]]:
    """The entries of the headers table, in order: names, and types with values as they stand on the wire."""
    place = tables.find_property(header, tables.HEADERS)
    assert place is not None
    found = tables.entries(header, place.start, place.stop)
    return [(header[e.start + 1 : e.kind_at], header[e.kind_at : e.stop]) for e in found]


def test_a_stamp_has_these_bytes() -> None:
    """The layout is read by clients: it is frozen."""
    assert stamped(plain_header(5)) == (
        b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x30\x00"
        b"\x00\x00\x00\x8b"
        b"\x13x-partymq-partitionI\x00\x00\x00\x03"
        b"\x0fx-partymq-epochl\x00\x00\x00\x00\x00\x00\x00\x07"
        b"\x0dx-partymq-seql\x00\x00\x00\x00\x00\x00\x00\x0b"
        b"\x12x-partymq-exchangeS\x00\x00\x00\x09amq.topic"
        b"\x15x-partymq-routing-keyS\x00\x00\x00\x06orders"
        b"\x02"
    )


@given(harmless, random_tables | st.none(), st.integers(0, 2**40))
def test_everything_else_stays_byte_for_byte(others: dict[str, bytes], rows: list[Field] | None, size: int) -> None:
    before = others if rows is None else others | {"headers": table(rows)}
    after = others | {"headers": table([*stamp_fields(3, 7, 11), *PLACES, *(rows or [])])}
    assert stamped(content_header(before, size)) == content_header(after, size)


@given(harmless, random_tables)
def test_a_stamp_is_read_back(others: dict[str, bytes], rows: list[Field]) -> None:
    header = content_header(others | {"headers": table(rows)})
    assert read_stamp(header) is None
    assert read_stamp(stamped(header, -1, 2**40, 2**50)) == Stamp(epoch=2**40, seq=2**50, partition=-1)


@given(st.permutations(range(6)))
def test_a_stamp_is_read_back_from_a_table_that_was_written_anew(order: list[int]) -> None:
    """The broker does that when it adds its own headers, such as x-death."""
    rows = [*stamp_fields(3, 7, 11), *PLACES, Field(b"x-delivery-count", "l", bytes(8))]
    header = content_header({"headers": table(rows[place] for place in order), "content_type": short(b"text/plain")})
    assert read_stamp(header) == Stamp(epoch=7, seq=11, partition=3)


@pytest.mark.parametrize("missing", [b"x-partymq-partition", b"x-partymq-epoch", b"x-partymq-seq"])
def test_a_part_of_a_stamp_is_none(missing: bytes) -> None:
    rows = [field for field in stamp_fields(3, 7, 11) if field.name != missing]
    assert read_stamp(content_header({"headers": table(rows)})) is None


def test_a_stamp_of_another_type_is_none() -> None:
    rows = [*stamp_fields(3, 7, 11)[:2], Field(b"x-partymq-seq", "S", counted(b"11"))]
    assert read_stamp(content_header({"headers": table(rows)})) is None


def test_stamps_order_by_epoch_and_then_by_number() -> None:
    first = Stamp(epoch=1, seq=9, partition=3)
    assert first < first._replace(epoch=2, seq=1) < first._replace(epoch=2, seq=10)


@given(harmless, random_tables, st.data())
def test_nobody_forges_a_stamp_or_a_fence(others: dict[str, bytes], rows: list[Field], data: st.DataObject) -> None:
    forged = [
        *stamp_fields(99, 99, 99),
        Field(b"x-partymq-fence", "S", counted(b"1.1")),
        Field(b"x-partymq-x", "V", b""),
    ]
    mixed = data.draw(st.permutations([*rows, *forged]))
    kept = [row for row in mixed if row in rows]
    header = stamped(content_header(others | {"headers": table(mixed)}))
    assert header == stamped(content_header(others | {"headers": table(kept)}))
    assert read_fence(header) is None


def test_the_origin_may_change_from_message_to_message() -> None:
    stamper = Stamper(3, 7)
    origins = [b"\x00\x00", ORIGIN, b"\x00\x06orders", ORIGIN, b"\x01e" + short(b"r" * 255)]
    for origin in origins:
        assert stamper.stamp(plain_header(0), 1, origin) == stamped(plain_header(0), seq=1, origin=origin)
    headers = decoded(stamped(plain_header(0), origin=origins[-1]))["headers"]
    assert isinstance(headers, dict)
    assert headers["x-partymq-exchange"] == "e"
    assert headers["x-partymq-routing-key"] == "r" * 255


@given(properties_but_headers, random_tables | st.none())
def test_what_would_break_a_promise_becomes_a_header(others: dict[str, bytes], rows: list[Field] | None) -> None:
    """A time to live that starts anew, a user-id that the broker refuses, a priority that overtakes."""
    moved = []
    if "priority" in others:
        moved.append((b"x-partymq-priority", b"B" + others["priority"]))
    if "expiration" in others:
        moved.append((b"x-partymq-expiration", b"S" + counted(others["expiration"][1:])))
    if "user_id" in others:
        moved.append((b"x-partymq-user-id", b"S" + counted(others["user_id"][1:])))
    header = stamped(content_header(others if rows is None else others | {"headers": table(rows)}))
    expected = [*stamp_fields(3, 7, 11), *PLACES, *(rows or [])]
    assert headers_of(header) == [(row.name, row.kind.encode() + row.raw) for row in expected] + moved
    kept = {1 << PROPERTIES[name]: value for name, value in others.items() if name not in MOVED}
    found = {flag: header[start:stop] for flag, start, stop in tables.properties(header) if flag != tables.HEADERS}
    assert found == kept


@pytest.mark.parametrize(("name", "renamed"), [(b"CC", b"x-partymq-cc"), (b"BCC", b"x-partymq-bcc")])
@pytest.mark.parametrize("kind", ["A", "S"])
def test_copies_are_not_sent_again(name: bytes, renamed: bytes, kind: str) -> None:
    other = Field(b"note", "S", counted(b"\x02CC and \x03BCC"))
    header = stamped(content_header({"headers": table([other, Field(name, kind, counted(b"S" + counted(b"q")))])}))
    assert headers_of(header)[5:] == [
        (b"note", b"S" + other.raw),
        (renamed, kind.encode() + counted(b"S" + counted(b"q"))),
    ]


REQUESTER = short(b"amq.rabbitmq.reply-to")


@given(properties_but_headers, random_tables | st.none())
def test_the_address_that_only_a_requester_may_write_becomes_a_header(
    others: dict[str, bytes], rows: list[Field] | None
) -> None:
    properties = others if rows is None else others | {"headers": table(rows)}
    without = {name: value for name, value in properties.items() if name != "reply_to"}
    header = stamped(content_header(properties | {"reply_to": REQUESTER}))
    assert tables.find_property(header, tables.REPLY_TO) is None
    rest = stamped(content_header(without))
    moved = (b"x-partymq-reply-to", b"S" + counted(REQUESTER[1:]))
    assert sorted(headers_of(header)) == sorted([*headers_of(rest), moved])


@pytest.mark.parametrize(
    "address", [b"amq.rabbitmq.reply-to.g1h2AA5yZXBseUA=.AAA=", b"amq.rabbitmq.reply-t", b"Amq.rabbitmq.reply-to", b""]
)
def test_any_other_address_to_reply_to_stays(address: bytes) -> None:
    note = Field(b"note", "S", counted(REQUESTER))
    header = stamped(content_header({"reply_to": short(address), "headers": table([note])}))
    place = tables.find_property(header, tables.REPLY_TO)
    assert place is not None
    assert header[place.start : place.stop] == short(address)
    assert headers_of(header)[5:] == [(note.name, b"S" + note.raw)]


@given(properties_but_headers, random_tables)
def test_what_a_client_puts_into_a_queue_of_ours_is_passable_and_keeps_its_stamp(
    others: dict[str, bytes], rows: list[Field]
) -> None:
    foreign = others | {"reply_to": REQUESTER, "user_id": short(b"somebody")}
    copied = [*stamp_fields(3, 7, 11), *rows, Field(b"CC", "S", counted(b"q"))]
    header = passable(content_header(foreign | {"headers": table(copied)}))
    assert read_stamp(header) == Stamp(epoch=7, seq=11, partition=3)
    found = {flag for flag, _, _ in tables.properties(header)}
    assert not found & {tables.REPLY_TO, tables.USER_ID, tables.EXPIRATION, tables.PRIORITY}
    assert b"CC" not in {name for name, _ in headers_of(header)}
    assert headers_of(passable(header)) == headers_of(header)


@given(harmless, random_tables)
def test_what_we_have_stamped_is_passed_on_as_it_is(others: dict[str, bytes], rows: list[Field]) -> None:
    header = stamped(content_header(others | {"headers": table(rows)}))
    assert headers_of(passable(header)) == headers_of(header)


def test_a_message_that_comes_from_another_group_gets_a_stamp_of_this_one() -> None:
    once = stamped(content_header({"headers": table([Field(b"a", "V", b"")]), "expiration": short(b"60000")}))
    twice = stamped(once, 5, 8, 1, b"\x00\x01q")
    rows = [*stamp_fields(5, 8, 1), Field(b"x-partymq-exchange", "S", counted(b""))]
    rows += [Field(b"x-partymq-routing-key", "S", counted(b"q")), Field(b"a", "V", b"")]
    assert twice == content_header({"headers": table(rows)})


@pytest.mark.parametrize("expires", [True, False])
def test_a_fence_is_read_back(expires: bool) -> None:
    assert read_fence(fence_header("7.3.1", expires=expires)) == "7.3.1"
    assert read_stamp(fence_header("7.3.1", expires=expires)) is None


def test_what_is_no_fence_is_none() -> None:
    assert read_fence(plain_header(0)) is None
    assert read_fence(marker_header({"x-fence": "x-partymq-fence"}, expires=False)) is None
    assert read_fence(content_header({"headers": table([Field(b"x-partymq-fence", "V", b"")])})) is None
    with_body = content_header({"headers": table([Field(b"x-partymq-fence", "S", counted(b"1"))])}, body_size=1)
    assert read_fence(with_body) is None


def test_pamqp_reads_what_was_stamped() -> None:
    headers: FieldTable = {"text": "größe", "number": 5, "nested": {"list": [1, "two", None]}}
    header = ContentHeader(0, 3)
    payload = content_header({"content_type": short(b"text/plain"), "headers": encode.field_table(headers)}, 3)
    header.unmarshal(stamped(payload))
    assert header.body_size == 3
    assert header.properties.content_type == "text/plain"
    assert header.properties.headers == {
        "x-partymq-partition": 3,
        "x-partymq-epoch": 7,
        "x-partymq-seq": 11,
        "x-partymq-exchange": "amq.topic",
        "x-partymq-routing-key": "orders",
        **headers,
    }


@given(properties_but_headers, random_tables)
def test_a_bare_header_is_never_larger(others: dict[str, bytes], rows: list[Field]) -> None:
    added = [
        Field(b"x-delivery-count", "l", bytes(8)),
        Field(b"x-partymq-seq", "l", bytes(8)),
        Field(b"CC", "A", counted(b"")),
    ]
    header = content_header(others | {"headers": table([*added, *rows])})
    kept = bare(header)
    assert len(kept) < len(header)
    foreign = [f for f in rows if f.name not in {b"CC", b"BCC"}]
    assert headers_of(kept) == [(f.name, f.kind.encode() + f.raw) for f in foreign]
    assert decoded(kept).keys() & {"expiration", "user_id", "priority"} == set()
