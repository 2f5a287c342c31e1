"""A dead message is described whatever it is, and revived as it was published."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.amqp.frames import body_frames, plain_header, publish_frame
from partymq.core.names import SPREAD, Names
from partymq.core.spec import GroupId, KeyFrom, KeySpec
from partymq.message.dead_letter import describe, is_fence, revived, routing_key_of
from partymq.message.key_reader import key_reader
from partymq.message.stamp import Stamper
from partymq.message.tables import MalformedHeaderError, properties
from support.field_tables import Field, content_header, counted, decoded, properties_but_headers, short, table
from support.field_tables import tables as random_tables

NAMES = Names(GroupId(namespace="shop", name="orders"))
ORIGIN = b"\x09amq.topic\x09orders.eu"
KEY = Field(b"partitionKey", "S", counted(b"customer-1"))
ODD = Field(b"odd", "u", b"\x00\x01")


def death(queue: bytes = NAMES.inbox("pod-1").encode(), reason: bytes = b"rejected") -> list[Field]:
    """What RabbitMQ writes."""
    record = table(
        [
            Field(b"count", "l", struct.pack(">q", 2)),
            Field(b"reason", "S", counted(reason)),
            Field(b"queue", "S", counted(queue)),
            Field(b"time", "T", struct.pack(">Q", 1_700_000_000)),
            Field(b"exchange", "S", counted(b"")),
            Field(b"routing-keys", "A", counted(b"S" + counted(queue))),
        ]
    )
    return [
        Field(b"x-death", "A", counted(b"F" + record)),
        Field(b"x-first-death-exchange", "S", counted(b"")),
        Field(b"x-first-death-queue", "S", counted(queue)),
        Field(b"x-first-death-reason", "S", counted(reason)),
        Field(b"x-last-death-queue", "S", counted(queue)),
        Field(b"x-delivery-count", "l", bytes(8)),
    ]


def stamped(header: bytes, partition: int = 3) -> bytes:
    return Stamper(partition, 7).stamp(header, 11, ORIGIN)


def test_a_rejected_message_says_where_it_comes_from() -> None:
    header = stamped(content_header({"headers": table([*death(), ODD, KEY])}, 5))
    found = describe(NAMES, header, body_frames(b"hello"), key_reader(KeySpec()))
    assert (found.id, found.partition, found.key) == ("3:7:11", 3, b"customer-1")
    assert (found.reason, found.member, found.died_at) == ("rejected", "pod-1", 1_700_000_000)
    assert (found.exchange, found.routing_key, found.size) == ("amq.topic", "orders.eu", 5)


def test_a_key_is_read_from_where_the_message_was_first_published() -> None:
    read = key_reader(KeySpec(source=KeyFrom.ROUTING_KEY, name=""))
    assert describe(NAMES, stamped(content_header({})), b"", read).key == b"orders.eu"


@pytest.mark.parametrize(
    ("header", "reason"), [(stamped(content_header({}), SPREAD), "no-key"), (content_header({}), "unstamped")]
)
def test_what_no_consumer_rejected_says_why_it_is_there(header: bytes, reason: str) -> None:
    found = describe(NAMES, header, b"", key_reader(KeySpec()))
    assert (found.reason, found.member, found.key, found.died_at) == (reason, None, None, None)


@pytest.mark.parametrize("value", [b"S" + counted(b"x"), b"A" + counted(b""), b"A" + counted(b"I\x00\x00\x00\x01")])
def test_a_foreign_record_of_a_death_is_no_error(value: bytes) -> None:
    header = content_header({"headers": table([Field(b"x-death", chr(value[0]), value[1:])])})
    assert describe(NAMES, header, b"", key_reader(KeySpec())).reason == "unstamped"


@pytest.mark.fuzz
@given(properties_but_headers, random_tables)
def test_a_revived_message_is_as_it_was_published(others: dict[str, bytes], rows: list[Field]) -> None:
    kept = {name: value for name, value in others.items() if name not in {"expiration", "user_id"}}
    rows = [field for field in rows if field.name not in {b"CC", b"BCC"}]
    published = content_header(kept | {"headers": table([*rows, KEY])}, 9)
    expected = content_header(
        kept | {"headers": table([*rows, KEY, Field(b"x-replayed-exchange", "S", counted(b"amq.topic"))])}, 9
    )
    assert revived(stamped(published), "guest") == expected
    # Its first exchange is remembered also when it is replayed again.
    assert revived(stamped(expected), "guest") == expected


def test_the_traces_of_a_death_are_taken_out() -> None:
    header = stamped(content_header({"headers": table([*death(), ODD])}))
    added = Field(b"x-replayed-exchange", "S", counted(b"amq.topic"))
    assert revived(header, "guest") == content_header({"headers": table([ODD, added])})
    assert routing_key_of(header) == b"orders.eu"


def test_what_was_moved_comes_back_where_the_broker_takes_it() -> None:
    properties = {
        "headers": table([Field(b"CC", "A", counted(b""))]),
        "priority": b"\x07",
        "expiration": short(b"60000"),
        "user_id": short(b"guest"),
    }
    header = stamped(content_header(properties))
    mine, other = decoded(revived(header, "guest")), decoded(revived(header, "somebody"))
    assert (mine.pop("priority"), mine.pop("user_id")) == (7, "guest")
    assert other.pop("priority") == 7
    assert mine == other == {"headers": {"x-replayed-exchange": "amq.topic"}}


def test_a_message_without_a_stamp_is_revived_as_it_is() -> None:
    header = content_header({"headers": table([KEY, ODD]), "delivery_mode": b"\x01"}, 3)
    assert revived(header, "guest") == header
    assert revived(content_header({}), "guest") == content_header({})


def test_what_the_broker_would_refuse_is_not_revived() -> None:
    """Neither out of a message of ours nor out of one that somebody else has put there."""
    refused = {
        "expiration": short(b"soon"),
        "reply_to": short(b"amq.rabbitmq.reply-to"),
        "user_id": short(b"somebody"),
        "headers": table([ODD, *(Field(name, "S", counted(b"q")) for name in (b"CC", b"BCC"))]),
    }
    published = content_header(refused, 3)
    assert revived(published, "guest") == content_header({"headers": table([ODD])}, 3)
    ours = decoded(revived(stamped(published), "guest"))
    assert ours.keys() == {"headers"}
    assert decoded(revived(published, "somebody"))["user_id"] == "somebody"


def test_an_address_that_replies_reach_is_revived() -> None:
    published = content_header({"reply_to": short(b"amq.rabbitmq.reply-to.g1h2")})
    assert decoded(revived(stamped(published), "guest"))["reply_to"] == "amq.rabbitmq.reply-to.g1h2"


# What somebody wrote there who wanted to be seen.

ESCAPES = b"\x1b]0;owned\x07\r\n\xc2\x9b31m\xe2\x80\xae\xff"


def is_plain(text: str | None) -> bool:
    return text is None or (text.isprintable() and len(text) < 400)


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = b"\x01aF" + counted(inner)
    return inner


def record(*fields: Field) -> Field:
    return Field(b"x-death", "A", counted(b"F" + table(list(fields))))


UNREADABLE = Field(b"what", "?", b"\x00\x01\x02")
DEATHS = [
    record(Field(b"time", "T", struct.pack(">Q", 2**63 - 1)), Field(b"reason", "S", counted(b"rejected"))),
    record(Field(b"time", "T", b"\xff" * 8)),
    record(Field(b"time", "S", counted(b"now")), Field(b"queue", "I", bytes(4)), Field(b"reason", "F", counted(b""))),
    record(Field(b"reason", "S", counted(ESCAPES)), Field(b"queue", "S", counted(NAMES.inbox("p").encode() + ESCAPES))),
    record(Field(b"reason", "S", counted(b"x" * 60_000))),
    record(UNREADABLE),
    record(Field(b"deep", "F", counted(nested(3000))), Field(b"reason", "S", counted(b"rejected"))),
    Field(b"x-death", "A", counted(b"F\xff\xff\xff\xff")),
    Field(b"x-death", "A", counted(b"F")),
    Field(b"x-death", "A", counted(b"I" + bytes(4))),
    Field(b"x-death", "A", counted(b"")),
    Field(b"x-death", "I", bytes(4)),
    Field(b"x-death", "F", counted(nested(3000))),
    UNREADABLE,
    Field(b"x-partymq-refused", "S", counted(ESCAPES * 100)),
    Field(b"x-partymq-routing-key", "S", counted(ESCAPES * 100)),
    Field(b"x-partymq-exchange", "I", bytes(4)),
    Field(b"x-partymq-priority", "l", struct.pack(">q", 10**9)),
    Field(b"x-partymq-user-id", "S", counted(b"u" * 300)),
]


@pytest.mark.parametrize("field", DEATHS)
@pytest.mark.parametrize("first", [True, False])
def test_whatever_stands_there_is_shown_and_can_be_replayed(field: Field, first: bool) -> None:
    rows = [field, KEY, ODD] if first else [KEY, ODD, field]
    for header in (content_header({"headers": table(rows)}, 5), stamped_or_not(table(rows))):
        assert not is_fence(header)
        found = describe(NAMES, header, body_frames(b"hello"), key_reader(KeySpec()))
        assert found.size == 5
        for shown in (found.reason, found.member, found.exchange, found.routing_key, found.why):
            assert is_plain(shown)
        again = revived(header, "u" * 300)
        publish_frame(1, "", routing_key_of(header))
        assert int.from_bytes(again[4:12], "big") == 5
        assert list(properties(again)) is not None
        if not first:
            assert b"customer-1" in again


def stamped_or_not(rows: bytes) -> bytes:
    header = content_header({"headers": rows}, 5)
    try:
        return stamped(header)
    except MalformedHeaderError:
        return header


def test_a_time_beyond_all_calendars_is_none() -> None:
    header = content_header({"headers": table([DEATHS[0]])}, 0)
    assert describe(NAMES, header, b"", key_reader(KeySpec())).died_at is None


def test_what_is_deep_does_not_hide_what_is_beside_it() -> None:
    header = content_header({"headers": table([DEATHS[6]])}, 0)
    assert describe(NAMES, header, b"", key_reader(KeySpec())).reason == "rejected"


@pytest.mark.fuzz
@given(st.binary(max_size=80), st.integers(0, 2**16 - 1))
def test_whatever_bytes_a_header_is_they_are_shown_and_revived(payload: bytes, flags: int) -> None:
    header = plain_header(3)[:12] + (flags & 0xFFFE).to_bytes(2, "big") + payload
    found = describe(NAMES, header, body_frames(b"abc"), key_reader(KeySpec()))
    assert is_plain(found.reason)
    assert len(revived(header, "guest")) >= 14
    assert not is_fence(header) or int.from_bytes(header[4:12], "big") == 0
