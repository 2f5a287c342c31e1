"""A frame that is off by a byte closes the connection; what pamqp can build too must be the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, heartbeat
from pamqp.base import Frame
from pamqp.body import ContentBody

from partymq.amqp import frames
from support.field_tables import decoded

ARGUMENTS: dict[str, int | str | None] = {
    "x-priority": 2147483647,
    "x-consumer-timeout": 31_536_000_000,
    "x-queue-type": "quorum",
    "x-void": None,
}


def built(method: Frame, channel: int = 7) -> bytes:
    return frame.marshal(method, channel)


@pytest.mark.parametrize("mandatory", [True, False])
@pytest.mark.parametrize(("exchange", "routing_key"), [("", "orders"), ("amq.topic", ""), ("x" * 100, "y" * 255)])
def test_a_publish_frame_is_what_pamqp_builds(exchange: str, routing_key: str, mandatory: bool) -> None:
    method = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    assert frames.publish_frame(7, exchange, routing_key, mandatory=mandatory) == built(method)


@pytest.mark.parametrize("tag", [1, 2**63 - 1])
@pytest.mark.parametrize("multiple", [True, False])
def test_an_ack_frame_is_what_pamqp_builds(tag: int, multiple: bool) -> None:
    assert frames.ack_frame(7, tag, multiple) == built(commands.Basic.Ack(tag, multiple))


def test_a_frame_that_gives_everything_back_is_what_pamqp_builds() -> None:
    assert frames.give_back_frame(7) == built(commands.Basic.Nack(0, multiple=True, requeue=True))


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_consume_frame_is_what_pamqp_builds(exclusive: bool) -> None:
    method = commands.Basic.Consume(
        queue="orders", consumer_tag="tag", exclusive=exclusive, arguments={"x-priority": 2147483647}
    )
    ours = frames.consume_frame(7, "orders", "tag", exclusive=exclusive, arguments={"x-priority": 2147483647})
    assert ours == built(method)


def test_frames_that_name_a_queue_are_what_pamqp_builds() -> None:
    declare = commands.Queue.Declare(queue="orders", durable=True, arguments=dict(ARGUMENTS))
    assert frames.declare_frame(7, "orders", arguments=ARGUMENTS) == built(declare)
    passive = commands.Queue.Declare(queue="orders", passive=True)
    assert frames.declare_frame(7, "orders", passive=True) == built(passive)
    bind = commands.Queue.Bind(queue="orders", exchange="dlx", arguments={"x-match": "all-with-x", "epoch": None})
    assert frames.bind_frame(7, "orders", "dlx", arguments={"x-match": "all-with-x", "epoch": None}) == built(bind)
    assert frames.purge_frame(7, "orders") == built(commands.Queue.Purge(queue="orders"))
    assert frames.delete_frame(7, "orders") == built(commands.Queue.Delete(queue="orders"))


@pytest.mark.parametrize("queue", ["orders[eu]", "größe", "a|b*c?", "q\N{SNOWMAN}"])
def test_queues_may_have_names_that_pamqp_refuses(queue: str) -> None:
    with pytest.raises(ValueError, match="queue"):
        commands.Queue.Purge(queue=queue)
    assert queue.encode() in frames.purge_frame(7, queue)
    assert queue.encode() in frames.consume_frame(7, queue, "tag", exclusive=False, arguments={})


def test_a_name_of_more_than_255_bytes_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="has 256 bytes"):
        frames.publish_frame(1, "", "ä" * 128)


def test_the_frames_without_arguments_are_the_protocols() -> None:
    assert heartbeat.Heartbeat().marshal() == frames.HEARTBEAT


@given(st.binary(max_size=300), st.integers(9, 64))
def test_a_body_survives_being_cut_into_frames(payload: bytes, frame_max: int) -> None:
    cut = frames.body_frames(payload, 3, frame_max)
    assert frames.body_payload(cut) == payload
    at, parts = 0, b""
    while at < len(cut):
        size, channel, part = frame.unmarshal(cut[at:])
        assert isinstance(part, ContentBody)
        assert size <= frame_max
        assert channel == 3
        parts += part.value
        at += size
    assert parts == payload


@given(st.binary(max_size=20_000), st.sampled_from([4096, 5000, 131_072]), st.integers(1, 2047))
def test_a_body_survives_going_on_another_channel(payload: bytes, frame_max: int, channel: int) -> None:
    moved = frames.readdress(frames.body_frames(payload, 3, frame_max), channel)
    assert moved == frames.body_frames(payload, channel, frame_max)


def test_an_empty_body_has_no_frame() -> None:
    assert frames.body_frames(b"") == b""
    assert frames.body_payload(b"") == b""


def test_a_plain_header_is_persistent_and_says_the_size() -> None:
    header = frames.plain_header(1234)
    assert decoded(header) == {"delivery_mode": 2}
    assert header[4:12] == (1234).to_bytes(8, "big")


def test_a_marker_has_no_body_and_expires_where_it_shall() -> None:
    assert decoded(frames.marker_header({"a": "b"}, expires=False)) == {"headers": {"a": "b"}, "delivery_mode": 2}
    expiring = frames.marker_header({"a": "b"}, expires=True)
    assert decoded(expiring) == {"headers": {"a": "b"}, "delivery_mode": 2, "expiration": "0"}
    assert expiring[4:12] == bytes(8)
