"""The same value is the same key wherever it stands, and what cannot be read is a missing key."""

import struct
from codecs import BOM_UTF8

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.amqp.frames import body_frames
from partymq.core.keys import text
from partymq.core.schema import KEY_PROPERTIES
from partymq.core.spec import KeyFrom, KeySpec
from partymq.errors import InvalidSpecError
from partymq.message.key_reader import KeyReader, key_reader
from partymq.message.tables import FLAGS_AT, MalformedHeaderError, find_header, value_at
from support.field_tables import Field, content_header, counted, short, table

ORIGIN = b"\x09amq.topic\x09orders.eu"


def reader(source: KeyFrom, name: str = "key") -> KeyReader:
    return key_reader(KeySpec(source=source, name=name))


def in_header(kind: str, raw: bytes) -> bytes | None:
    rows = [Field(b"before", "I", bytes(4)), Field(b"key", kind, raw), Field(b"key", "S", counted(b"second"))]
    header = content_header({"content_type": short(b"text/plain"), "headers": table(rows)})
    return reader(KeyFrom.HEADER)(header, b"", ORIGIN)


def in_body(payload: bytes, name: str = "key", frame_max: int = 4096) -> bytes | None:
    return reader(KeyFrom.BODY, name)(content_header({}, len(payload)), body_frames(payload, 1, frame_max), ORIGIN)


@pytest.mark.parametrize(
    ("kind", "raw", "key"),
    [
        ("S", counted("größe".encode()), "größe".encode()),
        ("S", counted(b"\xff"), b"\xff"),
        ("x", counted(b"\x00\xff"), b"\x00\xff"),
        ("s", struct.pack(">h", -7), b"-7"),
        ("l", struct.pack(">q", 2**62), b"%d" % 2**62),
        ("d", struct.pack(">d", 1.0), b"1"),
        ("f", struct.pack(">f", 0.5), b"0.5"),
        ("D", b"\x02" + struct.pack(">i", 150), b"1.5"),
        ("t", b"\x01", b"true"),
        ("S", counted(b""), None),
        ("d", struct.pack(">d", float("nan")), None),
        ("T", bytes(8), None),
        ("V", b"", None),
        ("F", counted(b""), None),
        ("A", counted(b""), None),
    ],
)
def test_a_header_is_a_key_by_its_value(kind: str, raw: bytes, key: bytes | None) -> None:
    assert in_header(kind, raw) == key


def _walked(header: bytes) -> bytes | None:
    """The key as it is found wherever it stands."""
    try:
        at = find_header(header, b"key")
    except MalformedHeaderError:
        return None
    return text(value_at(header, at)) if at >= 0 else None


@pytest.mark.parametrize("before", [{}, {"content_type": short(b"a/b")}, {"content_encoding": short(b"gzip")}])
def test_the_first_header_is_read_as_one_that_stands_elsewhere(before: dict[str, bytes]) -> None:
    rows = [Field(b"key", "S", counted(b"first")), Field(b"key", "S", counted(b"second"))]
    header = content_header({**before, "headers": table(rows), "app_id": short(b"me")})
    read = reader(KeyFrom.HEADER)
    assert read(header, b"", ORIGIN) == b"first"
    for at in range(FLAGS_AT, len(header)):
        assert read(header[:at], b"", ORIGIN) == _walked(header[:at])
        for byte in (0, 1, header[at] ^ 0x20, 0x80, 0xFF):
            spoilt = header[:at] + bytes((byte,)) + header[at + 1 :]
            assert read(spoilt, b"", ORIGIN) == _walked(spoilt), (at, byte)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_number_is_one_key_in_a_header_and_in_a_body(number: int) -> None:
    key = in_header("l", struct.pack(">q", number))
    assert key == in_body(orjson.dumps({"key": number})) == text(number)


@given(st.text())
def test_a_string_is_one_key_in_a_header_and_in_a_body(string: str) -> None:
    key = in_header("S", counted(string.encode()))
    assert key == in_body(orjson.dumps({"key": string})) == text(string)


@given(st.floats())
def test_a_float_is_one_key_in_a_header_and_in_a_body(number: float) -> None:
    assert in_header("d", struct.pack(">d", number)) == in_body(orjson.dumps({"key": number})) == text(number)


def test_a_message_without_the_header_has_no_key() -> None:
    read = reader(KeyFrom.HEADER)
    assert read(content_header({}), b"", ORIGIN) is None
    assert read(content_header({"headers": table([Field(b"other", "S", counted(b"\x03key"))])}), b"", ORIGIN) is None


@pytest.mark.parametrize("source", [KeyFrom.HEADER, KeyFrom.PROPERTY])
def test_a_malformed_header_has_no_key(source: KeyFrom) -> None:
    name = "key" if source is KeyFrom.HEADER else "app-id"
    malformed = content_header({"headers": counted(b"\x05x")[:-1] + b"\x03key", "app_id": b"\x09x"})
    assert reader(source, name)(malformed, b"", ORIGIN) is None


@pytest.mark.parametrize(
    ("name", "field", "raw", "key"),
    [
        ("message_id", "message_id", short(b"m-1"), b"m-1"),
        ("message-id", "message_id", short(b"m-1"), b"m-1"),
        ("correlation-id", "correlation_id", short(b"c"), b"c"),
        ("type", "message_type", short(b"t"), b"t"),
        ("app-id", "app_id", short(b"a"), b"a"),
        ("reply-to", "reply_to", short(b"r"), b"r"),
        ("content-type", "content_type", short(b"text/plain"), b"text/plain"),
        ("content_encoding", "content_encoding", short(b"gzip"), b"gzip"),
        ("user-id", "user_id", short(b"guest"), b"guest"),
        ("priority", "priority", b"\x00", b"0"),
        ("app-id", "app_id", short(b""), None),
        ("app-id", "message_type", short(b"t"), None),
    ],
)
def test_a_property_is_a_key(name: str, field: str, raw: bytes, key: bytes | None) -> None:
    others = {
        "content_type": short(b"text/plain"),
        "headers": table([Field(b"h", "S", counted(b"v"))]),
        "timestamp": bytes(8),
        "message_type": short(b"other"),
    }
    assert reader(KeyFrom.PROPERTY, name)(content_header(others | {field: raw}), b"", ORIGIN) == key


