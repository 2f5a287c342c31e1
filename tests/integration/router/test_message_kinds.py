"""Messages of every kind are routed unharmed, or put where the group says: never a crash, never a change.

Every message also goes to a queue without a router, by the same exchange: what a consumer gets there is what a consumer
of the group must get, but for what docs/guarantees.md lists.
"""

import asyncio
import gzip
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aio_pika
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import commands

from partymq.core.keys import partition_of, text
from partymq.core.spec import KeyFrom, KeySpec, OnMissing
from partymq.message import tables
from support.broker import QUORUM, amqp_url, temporary_queue, unique
from support.conditions import eventually
from support.field_tables import (
    FIXED,
    Field,
    content_header,
    counted,
    properties_but_headers,
    short,
    table,
)
from support.field_tables import tables as random_tables
from support.group import Group, group
from support.raw_amqp import SMALLEST, RawAmqp, RawMessage, raw_amqp
from support.raw_amqp10 import (
    NULL,
    NotAcceptedError,
    annotations,
    application,
    binary,
    data,
    listed,
    mapped,
    raw_amqp10,
    section,
    symbol,
    timestamp,
    uint,
    ulong,
    utf8,
    uuid,
)
from support.raw_amqp10 import properties as properties10

PARTITIONS = 16
SPREAD = -1
KEY = Field(b"partitionKey", "S", counted(b"customer-1"))
CUSTOMER_1 = partition_of(b"customer-1", PARTITIONS)
VALUES = {
    "t": b"\x01",
    "b": b"\xff",
    "B": b"\xff",
    "s": b"\xff\xfe",
    "u": b"\xff\xfe",
    "I": b"\xff\xff\xff\xfe",
    "i": b"\xff\xff\xff\xfe",
    "l": b"\xff\xff\xff\xff\xff\xff\xff\xfe",
    "L": b"\x7f\xff\xff\xff\xff\xff\xff\xfe",
    "f": b"\x3f\xc0\x00\x00",
    "d": b"\x3f\xf8" + bytes(6),
    "D": b"\x02\x00\x00\x00\xfa",
    "T": struct.pack(">Q", 0xFFFFFFFF),
    "V": b"",
    "S": counted("Grüße \udcff".encode(errors="surrogateescape")),
    "x": counted(b"\x00\xff"),
    "A": counted(b"I\x00\x00\x00\x01t\x00V" + b"A" + counted(b"u\x00\x01")),
    "F": table([Field(b"inner", "u", b"\x00\x01"), Field(b"deeper", "F", table([Field(b"x", "x", counted(b"\x00"))]))]),
}
KEYS: dict[str, bytes | None] = {
    "t": b"true",
    "b": b"-1",
    "B": b"255",
    "s": b"-2",
    "u": b"65534",
    "I": b"-2",
    "i": b"4294967294",
    "l": b"-2",
    "L": b"9223372036854775806",
    "f": b"1.5",
    "d": b"1.5",
    "D": b"2.5",
    "T": None,
    "V": None,
    "S": "Grüße \udcff".encode(errors="surrogateescape"),
    "x": b"\x00\xff",
    "A": None,
    "F": None,
}
MOVED: dict[int, tuple[bytes, Callable[[bytes], bytes]]] = {
    tables.EXPIRATION: (b"x-partymq-expiration", lambda raw: b"S" + counted(raw[1:])),
    tables.USER_ID: (b"x-partymq-user-id", lambda raw: b"S" + counted(raw[1:])),
    tables.PRIORITY: (b"x-partymq-priority", lambda raw: b"B" + raw),
}
REQUESTER = short(b"amq.rabbitmq.reply-to")
Rows = list[tuple[bytes, bytes]]


