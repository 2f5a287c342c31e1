"""A dead message is described whatever it is, and revived as it was published."""

import struct

import pytest
from hypothesis import given

from partymq.amqp.deadletter import describe, revived, routing_key_of
from partymq.amqp.frames import body_frames
from partymq.amqp.keyread import key_reader
from partymq.amqp.stamp import Stamper
from partymq.core.names import SPREAD, Names
from partymq.core.spec import GroupId, KeyFrom, KeySpec
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
    assert routing_key_of(header) == "orders.eu"


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