@pytest.mark.parametrize("name", KEY_PROPERTIES)
def test_every_property_that_a_spec_may_name_is_read(name: str) -> None:
    assert reader(KeyFrom.PROPERTY, name)(content_header({}), b"", ORIGIN) is None


@pytest.mark.parametrize(
    "name", ["timestamp", "headers", "Message-Id", "x", "expiration", "cluster_id", "delivery_mode"]
)
def test_a_property_that_cannot_be_a_key_is_refused_with_those_that_can(name: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"these are: app_id, .*correlation_id"):
        reader(KeyFrom.PROPERTY, name)


def test_the_routing_key_is_a_key() -> None:
    read = reader(KeyFrom.ROUTING_KEY)
    assert read(content_header({}), b"", ORIGIN) == b"orders.eu"
    assert read(content_header({}), b"", b"\x00\x01q") == b"q"
    assert read(content_header({}), b"", b"\x03abc\x00") is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("customer", None),
        ("id", b"7"),
        ("a/b", b"slash"),
        ("/id", b"7"),
        ("/customer/id", b"c-1"),
        ("/a~1b", b"slash"),
        ("/m~0n", b"tilde"),
        ("/~01", b"escaped"),
        ("/items/0/sku", b"first"),
        ("/items/1/sku", b"1.5"),
        ("/items/2/sku", None),
        ("/items/-/sku", None),
        ("/items/01/sku", None),
        ("/items/x", None),
        ("/id/deeper", None),
        ("/", b"empty name"),
        ("/null", None),
        ("/yes", b"true"),
        ("/none", None),
    ],
)
def test_a_field_of_the_body_is_a_key(name: str, key: bytes | None) -> None:
    body = {
        "id": 7,
        "customer": {"id": "c-1"},
        "a/b": "slash",
        "m~n": "tilde",
        "~1": "escaped",
        "items": [{"sku": "first"}, {"sku": 1.5}],
        "": "empty name",
        "null": None,
        "yes": True,
    }
    assert in_body(orjson.dumps(body), name) == key


@pytest.mark.parametrize(
    "payload", [b"", b"not json", b'{"key": "cut', b"[1, 2]", b'"key"', b"NaN", b'{"key": "\xff"}']
)
def test_a_body_that_cannot_be_read_has_no_key(payload: bytes) -> None:
    assert in_body(payload) is None


def test_a_body_in_many_frames_is_read_as_one() -> None:
    assert in_body(orjson.dumps({"padding": "x" * 500, "key": "found"}), frame_max=40) == b"found"


@pytest.mark.parametrize("pointer", ["/a~", "/a~2b", "/~"])
def test_a_pointer_with_a_wrong_escape_is_refused(pointer: str) -> None:
    with pytest.raises(InvalidSpecError, match="no JSON pointer"):
        reader(KeyFrom.BODY, pointer)


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_header_that_no_message_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpecError, match="1 to 255 bytes"):
        reader(KeyFrom.HEADER, name)


@given(st.integers() | st.integers(2**63, 2**400).map(lambda number: -number) | st.integers(2**63, 10**400))
def test_an_integer_in_a_body_keeps_all_of_its_digits(number: int) -> None:
    payload = b'{"other":1e5,"key":%d}' % number
    assert in_body(payload) == in_body(BOM_UTF8 + payload) == b"%d" % number


@pytest.mark.parametrize("digits", [20, 309, 400, 5000, 20_000])
def test_so_it_does_whatever_its_size(digits: int) -> None:
    assert in_body(b'{"key":-' + b"7" * digits + b"}") == b"-" + b"7" * digits


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (b"18446744073709551616", b"18446744073709551616"),
        (b"18446744073709551617", b"18446744073709551617"),
        (b"9223372036854775807", b"9223372036854775807"),
        (b"-9223372036854775809", b"-9223372036854775809"),
        (b"18446744073709551617.0", b"18446744073709551616"),
        (b"1e23", b"99999999999999991611392"),
        (b"1e22", b"10000000000000000000000"),
        (b"0.1000000000000000055511151231257827", b"0.1"),
        (b"1e-400", b"0"),
        (b"1e400", None),
        (b"-1e400", None),
    ],
)
def test_a_number_with_a_point_or_an_exponent_is_a_double(written: bytes, key: bytes | None) -> None:
    assert in_body(b'{"key":' + written + b"}") == key


def test_a_number_that_is_no_double_elsewhere_takes_no_key_away() -> None:
    assert in_body(b'{"other":1e400,"key":"k"}') == b"k"
    assert in_body(b'{"other":[NaN],"key":18446744073709551617}') is None, "this is no JSON"


def test_a_byte_order_mark_is_no_part_of_a_body() -> None:
    assert in_body(BOM_UTF8 + b'{"key":"k"}') == b"k"
    assert in_body(BOM_UTF8 + BOM_UTF8 + b'{"key":"k"}') is None
    assert in_body(BOM_UTF8 + b'{"key":1e400}') is None


def test_a_body_too_deep_for_a_second_look_has_no_key() -> None:
    deep = b"[" * 1000 + b"]" * 1000
    assert in_body(b'{"other":' + deep + b',"key":' + b"9" * 30 + b"}") in {None, b"9" * 30}
