"""What a broken or hostile broker may send: one connection ends with a sentence, in bounded memory and time."""

import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.base import Frame
from pamqp.header import ContentHeader

from partymq.amqp.address import from_service_binding, parse_uri
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Content
from partymq.amqp.frames import BODY, FRAME_HEAD, HEARTBEAT, METHOD, header_frame, plain_header
from partymq.amqp.reader import IDLE_FRAMES
from partymq.errors import (
    BrokerTooOldError,
    ChannelClosedError,
    ConnectionClosedError,
    ConnectionLostError,
    InvalidSecretError,
    MessageTooLargeError,
    NotAmqpError,
    PartyMQError,
)
from support.fake_broker import ADDRESS, FakeBroker
from unit.amqp.test_reader import Recorder, deliver, method

MIB = 1024 * 1024
ESCAPES = "\x1b]0;owned\x07\r\n\x9b31m\u202e"


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


@asynccontextmanager
async def connected(broker: FakeBroker) -> AsyncIterator[Connection]:
    with broker.listening():
        connection = await Connection.open(ADDRESS, name="test")
    try:
        yield connection
    finally:
        connection.abort()


def is_plain(text: str, most: int = 700) -> bool:
    return text.isprintable() and len(text) <= most


def sentence(error: Exception) -> None:
    assert is_plain(str(error)), error


# Bodies.


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 16 * MIB + 1])
async def test_a_body_beyond_the_limit_is_refused_when_it_is_announced(recorder: Recorder, size: int) -> None:
    with pytest.raises(MessageTooLargeError, match="its limit `message`"):
        recorder.reader.feed(deliver(1, 1) + header_frame(1, plain_header(size)))


async def test_a_limit_may_be_another_one() -> None:
    content = Content(1, most=10)
    content.begin(1, b"")
    with pytest.raises(MessageTooLargeError, match="10 at most"):
        content.header(plain_header(11))


async def test_a_body_in_a_million_frames_is_not_kept(recorder: Recorder) -> None:
    recorder.reader.feed(deliver(1, 1) + header_frame(1, plain_header(16 * MIB)))
    one = FRAME_HEAD.pack(BODY, 1, 1) + b"x\xce"
    tracemalloc.start()
    for _ in range(5):
        with suppress(NotAmqpError):
            recorder.reader.feed(one * 100_000)
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()


async def test_frames_without_anything_are_no_body(recorder: Recorder) -> None:
    recorder.reader.feed(deliver(1, 1) + header_frame(1, plain_header(5)))
    with pytest.raises(ConnectionLostError, match="unexpected body"):
        recorder.reader.feed(FRAME_HEAD.pack(BODY, 1, 0) + b"\xce")


# Frames.


def short(method_id: int, arguments: bytes, channel: int = 1) -> bytes:
    return FRAME_HEAD.pack(METHOD, channel, 4 + len(arguments)) + method_id.to_bytes(4, "big") + arguments + b"\xce"


def nested(depth: int) -> bytes:
    """Server properties of so many tables in tables, in a Connection.Start."""
    inner = b""
    for _ in range(depth):
        row = b"\x01aF" + struct.pack(">I", len(inner)) + inner
        inner = row
    table = struct.pack(">I", len(inner)) + inner
    arguments = b"\x00\x09" + table + struct.pack(">I", 5) + b"PLAIN" + struct.pack(">I", 5) + b"en_US"
    return short(10 << 16 | 10, arguments, channel=0)


DELIVER, ACK, NACK = 60 << 16 | 60, 60 << 16 | 80, 60 << 16 | 120


