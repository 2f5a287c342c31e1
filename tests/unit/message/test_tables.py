"""A table that is walked wrongly hands a message to the wrong member, or stops the group."""

import contextlib
import struct
from decimal import Decimal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pamqp import decode

from partymq.message import tables
from partymq.message.tables import MalformedHeaderError
from support.field_tables import (
    PROPERTIES,
    Field,
    content_header,
    counted,
    fields,
    names,
    properties_but_headers,
    table,
)
from support.field_tables import tables as random_tables


def entries(header: bytes) -> list[tuple[bytes, str, bytes]]:
    """What the walk finds: names, types, and values as they stand on the wire."""
    place = tables.find_property(header, tables.HEADERS)
    if place is None:
        return []
    assert place.start == tables.table_at(header)
    return [
        (header[e.start + 1 : e.kind_at], chr(header[e.kind_at]), header[e.kind_at + 1 : e.stop])
        for e in tables.entries(header, place.start, place.stop)
    ]


@given(random_tables, properties_but_headers)
def test_the_walk_finds_every_entry_and_nothing_else(rows: list[Field], others: dict[str, bytes]) -> None:
    header = content_header(others | {"headers": table(rows)})
    assert entries(header) == [(row.name, row.kind, row.raw) for row in rows]


@given(st.lists(fields, max_size=8, unique_by=lambda field: field.name))
def test_pamqp_decodes_what_the_walk_finds(rows: list[Field]) -> None:
    header = content_header({"headers": table(rows)})
    found = {name.decode(): decode.embedded_value(kind.encode() + raw)[1] for name, kind, raw in entries(header)}
    assert repr(found) == repr(decode.field_table(header[14:])[1])  # repr: NaN is not equal to itself


@given(random_tables, properties_but_headers, names)
def test_a_header_is_found_by_its_name_alone(rows: list[Field], others: dict[str, bytes], name: bytes) -> None:
    header = content_header(others | {"headers": table(rows)})
    for row in rows:
        at = tables.find_header(header, row.name)
        first = next(other for other in rows if other.name == row.name)
        assert header[at : at + 1 + len(first.raw)] == first.kind.encode() + first.raw
    assume(name not in {row.name for row in rows})
    assert tables.find_header(header, name) == -1


def test_a_name_within_a_value_or_a_nested_table_is_not_a_header() -> None:
    inner = Field(b"key", "S", counted(b"inner"))
    rows = [
        Field(b"text", "S", counted(bytes(inner))),
        Field(b"nested", "F", table([inner])),
        Field(b"list", "A", counted(b"F" + table([inner]))),
    ]
    header = content_header({"headers": table(rows), "content_type": b"\x04\x03key", "app_id": b"\x04\x03key"})
    assert tables.find_header(header, b"key") == -1
    header = content_header({"headers": table([*rows, inner])})
    assert tables.value_at(header, tables.find_header(header, b"key")) == b"inner"


def test_a_message_without_headers_has_none() -> None:
    assert tables.find_header(content_header({"app_id": b"\x04\x03key"}), b"key") == -1
    assert tables.find_header(content_header({}), b"key") == -1


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        ("S", counted("größe".encode()), "größe".encode()),
        ("S", counted(b""), b""),
        ("x", counted(b"\xff\x00"), b"\xff\x00"),
        ("t", b"\x01", True),
        ("t", b"\x00", False),
        ("b", b"\xff", -1),
        ("B", b"\xff", 255),
        ("s", b"\xff\xfe", -2),
        ("u", b"\xff\xfe", 65534),
        ("I", b"\xff\xff\xff\xfd", -3),
        ("i", b"\xff\xff\xff\xfd", 4294967293),
        ("l", b"\xff" * 8, -1),
        ("L", b"\xff" * 8, -1),
        ("f", struct.pack(">f", 0.5), 0.5),
        ("d", struct.pack(">d", 0.1), 0.1),
        ("D", b"\x02" + struct.pack(">i", 12345), Decimal("123.45")),
        ("D", b"\xff" + struct.pack(">i", -1), Decimal("-1e-255")),
        ("T", bytes(8), None),
        ("V", b"", None),
        ("F", counted(b""), None),
        ("A", counted(b""), None),
    ],
)
def test_a_scalar_has_its_value(kind: str, raw: bytes, value: object) -> None:
    header = content_header({"headers": table([Field(b"before", "V", b""), Field(b"key", kind, raw)])})
    found = tables.value_at(header, tables.find_header(header, b"key"))
    assert found == value
    assert type(found) is type(value)


@given(properties_but_headers, random_tables)
def test_every_property_is_found_where_it_stands(others: dict[str, bytes], rows: list[Field]) -> None:
    all_of_them = others | {"headers": table(rows)}
    header = content_header(all_of_them)
    found = {flag: header[start:stop] for flag, start, stop in tables.properties(header)}
    assert found == {1 << PROPERTIES[name]: raw for name, raw in all_of_them.items()}
    for name, bit in PROPERTIES.items():
        place = tables.find_property(header, 1 << bit)
        assert (place and header[place.start : place.stop]) == all_of_them.get(name)


@given(properties_but_headers, random_tables, st.data())
def test_a_header_that_is_cut_off_is_malformed(
    others: dict[str, bytes], rows: list[Field], data: st.DataObject
) -> None:
    header = content_header(others | {"headers": table(rows)})
    cut = header[: data.draw(st.integers(0, len(header) - 1))]
    with pytest.raises(MalformedHeaderError):
        list(tables.properties(cut))


@given(random_tables.filter(bool), st.data())
def test_an_entry_that_reaches_beyond_its_table_is_malformed(rows: list[Field], data: st.DataObject) -> None:
    raw = b"".join(map(bytes, rows))
    ends = {len(b"".join(map(bytes, rows[:n]))) for n in range(len(rows))}
    size = data.draw(st.integers(1, len(raw) - 1).filter(lambda n: n not in ends) if len(raw) > 1 else st.nothing())
    header = content_header({"headers": counted(raw[:size]), "app_id": b"\xff" + b"x" * 255})
    with pytest.raises(MalformedHeaderError):
        entries(header)


@pytest.mark.parametrize("kind", ["U", "\x00", "Z"])
def test_a_type_that_rabbitmq_does_not_know_is_malformed(kind: str) -> None:
    header = content_header({"headers": table([Field(b"odd", kind, b"1234"), Field(b"key", "V", b"")])})
    with pytest.raises(MalformedHeaderError, match="unknown type"):
        tables.find_header(header, b"key")


def test_more_flags_than_properties_are_malformed() -> None:
    with pytest.raises(MalformedHeaderError, match="flags"):
        tables.flags_of(struct.pack(">HHQH", 60, 0, 0, 1))


@given(st.binary(max_size=80), st.integers(0, 0xFFFF))
@example(b"\x00\x00\x00\x05\x03key", 0x2000)
def test_no_bytes_do_worse_than_being_malformed(junk: bytes, flags: int) -> None:
    header = struct.pack(">HHQH", 60, 0, 0, flags) + junk
    for name in (b"key", junk[1:4], junk[5:8]):
        with contextlib.suppress(MalformedHeaderError):
            if (at := tables.find_header(header, name)) >= 0:
                tables.value_at(header, at)
    with contextlib.suppress(MalformedHeaderError):
        list(tables.properties(header))
    with contextlib.suppress(MalformedHeaderError):
        entries(header)
