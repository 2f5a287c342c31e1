"""The network cuts the stream anywhere: the same messages come out, whole, once and in order."""

import asyncio
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody

from partymq.amqp.channel import Channel
from partymq.amqp.frames import DELIVER, HEARTBEAT, body_frames, header_frame, plain_header
from partymq.amqp.output import Output
from partymq.amqp.reader import Channels, Reader
from partymq.errors import ConnectionLostError

ORIGIN = b"\x02ex\x03key"


class Recorder:
    """Two channels whose callbacks write down what comes."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.events: list[object] = []
        self.channels = Channels()
        self.reader = Reader(self.channels, lambda method: self.events.append(method.name))
        for number in (1, 2):
            channel = Channel(number, Output(loop), self.channels.__delitem__)
            channel.content.on_delivery = self.note(number)
            channel.confirmed = lambda tag, multiple: self.events.append(("ack", tag, multiple))
            channel.nacked = lambda tag, multiple: self.events.append(("nack", tag, multiple))
            channel.on_return(lambda message: self.events.append(str(message)))
            self.channels[number] = channel

    def note(self, number: int) -> Callable[[int, bytes, bytes, bytes], None]:
        return lambda tag, origin, header, body: self.events.append((number, tag, origin, header, body))


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


def method(channel: int, frame_: Frame) -> bytes:
    return frame.marshal(frame_, channel)


def deliver(channel: int, tag: int) -> bytes:
    return method(
        channel, commands.Basic.Deliver(consumer_tag="partymq", delivery_tag=tag, exchange="ex", routing_key="key")
    )


def content(channel: int, body: bytes, pieces: int = 1) -> list[bytes]:
    """A content header's frame and the body's frames."""
    step = -(-len(body) // pieces) or 1
    bodies = [frame.marshal(ContentBody(body[at : at + step]), channel) for at in range(0, len(body), step)]
    return [header_frame(channel, plain_header(len(body))), *bodies]


def delivery(channel: int, tag: int, body: bytes, pieces: int = 1) -> list[bytes]:
    return [deliver(channel, tag), *content(channel, body, pieces)]


def expected(channel: int, tag: int, body: bytes, pieces: int = 1) -> tuple[object, ...]:
    return channel, tag, ORIGIN, plain_header(len(body)), b"".join(content(channel, body, pieces)[1:])


RETURN = commands.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="gone")
STREAM: list[list[bytes]] = [
    delivery(1, 1, b"hello"),
    [method(1, commands.Basic.Ack(delivery_tag=1, multiple=False))],
    delivery(2, 1, b"other channel"),
    [HEARTBEAT],
    delivery(2, 2, b""),
    [method(1, RETURN), *content(1, b"returned", 2)],
    delivery(1, 2, b"in three pieces", 3),
    [method(1, commands.Basic.Nack(delivery_tag=3, multiple=True))],
    [method(0, commands.Connection.Blocked(reason="memory"))],
    delivery(1, 3, b"x" * 3000),
    [method(1, commands.Basic.Ack(delivery_tag=2**40, multiple=True))],
]
EVENTS: list[object] = [
    expected(1, 1, b"hello"),
    ("ack", 1, False),
    expected(2, 1, b"other channel"),
    expected(2, 2, b""),
    "a message to the default exchange with routing key 'gone' came back: 312 NO_ROUTE",
    expected(1, 2, b"in three pieces", 3),
    ("nack", 3, True),
    "Connection.Blocked",
    expected(1, 3, b"x" * 3000),
    ("ack", 2**40, True),
]
BYTES = b"".join(b"".join(frames) for frames in STREAM)


async def test_a_stream_in_one_chunk(recorder: Recorder) -> None:
    recorder.reader.feed(BYTES)
    assert recorder.events == EVENTS


async def test_a_stream_byte_by_byte(recorder: Recorder) -> None:
    for byte in BYTES:
        recorder.reader.feed(bytes((byte,)))
    assert recorder.events == EVENTS


async def test_a_stream_in_two_chunks_cut_anywhere() -> None:
    for cut in range(len(BYTES) - 3100):
        recorder = Recorder()
        recorder.reader.feed(BYTES[:cut])
        recorder.reader.feed(BYTES[cut:])
        assert recorder.events == EVENTS, cut


async def test_a_stream_frame_by_frame(recorder: Recorder) -> None:
    for frames in STREAM:
        for part in frames:
            recorder.reader.feed(part)
    assert recorder.events == EVENTS


@given(st.lists(st.integers(0, len(BYTES)), max_size=30).map(sorted))
async def test_a_stream_cut_at_random(cuts: list[int]) -> None:
    recorder = Recorder()
    for start, stop in zip([0, *cuts], [*cuts, len(BYTES)], strict=True):
        recorder.reader.feed(BYTES[start:stop])
    assert recorder.events == EVENTS


async def test_frames_of_two_channels_may_alternate(recorder: Recorder) -> None:
    ours, theirs = delivery(1, 1, b"one in pieces", 3), delivery(2, 1, b"two in pieces", 3)
    recorder.reader.feed(b"".join(part for pair in zip(ours, theirs, strict=True) for part in pair))
    assert recorder.events == [expected(1, 1, b"one in pieces", 3), expected(2, 1, b"two in pieces", 3)]


async def test_a_confirm_may_stand_between_the_frames_of_a_message(recorder: Recorder) -> None:
    deliver_, header, body = delivery(2, 1, b"body")
    confirm = method(1, commands.Basic.Ack(delivery_tag=9, multiple=False))
    recorder.reader.feed(b"".join((deliver_, confirm, header, confirm, body)))
    assert recorder.events == [("ack", 9, False), ("ack", 9, False), expected(2, 1, b"body")]


async def test_a_consumer_that_is_dropped_gets_nothing_and_the_stream_stays_in_step(recorder: Recorder) -> None:
    parts = delivery(2, 1, b"late")
    recorder.reader.feed(parts[0])
    recorder.channels[2].content.drop()
    recorder.reader.feed(b"".join((*parts[1:], *delivery(2, 2, b"later"), *delivery(1, 1, b"hello"))))
    assert recorder.events == [expected(1, 1, b"hello")]


async def test_names_and_tags_of_any_length_are_read(recorder: Recorder) -> None:
    recorder.reader.feed(
        method(1, commands.Basic.Deliver("partymq", 2**63 - 1, True, "e" * 127, "r" * 255))
        + b"".join(content(1, b"body"))
    )
    origin = b"\x7f" + b"e" * 127 + b"\xff" + b"r" * 255
    assert recorder.events == [(1, 2**63 - 1, origin, plain_header(4), body_frames(b"body"))]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"AMQP\x00\x00\x09\x01", "does not speak AMQP"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak AMQP"),
        (HEARTBEAT[:-1] + b"\x00", "out of step"),
        (deliver(1, 1)[:-1] + b"\x00", "out of step"),
        (struct.pack(">BHIB", 1, 1, 131_065, 0), "more than was agreed on"),
        (deliver(5, 1), "channel 5, which is not open"),
        (content(5, b"")[0], "channel 5, which is not open"),
        (method(5, commands.Basic.QosOk()), "channel 5, which is not open"),
        (method(1, commands.Basic.QosOk()), "unexpected Basic.QosOk"),
        (content(1, b"")[0], "unexpected content header"),
        (content(1, b"body")[1], "unexpected body"),
        (deliver(1, 1) + deliver(1, 2), "a message within a message"),
        (deliver(1, 1) + content(1, b"body")[1], "unexpected body"),
        (deliver(1, 1) + header_frame(1, b"\x00\x3c"), "unexpected content header"),
        (b"".join((deliver(1, 1), header_frame(1, plain_header(2)), content(1, b"body")[1])), "unexpected body"),
        (b"".join(delivery(1, 1, b"body"))[:-1] + b"\x00", "out of step"),
    ],
)
async def test_a_stream_that_makes_no_sense_ends(recorder: Recorder, stream: bytes, why: str) -> None:
    with pytest.raises(ConnectionLostError, match=why):
        recorder.reader.feed(stream)


async def test_the_close_ok_of_a_channel_that_both_sides_closed_is_nothing(recorder: Recorder) -> None:
    recorder.reader.feed(method(5, commands.Channel.CloseOk()))
    assert recorder.events == []


def test_the_hand_parsed_methods_are_those_of_the_specification() -> None:
    assert commands.Basic.Deliver.index == DELIVER
