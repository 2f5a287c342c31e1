"""Collected messages stand in the order of their stamps; only what is the same message twice is there once."""

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from partymq.message.stamp import Stamp, Stamper, read_stamp
from partymq.router.broker.stamp_order import NEWEST, Message, in_order
from support.field_tables import Field, content_header, counted, fields, properties_but_headers, table

PARTITIONS = 4
EPOCH = 7
ORIGIN = b"\x00\x05orders"


def message(
    stamp: Stamp | None,
    text: bytes = b"",
    channel: int = 1,
    rows: Iterable[Field] = (),
    properties: Mapping[str, bytes] = MappingProxyType({}),
) -> Message:
    header = content_header({"headers": table(rows), **properties}, len(text))
    if stamp is not None:
        header = Stamper(stamp.partition, stamp.epoch).stamp(header, stamp.seq, ORIGIN)
    body = struct.pack(">BHI", 3, channel, len(text)) + text + b"\xce" if text else b""
    return read_stamp(header), header, body


def ordered(*messages: Message) -> list[Message]:
    return in_order(messages, partitions=PARTITIONS, newest=EPOCH)


def at(seq: int, partition: int = 1, epoch: int = EPOCH) -> Stamp:
    return Stamp(epoch=epoch, seq=seq, partition=partition)


stamps = st.builds(at, st.integers(0, 5), st.integers(-1, PARTITIONS - 1), st.integers(1, EPOCH))
messages = st.builds(message, st.none() | stamps, st.sampled_from([b"", b"a", b"b"]), st.integers(1, 2))


@given(st.lists(messages, max_size=40))
def test_each_message_is_there_once_in_the_order_of_stamps(given: list[Message]) -> None:
    found = ordered(*given)
    strays, rest = [m for m in found if m[0] is None], [m for m in found if m[0] is not None]
    assert found == strays + rest
    assert strays == [m for m in given if m[0] is None], "what has no stamp is never a repeat"
    assert [m[0] for m in rest] == sorted(m[0] for m in rest if m[0] is not None)
    distinct = {(stamp, header, body[7:]): None for stamp, header, body in given if stamp is not None}
    assert {(stamp, header, body[7:]) for stamp, header, body in rest} == distinct.keys()
    assert len(rest) == len(distinct)


@given(stamps, properties_but_headers, st.lists(fields, max_size=4, unique_by=lambda field: field.name))
def test_a_repeat_is_one_however_the_broker_writes_it(
    stamp: Stamp, properties: dict[str, bytes], rows: list[Field]
) -> None:
    one = message(stamp, b"x", 1, rows, properties)
    other = message(stamp, b"x", 9, [*rows[::-1], Field(b"x-delivery-count", "l", bytes(8))], properties)
    assert ordered(one, other) == [one]


def test_a_message_of_a_client_with_a_copied_stamp_is_another_message() -> None:
    own = message(at(3), b"own")
    copies = [message(at(3), b"copy %d" % n) for n in range(120)]
    assert ordered(*copies[:60], own, *copies[60:], own) == [*copies[:60], own, *copies[60:]]


def test_so_is_one_that_differs_in_a_header_or_a_property_only() -> None:
    one = message(at(3), b"x")
    more = [
        message(at(3), b"x", rows=(Field(b"x-retry", "I", bytes(4)),)),
        message(at(3), b"x", rows=(Field(b"x-retry", "I", b"\0\0\0\1"),)),
        message(at(3), b"x", properties={"message_id": b"\x01m"}),
        message(at(3), b"x", properties={"timestamp": bytes(8)}),
    ]
    assert ordered(one, *more) == [one, *more]


def test_the_broker_s_clock_makes_no_other_message() -> None:
    first, second = (
        message(at(3), b"x", 1, [Field(b"timestamp_in_ms", "l", bytes(7) + n)], {"timestamp": bytes(7) + n})
        for n in (b"\1", b"\2")
    )
    assert ordered(first, second) == [first]


def test_a_stamp_that_no_session_has_set_is_none() -> None:
    impossible = [at(1, PARTITIONS), at(1, -2), at(1, epoch=EPOCH + 1), at(1, epoch=0), at(1, epoch=2**62)]
    strays = [message(stamp, b"x") for stamp in impossible]
    kept = message(at(2), b"x")
    assert ordered(*strays, kept) == [*((None, header, body) for _, header, body in strays), kept]
    found = in_order([strays[2], strays[4]], partitions=PARTITIONS, newest=NEWEST)
    assert [stamp for stamp, _, _ in found] == [None, at(1, epoch=EPOCH + 1)]


def test_text_in_a_value_is_no_header() -> None:
    rows = (Field(b"note", "S", counted(b"\x10x-delivery-count")),)
    plain, noted = message(at(3), b"x"), message(at(3), b"x", rows=rows)
    assert ordered(plain, noted) == [plain, noted]