@pytest.mark.parametrize(
    "stream",
    [
        *(short(DELIVER, bytes(size)) for size in range(24)),
        *(short(ACK, bytes(size)) for size in range(9)),
        *(short(NACK, bytes(size)) for size in range(9)),
        short(DELIVER, b"\x07partymq" + struct.pack(">QB", 1, 0) + b"\xffkey"),
        short(DELIVER, b"\x07partymq" + struct.pack(">QB", 2**63, 0) + b"\x00\x00"),
        *(FRAME_HEAD.pack(METHOD, 1, size) + bytes(size) + b"\xce" for size in range(5)),
        short(10 << 16 | 10, b"\x00\x09\xff\xff\xff\xff", channel=0),
        short(20 << 16 | 40, b"\x00\x00\xff"),
        short(60 << 16 | 50, b"\x00\x00\x03\xff\xff\xff\x00\x00"),
        nested(1000),
        b"\x08\x00\x01\x00\x00\x00\x00\xce",
        b"\x08\x00\x00\x00\x00\x00\x01x\xce",
        struct.pack(">BHI", 1, 1, 8200),
        method(0, commands.Connection.Start(server_properties={"product": "x" * 9000}, mechanisms="PLAIN")),
    ],
)
async def test_a_frame_that_does_not_hold_what_it_has_to_is_a_sentence(recorder: Recorder, stream: bytes) -> None:
    try:
        recorder.reader.feed(stream)
    except ConnectionLostError as error:
        sentence(error)
    except PartyMQError as error:
        pytest.fail(f"{error!r}")
    else:
        assert all("partymq" not in str(event) for event in recorder.events)


async def test_a_message_with_a_header_that_is_too_short_is_not_handed_on(recorder: Recorder) -> None:
    head = struct.pack(">BHIHHQ", 2, 1, 12, 60, 0, 0) + b"\xce"
    with pytest.raises(ConnectionLostError, match="content header"):
        recorder.reader.feed(deliver(1, 1) + head)
    assert recorder.events == []


async def test_a_banner_is_not_told(recorder: Recorder) -> None:
    for banner in (
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50\x00",
        b"+OK secret\r\n",
        b"-ERR x\r\nabcdefg",
    ):
        with pytest.raises(ConnectionLostError) as caught:
            Recorder().reader.feed(banner)
        assert str(caught.value) == "what answers there does not speak AMQP 0-9-1"


@pytest.mark.fuzz
@given(st.lists(st.binary(max_size=40)))
async def test_whatever_comes_is_understood_or_ends_in_a_sentence(parts: list[bytes]) -> None:
    reader = Recorder().reader
    try:
        for part in parts:
            reader.feed(part)
    except ConnectionLostError as error:
        sentence(error)