@dataclass(slots=True, kw_only=True)
class Bench:
    """A group with one pod, which is this test; and the queue without a router."""

    group: Group
    exchange: str
    control: str
    producer: RawAmqp
    consumer: RawAmqp

    async def send(self, header: bytes, body: bytes, routing_key: str = "some.key") -> tuple[RawMessage, RawMessage]:
        """The message as it arrives without a router, and with one."""
        await self.producer.publish(self.exchange, routing_key, header, body)
        async with asyncio.timeout(20):
            first, second = await self.consumer.next(), await self.consumer.next()
        return (first, second) if first.queue == self.control else (second, first)

    async def routes(
        self, header: bytes, body: bytes, partition: int, routing_key: str = "some.key"
    ) -> tuple[RawMessage, RawMessage]:
        """The same, once it is clear that it came to the pod in this partition and that nothing else has changed."""
        plain, routed = await self.send(header, body, routing_key)
        assert routed.queue == self.group.names.inbox("a")
        unharmed(plain, routed, partition)
        return plain, routed


@asynccontextmanager
async def bench(
    directory: Path, key: KeySpec | None = None, *, frame_max: int = 131_072, source: dict[str, object] | None = None
) -> AsyncIterator[Bench]:
    exchange = unique("kinds")
    async with (
        group(directory, partitions=PARTITIONS, key=key or KeySpec(), source_arguments=source) as g,
        temporary_queue(amqp_url(), "control", source) as control,
        raw_amqp(amqp_url(), frame_max) as producer,
        raw_amqp(amqp_url(), frame_max) as consumer,
    ):
        await producer.call(
            commands.Exchange.Declare(exchange=exchange, exchange_type="fanout", auto_delete=True),
            commands.Exchange.DeclareOk,
        )
        for queue in (g.source, control):
            await producer.call(commands.Queue.Bind(queue=queue, exchange=exchange), commands.Queue.BindOk)
        g.set_pod("a")
        await g.route()
        await eventually(lambda: bool(g.reports) and bool(g.report.members), "no inbox for the pod")
        for queue in (control, g.names.inbox("a"), g.names.dead):
            await consumer.consume(queue)
        await g.owners("a")
        yield Bench(group=g, exchange=exchange, control=control, producer=producer, consumer=consumer)
        assert g.report.counters.sessions == 1, "a message has ended a session"


def split(header: bytes) -> tuple[dict[int, bytes], Rows]:
    """The properties but the headers, and the headers: names, and types with values, as they stand on the wire."""
    found = {flag: header[start:stop] for flag, start, stop in tables.properties(header)}
    found.pop(tables.HEADERS, None)
    place = tables.find_property(header, tables.HEADERS)
    entries = tables.entries(header, place.start, place.stop) if place is not None else ()
    return found, [(header[e.start + 1 : e.kind_at], header[e.kind_at : e.stop]) for e in entries]


def unharmed(plain: RawMessage, routed: RawMessage, partition: int) -> None:
    """Body, properties and headers are as they would be without us, but for what the guarantees list."""
    assert routed.body == plain.body
    properties, rows = split(plain.header)
    now, now_rows = split(routed.header)
    moved = [(name, head(properties.pop(flag))) for flag, (name, head) in MOVED.items() if flag in properties]
    if properties.get(tables.REPLY_TO) == REQUESTER:
        moved.append((b"x-partymq-reply-to", b"S" + counted(properties.pop(tables.REPLY_TO)[1:])))
    renamed = {b"CC": b"x-partymq-cc", b"BCC": b"x-partymq-bcc"}
    kept = [(renamed.get(name, name), value) for name, value in rows if not name.startswith(b"x-partymq-")]
    assert now == properties
    stamp = {name: value for name, value in now_rows if name in (b"x-partymq-epoch", b"x-partymq-seq")}
    assert stamp.keys() == {b"x-partymq-epoch", b"x-partymq-seq"}
    places = [
        (b"x-partymq-partition", b"I" + struct.pack(">i", partition)),
        (b"x-partymq-exchange", b"S" + counted(plain.exchange.encode())),
        (b"x-partymq-routing-key", b"S" + counted(plain.routing_key.encode())),
    ]
    # The broker writes a table anew, and then in the order of its names.
    assert sorted(now_rows) == sorted([*stamp.items(), *places, *kept, *moved])


