"""Clients that publish into our queues, with the headers of messages that they have received: nothing is lost.

A stamp says which message is newer; that two messages with one stamp are the same one, only all of them can say.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from pamqp import commands

from partymq.core.keys import partition_of
from partymq.core.membership import PodState
from support.broker import amqp_url
from support.conditions import eventually
from support.field_tables import Field, content_header, counted, short, table
from support.group import Group, group
from support.raw_amqp import RawAmqp, RawMessage, raw_amqp
from support.raw_amqp10 import application, data, properties, raw_amqp10, utf8

PARTITIONS = 8
KEY = "customer-%d"
FOREIGN = {"expiration": short(b"600000"), "user_id": short(b"guest"), "priority": b"\x09"}
REQUESTER = properties(reply_to=utf8("amq.rabbitmq.reply-to"))
"""What no 0-9-1 client may publish."""


async def _routed(g: Group, client: RawAmqp, keys: int) -> None:
    for number in range(keys):
        key = Field(b"partitionKey", "S", counted((KEY % number).encode()))
        await client.publish("", g.source, content_header({"headers": table([key])}, 3), b"own")


def _rows(message: RawMessage) -> bytes:
    """The rows of the headers table as they came; the message has no properties but the headers and its mode."""
    size = int.from_bytes(message.header[14:18], "big")
    return message.header[18 : 18 + size]


def _uncounted(message: RawMessage) -> bytes:
    """The same without the broker's count of how often it came back: a client may be given it twice before it goes."""
    return re.sub(rb"\x10x-delivery-countl.{8}", b"", _rows(message), flags=re.DOTALL)


def _copy(message: RawMessage, body: bytes, **properties: bytes) -> bytes:
    return content_header({"headers": counted(_rows(message)), **properties}, len(body))


def _stamped(partition: int) -> bytes:
    """The application properties that are the headers of a stamp."""
    epoch, seq = (b"\x81" + (1).to_bytes(8, "big") for _ in range(2))
    partition_field = b"\x71" + partition.to_bytes(4, "big")
    return application(
        utf8("x-partymq-partition"), partition_field, utf8("x-partymq-epoch"), epoch, utf8("x-partymq-seq"), seq
    )


async def _received(client: RawAmqp, count: int) -> list[RawMessage]:
    async with asyncio.timeout(30):
        return [await client.next() for _ in range(count)]


async def _held(g: Group) -> None:
    await eventually(lambda: bool(g.reports) and bool(g.report.members), "no inbox for the pod")


async def _takes_over(g: Group) -> None:
    """Pod a goes, pod b gets all that a had."""
    g.set_pod("b")
    g.set_pod("a", PodState.TERMINATING)
    g.set_pod("a", None)


@pytest.mark.parametrize("own", [True, False], ids=["120 times its own", "of 120 others"])
async def test_a_handoff_keeps_each_copy_with_another_content(tmp_path: Path, own: bool) -> None:
    async with group(tmp_path, partitions=PARTITIONS) as g, raw_amqp(amqp_url()) as producer:
        g.set_pod("a")
        await g.route()
        await _held(g)
        async with raw_amqp(amqp_url()) as a:
            await a.consume(g.names.inbox("a"))
            await g.owners("a")
            await _routed(g, producer, 120)
            had = await _received(a, 120)
        inbox = g.names.inbox("a")
        for number in range(120):
            body = b"copy %d" % number
            await producer.publish("", inbox, _copy(had[0 if own else number], body, **FOREIGN), body)
        await _routed(g, producer, 96)
        await producer.publish("", inbox, content_header({}, 8), b"no stamp")
        async with raw_amqp10(amqp_url(), inbox) as sender:
            await sender.send(REQUESTER, data(b"no stamp"))
            await sender.send(REQUESTER, _stamped(0), data(b"refused"))
        await _takes_over(g)
        async with raw_amqp(amqp_url()) as b:
            await eventually(lambda: "b" in g.inboxes, "no inbox for the pod")
            await b.consume(g.names.inbox("b"))
            await b.consume(g.names.dead)
            bodies = [message.body for message in await _received(b, 120 + 96 + 3)]
            copies = [b"copy %d" % number for number in range(120)]
            assert sorted(bodies) == sorted([*copies, *[b"own"] * 96, b"no stamp", b"no stamp", b"refused"])
            await g.owners("b")
            assert b.received.empty()
        assert g.report.counters.sessions == 1, "a message has ended a session"