KINDS = st.sampled_from([1, 2, 3, 8])
IDS = st.sampled_from(
    [DELIVER, ACK, NACK, 50 << 16 | 11, 10 << 16 | 10, 10 << 16 | 50, 20 << 16 | 40, 60 << 16 | 50, 7]
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    kind, channel, payload = draw(KINDS), draw(st.integers(0, 2)), draw(st.binary(max_size=40))
    if kind == METHOD:
        payload = draw(IDS).to_bytes(4, "big") + draw(st.sampled_from([b"", b"\x07partymq"])) + payload
    if kind == 2:
        payload = plain_header(draw(st.integers(0, 60)))[: draw(st.integers(10, 15))] + payload
    return FRAME_HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


@pytest.mark.fuzz
@given(st.lists(frames(), max_size=12))
async def test_whatever_frames_come_are_understood_or_end_in_a_sentence(parts: list[bytes]) -> None:
    reader = Recorder().reader
    try:
        for part in parts:
            reader.feed(part)
    except ConnectionLostError as error:
        sentence(error)


# Floods.


async def test_heartbeats_without_end_are_noticed_at_once(recorder: Recorder) -> None:
    began = time.process_time()
    with pytest.raises(NotAmqpError, match="heartbeats without end"):
        recorder.reader.feed(HEARTBEAT * 1_000_000)
    assert time.process_time() - began < 0.5


async def test_blocked_and_unblocked_without_end_are_noticed_at_once(recorder: Recorder) -> None:
    with pytest.raises(NotAmqpError, match="without end"):
        recorder.reader.feed(method(0, commands.Connection.Unblocked()) * (IDLE_FRAMES + 1))


async def test_heartbeats_of_a_quiet_day_are_none(recorder: Recorder) -> None:
    for _ in range(IDLE_FRAMES * 2):
        recorder.reader.feed(HEARTBEAT * 3)
        recorder.reader.lull()


async def test_a_flood_before_the_handshake_ends_it() -> None:
    broker = FakeBroker()
    broker.answers[commands.Connection.StartOk] = None

    def flood(_: Frame) -> Frame:
        broker.give(HEARTBEAT * (IDLE_FRAMES + 1))
        return commands.Connection.OpenOk()

    broker.answers[commands.Connection.StartOk] = flood
    with pytest.raises(NotAmqpError, match="without end"):
        async with connected(broker):
            pass


# What the broker says.


Close = type[commands.Connection.Close] | type[commands.Channel.Close]


def closing(text: str, kind: Close = commands.Connection.Close) -> Frame:
    return kind(reply_code=320, reply_text=text, class_id=0, method_id=0)


async def test_what_the_broker_says_of_a_connection_is_cut_and_escaped() -> None:
    broker = FakeBroker()
    async with connected(broker) as connection:
        broker.give((0, closing(ESCAPES + "x" * 200)))
        error = connection.lost.exception()
    assert isinstance(error, ConnectionClosedError)
    assert is_plain(str(error), 400)
    assert r"\x1b]0;owned\x07\x0d\x0a\x9b31m\u202e" in str(error)


async def test_what_the_broker_says_of_a_channel_is_cut_and_escaped() -> None:
    broker = FakeBroker()
    async with connected(broker) as connection:
        channel = await connection.channel()
        broker.give((channel.number, closing(ESCAPES, commands.Channel.Close)))
        error = channel.closed.exception()
    assert isinstance(error, ChannelClosedError)
    assert is_plain(str(error))


async def test_what_comes_back_says_why_in_printable_text() -> None:
    broker, told = FakeBroker(), []
    async with connected(broker) as connection:
        channel: Channel = await connection.channel()
        channel.on_return(lambda message: told.append(str(message)))
        back = commands.Basic.Return(reply_code=312, reply_text=ESCAPES, exchange="", routing_key=ESCAPES)
        broker.give((channel.number, back), (channel.number, ContentHeader(body_size=0)))
    assert len(told) == 1
    assert is_plain(told[0])


@pytest.mark.parametrize(
    ("product", "version"),
    [(ESCAPES + "x" * 5000, "4.0.5"), ("RabbitMQ", ESCAPES + "y" * 5000), ("RabbitMQ", "9" * 5000 + ".1.1")],
)
async def test_what_a_broker_calls_itself_is_cut_and_escaped(product: str, version: str) -> None:
    broker = FakeBroker()
    broker.product, broker.version = product, version
    with pytest.raises(BrokerTooOldError) as caught:
        async with connected(broker):
            pass
    assert is_plain(str(caught.value), 400)


@pytest.mark.parametrize("frame_max", [1, 7, 4095])
async def test_frames_that_nobody_could_fill_are_refused(frame_max: int) -> None:
    broker = FakeBroker()
    broker.tune = commands.Connection.Tune(channel_max=2047, frame_max=frame_max, heartbeat=60)
    with pytest.raises(NotAmqpError, match=f"frames of {frame_max} bytes at most"):
        async with connected(broker):
            pass


# What we say to it.


@pytest.fixture(params=["uri", "binding", "vhost"])
def secret(request: pytest.FixtureRequest) -> Callable[[], object]:
    return {
        "uri": lambda: parse_uri("amqp://me:hush%FFhush@host"),
        "binding": lambda: from_service_binding({"host": "h", "username": "me", "password": "hush\udcffhush"}),
        "vhost": lambda: parse_uri("amqp://me:hush@host/%FF"),
    }[str(request.param)]


def test_a_secret_that_is_no_utf_8_is_refused_and_not_told(secret: Callable[[], object]) -> None:
    with pytest.raises(InvalidSecretError, match="no UTF-8") as caught:
        secret()
    assert "hush" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_nul_would_end_a_user_name() -> None:
    with pytest.raises(InvalidSecretError, match="NUL"):
        parse_uri("amqp://me%00admin:hush@host")
