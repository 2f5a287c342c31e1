"""Who has to fix a missing key is told what was found in its place."""

import gzip

import pytest

from partymq.amqp.frames import body_frames
from partymq.core.spec import KeyFrom, KeySpec
from partymq.message.key_missing import LOOKED_AT, why_missing
from partymq.message.key_reader import key_reader
from support.field_tables import Field, content_header, counted, short, table


def said(source: KeyFrom, header: bytes = content_header({}), payload: bytes = b"") -> str:
    spec, body = KeySpec(source=source, name="id"), body_frames(payload, 1, 4096)
    assert key_reader(spec)(header, body, b"\x00\x00") is None
    return why_missing(spec, header, body)


def with_rows(*rows: Field) -> bytes:
    return content_header({"headers": table(rows)})


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (content_header({}), "there are no headers"),
        (with_rows(Field(b"Id", "S", counted(b"x"))), "no header of that name"),
        (with_rows(Field(b"id", "S", counted(b""))), "empty, or of a type that is no key"),
        (with_rows(Field(b"id", "T", bytes(8))), "empty, or of a type that is no key"),
        (content_header({"headers": counted(b"\x02id")}), "cannot be read"),
    ],
)
def test_headers(header: bytes, why: str) -> None:
    assert why in said(KeyFrom.HEADER, header)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "the body is empty"),
        (b"id=5", "the body is no JSON"),
        (b'{"id":NaN}', "NaN and Infinity are no numbers"),
        (b'{"\xc3\xa4":"\xc3\xa4","id":-Infinity}', "NaN and Infinity are no numbers"),
        (gzip.compress(b'{"id":5}', mtime=0), "compressed by gzip"),
        (b'{"ID":5}', "nothing at that place"),
        (b'\xef\xbb\xbf{"id":null}', "nothing at that place"),
        (b"x" * LOOKED_AT, "larger than"),
    ],
)
def test_bodies(payload: bytes, why: str) -> None:
    assert why in said(KeyFrom.BODY, payload=payload)


def test_encoded_bodies() -> None:
    found = said(KeyFrom.BODY, content_header({"content_encoding": short(b"gzip")}), gzip.compress(b"{}", mtime=0))
    assert found == "the body is encoded (content-encoding gzip), and is not decoded here"
    assert "nothing at that place" in said(KeyFrom.BODY, content_header({"content_encoding": short(b"UTF-8")}), b"{}")


def test_other_places() -> None:
    assert "routing key is empty" in said(KeyFrom.ROUTING_KEY)
    assert "property is not set" in why_missing(KeySpec(source=KeyFrom.PROPERTY, name="type"), content_header({}), b"")