async def test_a_repeat_is_given_out_once(tmp_path: Path) -> None:
    async with group(tmp_path, partitions=PARTITIONS) as g, raw_amqp(amqp_url()) as producer:
        g.set_pod("a")
        await g.route()
        await _held(g)
        async with raw_amqp(amqp_url()) as a:
            await a.consume(g.names.inbox("a"))
            await g.owners("a")
            await _routed(g, producer, 10)
            had = await _received(a, 10)
        for message in [*had, *had[::-1]]:
            await producer.publish("", g.names.inbox("a"), message.header, message.body)
        await _takes_over(g)
        async with raw_amqp(amqp_url()) as b:
            await eventually(lambda: "b" in g.inboxes, "no inbox for the pod")
            await b.consume(g.names.inbox("b"))
            assert sorted(map(_uncounted, await _received(b, 10))) == sorted(map(_uncounted, had))
            await g.owners("b")
            assert b.received.empty()


async def test_a_stamp_of_no_partition_of_this_group_ends_no_session(tmp_path: Path) -> None:
    """Such as one out of a group with more partitions, or of later sessions; in an inbox, and in a backlog."""
    rows = [
        Field(b"x-partymq-partition", "I", (999).to_bytes(4, "big")),
        Field(b"x-partymq-epoch", "l", (3).to_bytes(8, "big")),
        Field(b"x-partymq-seq", "l", (3).to_bytes(8, "big")),
    ]
    later = [Field(b"x-partymq-partition", "I", bytes(4)), Field(b"x-partymq-epoch", "l", b"\x7f" + bytes(7)), rows[2]]
    strays: Sequence[bytes] = [content_header({"headers": table(each)}, 5) for each in (rows, later)]
    async with group(tmp_path, partitions=PARTITIONS) as g, raw_amqp(amqp_url()) as producer:
        g.set_pod("a")
        await g.route()
        await _held(g)
        async with raw_amqp(amqp_url()) as a:
            await a.consume(g.names.inbox("a"))
            await g.owners("a")
        for header in strays:
            await producer.publish("", g.names.inbox("a"), header, b"stray")
        await _routed(g, producer, 20)
        await _takes_over(g)
        async with raw_amqp(amqp_url()) as b:
            await eventually(lambda: "b" in g.inboxes, "no inbox for the pod")
            await b.consume(g.names.inbox("b"))
            await b.consume(g.names.dead)
            found = await _received(b, 22)
            dead = [message.body for message in found if message.queue == g.names.dead]
            assert dead == [b"stray", b"stray"]
        assert g.report.counters.sessions == 1, "a message has ended a session"


async def test_a_backlog_flows_whatever_a_client_puts_into_it(tmp_path: Path) -> None:
    partition = partition_of((KEY % 0).encode(), PARTITIONS)
    stranger = [
        Field(b"x-partymq-partition", "I", ((partition + 1) % PARTITIONS).to_bytes(4, "big")),
        Field(b"x-partymq-epoch", "l", (1).to_bytes(8, "big")),
        Field(b"x-partymq-seq", "l", (1).to_bytes(8, "big")),
    ]
    async with group(tmp_path, partitions=PARTITIONS, inbox_window=4) as g, raw_amqp(amqp_url()) as producer:
        g.set_pod("a")
        await g.route()
        await _held(g)
        async with raw_amqp(amqp_url()) as a:
            await a.consume(g.names.inbox("a"))
            await g.owners("a")
        key = Field(b"partitionKey", "S", counted((KEY % 0).encode()))
        for _ in range(40):
            await producer.publish("", g.source, content_header({"headers": table([key])}, 3), b"own")
        backlog = g.names.backlog(partition)
        await eventually(lambda: g.report.backlog > 0, "nothing waits")
        for _ in range(300):
            await producer.publish("", backlog, content_header({"headers": table(stranger), **FOREIGN}, 5), b"stray")
        async with raw_amqp10(amqp_url(), backlog) as sender:
            await sender.send(REQUESTER, data(b"stray"))
            await sender.send(REQUESTER, _stamped(partition), data(b"refused"))
        for _ in range(10):
            await producer.publish("", g.source, content_header({"headers": table([key])}, 4), b"last")
        async with raw_amqp(amqp_url()) as again:
            await again.consume(g.names.inbox("a"))
            await again.consume(g.names.dead)
            found = await _received(again, 352)
            assert [m.body for m in found if m.queue != g.names.dead] == [*[b"own"] * 40, b"refused", *[b"last"] * 10]
        asked = commands.Queue.Declare(queue=backlog, passive=True)
        assert (await producer.call(asked, commands.Queue.DeclareOk)).message_count == 0
        assert g.report.counters.sessions == 1, "a message has ended a session"