async def test_every_type_of_header_arrives_as_it_was(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for kind, raw in VALUES.items():
            value = Field(b"value", kind, raw)
            for rows in ([value, KEY], [KEY, value]):
                await b.routes(content_header({"headers": table(rows)}, 5), b"hello", CUSTOMER_1)


@pytest.mark.parametrize("on_missing", list(OnMissing))
async def test_a_header_of_any_type_is_a_key_or_a_missing_one(tmp_path: Path, on_missing: OnMissing) -> None:
    async with bench(tmp_path, KeySpec(on_missing=on_missing)) as b:
        empty = Field(KEY.name, "S", counted(b""))
        keys = [(Field(KEY.name, kind, raw), KEYS[kind]) for kind, raw in VALUES.items()]
        for field, key in [*keys, (empty, None)]:
            header = content_header({"headers": table([field])}, 2)
            if key is not None:
                await b.routes(header, b"{}", partition_of(key, PARTITIONS))
            elif on_missing is OnMissing.SPREAD:
                await b.routes(header, b"{}", SPREAD)
            else:
                plain, routed = await b.send(header, b"{}")
                assert routed.queue == b.group.names.dead
                unharmed(plain, routed, SPREAD)


def _finite(fields: list[Field]) -> list[Field]:
    """Without floats that are no numbers, which the broker itself does not take, and names that mean something."""
    return [f for f in fields if f.kind in FIXED.keys() - set("fd") | set("STx") and f.name not in (b"CC", b"BCC")]


_sendable = properties_but_headers.map(
    lambda found: (
        found
        | ({"expiration": short(b"600000")} if "expiration" in found else {})
        | ({"user_id": short(b"guest")} if "user_id" in found else {})
    )
)


async def test_any_message_arrives_as_it_was(tmp_path: Path) -> None:
    messages: list[tuple[bytes, bytes]] = []

    @settings(max_examples=150, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_sendable, random_tables.map(_finite), st.binary(max_size=300))
    def collect(properties: dict[str, bytes], rows: list[Field], body: bytes) -> None:
        headers = {"headers": table([*rows, KEY])}
        messages.append((content_header(properties | headers, len(body)), body))

    collect()
    async with bench(tmp_path) as b:
        for header, body in messages:
            await b.routes(header, body, CUSTOMER_1)


@pytest.mark.parametrize("frame_max", [SMALLEST, 131_072], ids=["small", "large"])
@pytest.mark.parametrize("source", [None, QUORUM], ids=["classic", "quorum"])
async def test_bodies_of_any_size_arrive_whole(
    tmp_path: Path, frame_max: int, source: dict[str, object] | None
) -> None:
    sizes = (0, 1, 4087, 4088, 4089, 8183, 8184, 8185, 131_063, 131_064, 131_065, 262_128, 1_000_003, 6_000_000)
    async with bench(tmp_path, frame_max=frame_max, source=source) as b:
        for size in sizes:
            body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            await b.routes(content_header({"headers": table([KEY])}, size), body, CUSTOMER_1)


BODIES: list[tuple[bytes, object]] = [
    (b'{"order":{"customer":"c"}}', "c"),
    (b'\n {"order": {"x": [1, {}], "customer": "\\u00fc"}} ', "ü"),
    (b'{"order":{"customer":17}}', 17),
    (b'{"order":{"customer":-0.0}}', 0),
    (b'{"order":{"customer":1e3}}', 1000),
    (b'{"order":{"customer":0.1}}', 0.1),
    (b'{"order":{"customer":18446744073709551616}}', 2**64),
    (b'{"order":{"customer":18446744073709551617}}', 2**64 + 1),
    (b'{"order":{"customer":-9223372036854775809}}', -(2**63) - 1),
    (b'{"order":{"customer":18446744073709551617.0}}', 2.0**64),
    (b'{"order":{"customer":1e23}}', 1e23),
    (b'\xef\xbb\xbf{"order":{"customer":"c"}}', "c"),
    (b'{"order":{"customer":NaN}}', None),
    (gzip.compress(b'{"order":{"customer":"c"}}', mtime=0), None),
    (b'{"order":{"customer":true}}', True),
    (b'{"order":{"customer":null}}', None),
    (b'{"order":{"customer":""}}', None),
    (b'{"order":{"customer":[1]}}', None),
    (b'{"order":{"customer":{"a":1}}}', None),
    (b'{"order":[{"customer":"c"}]}', None),
    (b'{"order":{}}', None),
    (b'{"order":{"customer":"c"}', None),
    (b"", None),
    (b"null", None),
    (b"customer=c", None),
    (b"\xff\xfe\x00", None),
    (b'{"order":{"customer":"\xff"}}', None),
    (b'{"order":{"customer":"\\ud800"}}', None),
    (b"[" * 100_000, None),
    (json.dumps({"order": {"customer": "k" * 1_048_576}}).encode(), "k" * 1_048_576),
]


@pytest.mark.parametrize("on_missing", list(OnMissing))
async def test_keys_in_bodies(tmp_path: Path, on_missing: OnMissing) -> None:
    async with bench(tmp_path, KeySpec(source=KeyFrom.BODY, name="/order/customer", on_missing=on_missing)) as b:
        for body, value in BODIES:
            header, key = content_header({}, len(body)), text(value)
            if key is not None:
                await b.routes(header, body, partition_of(key, PARTITIONS))
            elif on_missing is OnMissing.SPREAD:
                await b.routes(header, body, SPREAD)
            else:
                plain, routed = await b.send(header, body)
                assert routed.queue == b.group.names.dead
                unharmed(plain, routed, SPREAD)


async def test_it_is_said_why_there_are_no_keys(tmp_path: Path) -> None:
    async with bench(tmp_path, KeySpec(source=KeyFrom.BODY, name="/order/customer")) as b:
        body = gzip.compress(b'{"order":{"customer":"c"}}', mtime=0)
        header = content_header({"content_encoding": short(b"gzip")}, len(body))
        for _ in range(25):
            await b.routes(header, body, SPREAD)
        await eventually(lambda: "content-encoding gzip" in b.group.report.ready.message, "nobody says why")
        (notice,) = (notice for notice in b.group.notices if notice.reason == "KeysMissing")
        assert "mostly because the body is encoded (content-encoding gzip)" in notice.message


async def test_keys_in_a_field_of_the_body(tmp_path: Path) -> None:
    async with bench(tmp_path, KeySpec(source=KeyFrom.BODY, name="a/b")) as b:
        body = b'{"a/b": 5}'
        await b.routes(content_header({}, len(body)), body, partition_of(b"5", PARTITIONS))


async def test_keys_in_a_property(tmp_path: Path) -> None:
    async with bench(tmp_path, KeySpec(source=KeyFrom.PROPERTY, name="correlation_id")) as b:
        found = content_header({"correlation_id": short(b"c" * 255)}, 0)
        await b.routes(found, b"", partition_of(b"c" * 255, PARTITIONS))
        await b.routes(content_header({"message_id": short(b"x")}, 0), b"", SPREAD)


async def test_keys_in_the_routing_key(tmp_path: Path) -> None:
    async with bench(tmp_path, KeySpec(source=KeyFrom.ROUTING_KEY, name="")) as b:
        for key in ("orders.eu", "ü" * 127, "x" * 255):
            await b.routes(content_header({}, 0), b"", partition_of(key.encode(), PARTITIONS), key)
        await b.routes(content_header({}, 0), b"", SPREAD, "")


async def test_what_cannot_be_published_again_moves_into_headers(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for priority in (0, 4, 5, 255):
            properties = {
                "headers": table([Field(b"x-partymq-seq", "l", bytes(8)), KEY]),
                "delivery_mode": b"\x01",
                "priority": bytes((priority,)),
                "expiration": short(b"600000"),
                "user_id": short(b"guest"),
            }
            await b.routes(content_header(properties, 0), b"", CUSTOMER_1)


@pytest.mark.parametrize("name", [b"CC", b"BCC"])
async def test_copies_are_sent_once(tmp_path: Path, name: bytes) -> None:
    async with bench(tmp_path) as b, temporary_queue(amqp_url(), "copies") as copies:
        await b.consumer.consume(copies)
        to = Field(name, "A", counted(b"S" + counted(copies.encode())))
        header = content_header({"headers": table([to, KEY])}, 4)
        for _ in range(3):
            await b.producer.publish("", b.group.source, header, b"body")
            async with asyncio.timeout(10):
                found = {message.queue for message in (await b.consumer.next(), await b.consumer.next())}
            assert found == {copies, b.group.names.inbox("a")}
        # A copy that the router had caused would have come before what follows the last message.
        await b.routes(content_header({"headers": table([KEY])}, 0), b"", CUSTOMER_1)
        assert b.consumer.received.empty()


def _written(*items: bytes) -> bytes:
    """The key, and more application properties."""
    return application(utf8("partitionKey"), utf8("customer-1"), *items)


BY_ANOTHER_DOOR: dict[str, tuple[bytes, ...]] = {
    "the address of its requester": (properties10(reply_to=utf8("amq.rabbitmq.reply-to")), _written()),
    "an address of a requester": (properties10(reply_to=utf8("amq.rabbitmq.reply-to.g1h2")), _written()),
    "CC that is no list": (_written(utf8("CC"), utf8("q")),),
    "BCC that is no list": (_written(utf8("BCC"), utf8("q")),),
    "an annotation CC that is no list": (annotations(symbol("x-cc"), utf8("q")), _written()),
    "a death that is no record": (_written(utf8("x-death"), utf8("q")),),
    "deaths that are no records": (annotations(symbol("x-opt-deaths"), listed(utf8("q"))), _written()),
    "a number beyond a signed one": (_written(utf8("n"), ulong(2**64 - 1)),),
    "a time before 1970": (properties10(creation_time=timestamp(-5)), _written(utf8("t"), timestamp(-5))),
    "the last time there is": (properties10(creation_time=timestamp(2**63 - 1)), _written()),
    "an id that is a number": (properties10(message_id=ulong(2**64 - 1)), _written()),
    "an id that is a UUID": (properties10(message_id=uuid(bytes(16))), _written()),
    "an id of bytes": (properties10(message_id=binary(b"\0\xff"), correlation_id=binary(b"\xff")), _written()),
    "an id that is long": (properties10(message_id=utf8("x" * 300)), _written()),
    "a header without a name": (_written(utf8(""), uint(1)),),
    "a list and a map": (
        annotations(symbol("x-l"), listed(uint(1)), symbol("x-m"), mapped(utf8("k"), NULL)),
        _written(),
    ),
    "a priority beyond a byte": (annotations(symbol("x-basic-priority"), uint(300)), _written()),
    "its own user": (properties10(user_id=binary(b"guest")), _written()),
}
"""What AMQP 1.0 producers can write and RabbitMQ gives to 0-9-1 consumers; some of it no 0-9-1 client may publish."""
REFUSED_SINCE_4_3 = {"an annotation CC that is no list"}


async def test_what_came_by_another_door_goes_its_way(tmp_path: Path) -> None:
    refused = set()
    async with bench(tmp_path) as b, raw_amqp10(amqp_url(), b.group.source) as to_source:
        for what, sections in BY_ANOTHER_DOOR.items():
            for body in (data(b"hi"), section(0x77, utf8("hi"))):  # bytes, or a value, which stays encoded
                try:
                    async with raw_amqp10(amqp_url(), b.control) as to_control:
                        await to_control.send(*sections, body)
                except NotAcceptedError:
                    refused.add(what)
                    continue
                await to_source.send(*sections, body)
                async with asyncio.timeout(20):
                    found = {m.queue: m for m in (await b.consumer.next(), await b.consumer.next())}
                assert found.keys() == {b.control, b.group.names.inbox("a")}, what
                # Published straight to the queue, whose name is the routing key.
                plain = replace(found[b.control], routing_key=b.group.source)
                unharmed(plain, found[b.group.names.inbox("a")], CUSTOMER_1)
    assert refused <= REFUSED_SINCE_4_3


async def test_the_order_of_a_priority_queue_is_kept(tmp_path: Path) -> None:
    source: dict[str, object] = {"x-max-priority": 10}
    async with group(tmp_path, source_arguments=source) as g, raw_amqp(amqp_url()) as client:
        for number, priority in enumerate((0, 9, 5, 9, 0, 5)):
            header = content_header({"headers": table([KEY]), "priority": bytes((priority,))}, 1)
            await client.publish("", g.source, header, b"%d" % number)
        g.set_pod("a")
        await g.route()
        await eventually(lambda: bool(g.reports) and bool(g.report.members), "no inbox for the pod")
        await client.consume(g.names.inbox("a"))
        async with asyncio.timeout(20):
            bodies = [(await client.next()).body for _ in range(6)]
        assert bodies == [b"1", b"3", b"2", b"5", b"0", b"4"]


async def test_what_expires_before_it_is_routed_is_gone_and_what_was_routed_stays(tmp_path: Path) -> None:
    async with group(tmp_path) as g, raw_amqp(amqp_url()) as client:
        short_lived = content_header({"headers": table([KEY]), "expiration": short(b"1")}, 4)
        await client.publish("", g.source, short_lived, b"gone")

        async def expired() -> bool:
            asked = commands.Queue.Declare(queue=g.source, passive=True)
            return (await client.call(asked, commands.Queue.DeclareOk)).message_count == 0

        await eventually(expired, "the message does not expire")
        g.set_pod("a")
        await g.route()
        await eventually(lambda: bool(g.reports) and bool(g.report.members), "no inbox for the pod")
        await client.consume(g.names.inbox("a"))
        await g.owners("a")
        await eventually(lambda: g.report.ready.ok, "the source is not read")
        in_time = content_header({"headers": table([KEY]), "expiration": short(b"10000")}, 4)
        await client.publish("", g.source, in_time, b"kept")
        async with asyncio.timeout(10):
            kept = await client.next()
        assert kept.body == b"kept"
        properties, rows = split(kept.header)
        assert tables.EXPIRATION not in properties
        assert (b"x-partymq-expiration", b"S" + counted(b"10000")) in rows


@pytest.mark.parametrize("spare", [0, 30, 2000, 5000])
async def test_a_header_that_fills_a_frame_does_not_stop_the_rest(tmp_path: Path, spare: int) -> None:
    async with bench(tmp_path) as b:
        plain, routed = await b.send(filled(spare), b"ok")
        assert routed.body == b"ok"
        if spare < 5000:
            assert routed.queue == b.group.names.dead
            assert split(routed.header) == split(plain.header)
        else:
            unharmed(plain, routed, CUSTOMER_1)
        await b.routes(content_header({"headers": table([KEY])}, 0), b"", CUSTOMER_1)


async def test_nor_does_it_when_the_broker_has_added_to_it(tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments=QUORUM) as g, raw_amqp(amqp_url()) as client:
        await client.publish("", g.source, filled(0), b"ok")
        async with await aio_pika.connect(amqp_url()) as connection:  # a redelivered message says how often it was
            queue = await (await connection.channel()).get_queue(g.source)
            assert await queue.get(timeout=5) is not None
        g.set_pod("a")
        await g.route()
        await eventually(lambda: bool(g.reports) and bool(g.report.members), "no inbox for the pod")
        await client.consume(g.names.inbox("a"))
        await client.consume(g.names.dead)
        async with asyncio.timeout(20):
            dead = await client.next()
        assert (dead.queue, dead.body) == (g.names.dead, b"ok")
        assert g.report.counters.sessions == 1


def filled(spare: int) -> bytes:
    """A content header of the largest size that can be published, less `spare` bytes; for a body of two bytes."""
    empty = content_header({"headers": table([KEY, Field(b"big", "S", counted(b""))])}, 2)
    big = Field(b"big", "S", counted(b"x" * (131_064 - len(empty) - spare)))
    return content_header({"headers": table([KEY, big])}, 2)
