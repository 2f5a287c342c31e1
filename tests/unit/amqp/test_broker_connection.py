"""A connection works as a whole or is lost as a whole, and everybody who waits for it is told why."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat

from partymq.amqp.channel import Channel, Returned
from partymq.amqp.connection import Connection
from partymq.amqp.frames import body_frames, header_frame, plain_header, publish_frame
from partymq.amqp.replies import NotExecutedError
from partymq.errors import (
    AccessRefusedError,
    BrokerTooOldError,
    ChannelClosedError,
    ConnectionLostError,
    LimitReachedError,
    NoChannelError,
    PartyMQError,
)
from support.fake_broker import ADDRESS, FakeBroker
from support.fake_kubernetes import in_virtual_time

TO_Q = publish_frame(1, "", "q")
HELLO = body_frames(b"hello")


@asynccontextmanager
async def connected(broker: FakeBroker, heartbeat: int = 0) -> AsyncIterator[Connection]:
    with broker.listening():
        connection = await Connection.open(ADDRESS, name="test", heartbeat=heartbeat)
    try:
        yield connection
    finally:
        connection.abort()
        await asyncio.sleep(0)


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
async def connection(broker: FakeBroker) -> AsyncIterator[Connection]:
    broker.tune.heartbeat = 0
    async with connected(broker) as made:
        yield made


@pytest.fixture
async def channel(connection: Connection) -> Channel:
    return await connection.channel()


def delivery(channel: int, tag: int, body: bytes = b"hello") -> bytes:
    method = commands.Basic.Deliver(consumer_tag="partymq", delivery_tag=tag, exchange="", routing_key="q")
    return b"".join(
        (frame.marshal(method, channel), header_frame(channel, plain_header(len(body))), body_frames(body, channel))
    )


def closes(code: int = 404, text: str = "NOT_FOUND - no queue 'q' in vhost '/'") -> Callable[[Frame], Frame]:
    return lambda _: commands.Channel.Close(reply_code=code, reply_text=text, class_id=50, method_id=10)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Opening.


async def test_the_handshake_says_who_we_are_and_agrees_on_the_lower_limits(broker: FakeBroker) -> None:
    broker.tune = commands.Connection.Tune(channel_max=100, frame_max=8192, heartbeat=60)
    async with connected(broker, heartbeat=10) as connection:
        assert connection.server_version == (4, 0, 5)
        assert connection.frame_max == 8192
    assert isinstance(broker.sent[0][1], ProtocolHeader)
    start, tune, opening = broker.methods()[:3]
    assert isinstance(start, commands.Connection.StartOk)
    assert start.mechanism == "PLAIN"
    assert start.response == "\0user\0secret"
    assert start.client_properties["connection_name"] == "test"
    capabilities = start.client_properties["capabilities"]
    assert {name for name, has in capabilities.items() if has} >= {  # type: ignore[union-attr]
        "authentication_failure_close",
        "connection.blocked",
        "consumer_cancel_notify",
        "publisher_confirms",
    }
    assert isinstance(tune, commands.Connection.TuneOk)
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (100, 8192, 10)
    assert isinstance(opening, commands.Connection.Open)
    assert opening.virtual_host == "shop"


async def test_a_broker_without_limits_gets_ours(broker: FakeBroker) -> None:
    broker.tune = commands.Connection.Tune(channel_max=0, frame_max=0, heartbeat=0)
    async with connected(broker, heartbeat=10):
        pass
    tune = broker.methods()[1]
    assert isinstance(tune, commands.Connection.TuneOk)
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 10)


@pytest.mark.parametrize(("version", "parsed"), [("4.3.6", (4, 3, 6)), ("4.1.0-rc.2", (4, 1, 0)), ("5.0+x", (5, 0, 0))])
async def test_newer_brokers_are_taken(broker: FakeBroker, version: str, parsed: tuple[int, int, int]) -> None:
    broker.version = version
    async with connected(broker) as connection:
        assert connection.server_version == parsed


@pytest.mark.parametrize(
    ("product", "version"),
    [("RabbitMQ", "3.13.7"), ("RabbitMQ", ""), ("RabbitMQ", "four"), ("LavinMQ", "4.0.0"), ("", "")],
)
async def test_other_brokers_are_refused(broker: FakeBroker, product: str, version: str) -> None:
    broker.product, broker.version = product, version
    with pytest.raises(BrokerTooOldError, match=r"broker:5672 is .*4\.0 or later"):
        async with connected(broker):
            pass
    assert broker.aborted


async def test_a_limit_is_named_and_is_no_wrong_password(broker: FakeBroker) -> None:
    text = "NOT_ALLOWED - access to vhost 'shop' refused for user 'user': connection limit (5) is reached"
    broker.answers[commands.Connection.Open] = commands.Connection.Close(
        reply_code=530, reply_text=text, class_id=0, method_id=0
    )
    with pytest.raises(LimitReachedError, match=r"connection limit \(5\) is reached. Raise it"):
        async with connected(broker):
            pass


@pytest.mark.parametrize(
    ("at", "code", "text"),
    [
        (commands.Connection.StartOk, 403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."),
        (commands.Connection.Open, 530, "NOT_ALLOWED - vhost shop not found"),
    ],
)
async def test_a_refusal_names_user_and_virtual_host(broker: FakeBroker, at: type[Frame], code: int, text: str) -> None:
    broker.answers[at] = commands.Connection.Close(reply_code=code, reply_text=text, class_id=0, method_id=0)
    with pytest.raises(AccessRefusedError, match=f"user 'user' on virtual host 'shop': {code} {text}") as caught:
        async with connected(broker):
            pass
    assert "secret" not in str(caught.value)


async def test_a_broker_that_closes_the_socket_is_not_reachable(broker: FakeBroker) -> None:
    def lose(_: Frame) -> None:
        asyncio.get_running_loop().call_soon(broker.lose)

    broker.answers[commands.Connection.StartOk] = lose
    with pytest.raises(ConnectionLostError, match="broker:5672 was closed by the other side"):
        async with connected(broker):
            pass


@in_virtual_time
async def test_a_broker_that_says_nothing_is_not_reachable() -> None:
    broker = FakeBroker()
    broker.answers[commands.Connection.Open] = None
    with pytest.raises(ConnectionLostError, match="broker:5672 did not answer within 10 seconds"):
        async with connected(broker):
            pass
    assert broker.aborted


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectionLostError, match=r"No connection to 127\.0\.0\.1:1: .*refused"):
        await Connection.open(type(ADDRESS)(host="127.0.0.1", port=1), name="test")


# Calls and their replies.


async def test_the_first_channel_is_the_publish_channel(connection: Connection) -> None:
    assert (await connection.channel()).number == 1
    assert (await connection.channel()).number == 2


async def test_a_channels_number_rests_before_it_is_used_again(broker: FakeBroker) -> None:
    broker.tune.channel_max = 3
    async with connected(broker) as connection:
        first, second = await connection.channel(), await connection.channel()
        await second.close()
        assert (await connection.channel()).number == 3
        assert (await connection.channel()).number == 2
        with pytest.raises(NoChannelError, match=r"All 3 channels .* Raise channel_max"):
            await connection.channel()
        await first.close()
        assert (await connection.channel()).number == 1


async def test_calls_without_waiting_get_their_own_replies(broker: FakeBroker, channel: Channel) -> None:
    sizes = iter(range(100))
    broker.answers[commands.Queue.Declare] = lambda _: commands.Queue.DeclareOk("q", next(sizes), 1)
    found = await asyncio.gather(*(channel.inspect(f"q{n}") for n in range(20)), channel.purge("q"))
    assert found == [*((n, 1) for n in range(20)), 3]


async def test_a_cancelled_call_does_not_shift_the_replies(broker: FakeBroker, channel: Channel) -> None:
    broker.answers[commands.Queue.Declare] = None
    calls = [asyncio.ensure_future(channel.inspect("q")) for _ in range(3)]
    await turns()
    calls[1].cancel()
    for ready in (10, 11, 12):
        broker.give((1, commands.Queue.DeclareOk("q", ready, 0)))
    assert await calls[0] == (10, 0)
    assert await calls[2] == (12, 0)


async def test_the_channel_says_what_it_was_asked(broker: FakeBroker, channel: Channel) -> None:
    await channel.consume("q", lambda *_: None, prefetch=10, arguments={"x-priority": 5}, exclusive=True)
    await channel.confirm_select(lambda *_: None, lambda *_: None)
    assert await channel.delete_queue("q") == 2
    qos, consume, confirm, delete = broker.methods(1)[1:]
    assert isinstance(qos, commands.Basic.Qos)
    assert qos.prefetch_count == 10
    assert isinstance(consume, commands.Basic.Consume)
    assert (consume.queue, consume.no_ack, consume.exclusive, consume.arguments) == (
        "q",
        False,
        True,
        {"x-priority": 5},
    )
    assert isinstance(confirm, commands.Confirm.Select)
    assert isinstance(delete, commands.Queue.Delete)
    assert (delete.if_empty, delete.if_unused, delete.nowait) == (False, False, False)


async def test_a_delivery_may_come_in_the_chunk_of_consume_ok(broker: FakeBroker, channel: Channel) -> None:
    broker.answers[commands.Basic.Consume] = None
    tags: list[int] = []
    consuming = asyncio.ensure_future(channel.consume("q", lambda tag, *_: tags.append(tag)))
    await turns()
    broker.give((1, commands.Basic.ConsumeOk("partymq")), delivery(1, 1))
    assert tags == [1]
    await consuming


# The end of a channel.


async def test_the_first_caller_learns_what_was_refused_and_the_others_that_they_were_not(
    broker: FakeBroker, channel: Channel
) -> None:
    broker.answers[commands.Queue.Declare] = None
    calls = [asyncio.ensure_future(channel.inspect("q")) for _ in range(3)]
    await turns()
    broker.give((1, closes()(commands.Queue.Declare())))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [ChannelClosedError, NotExecutedError, NotExecutedError]
    assert isinstance(results[0], ChannelClosedError)
    assert results[0].code == 404
    assert isinstance(broker.methods(1)[-1], commands.Channel.CloseOk)


async def test_a_refusal_of_one_of_several_questions_is_raised_once(
    broker: FakeBroker, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    broker.answers[commands.Queue.Declare] = None
    asking = asyncio.ensure_future(channel.inspect_all(["a", "b", "c"]))
    await turns()
    broker.give((1, closes()(commands.Queue.Declare())))
    with pytest.raises(ChannelClosedError, match="404"):
        await asking
    del asking
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_several_questions_that_nobody_waits_for_shift_no_reply(broker: FakeBroker, channel: Channel) -> None:
    broker.answers[commands.Queue.Declare] = None
    asking = asyncio.ensure_future(channel.inspect_all(["a", "b"]))
    await turns()
    asking.cancel()
    await asyncio.wait([asking])
    later = asyncio.ensure_future(channel.inspect_all(["c"]))
    await turns()
    for ready in (1, 2, 3):
        broker.give((1, commands.Queue.DeclareOk("q", ready, 0)))
    assert await later == [(3, 0)]


async def test_nothing_is_sent_on_a_channel_that_the_broker_closed(
    broker: FakeBroker, connection: Connection, channel: Channel
) -> None:
    broker.answers[commands.Queue.Declare] = closes()
    with pytest.raises(ChannelClosedError, match="404 NOT_FOUND"):
        await channel.inspect("q")
    assert isinstance(channel.closed.exception(), ChannelClosedError)
    await turns()
    sent = len(broker.sent)
    channel.publish(TO_Q, plain_header(5), HELLO)
    channel.ack(1)
    await channel.close()
    with pytest.raises(ChannelClosedError, match="404"):
        await channel.inspect("q")
    await turns()
    assert len(broker.sent) == sent
    assert not connection.lost.done()


async def test_a_channel_that_we_close_hands_on_nothing_more(broker: FakeBroker, channel: Channel) -> None:
    broker.answers[commands.Channel.Close] = None
    tags: list[int] = []
    await channel.consume("q", lambda tag, *_: tags.append(tag))
    broker.give(delivery(1, 1))
    closing = [asyncio.ensure_future(channel.close()) for _ in range(2)]
    await turns()
    broker.give(delivery(1, 2), (1, commands.Channel.CloseOk()))
    await asyncio.gather(*closing)
    assert tags == [1]
    assert channel.closed.result() is None
    assert [type(method) for method in broker.methods(1)].count(commands.Channel.Close) == 1
    with pytest.raises(ChannelClosedError, match="at this side's request"):
        await channel.purge("q")


async def test_both_sides_may_close_a_channel_at_once(
    broker: FakeBroker, connection: Connection, channel: Channel
) -> None:
    broker.answers[commands.Channel.Close] = closes(406, "PRECONDITION_FAILED - unknown delivery tag 9")
    await channel.close()
    assert isinstance(broker.methods(1)[-1], commands.Channel.CloseOk)
    broker.give((1, commands.Channel.CloseOk()))
    assert not connection.lost.done()
    await connection.channel()


async def test_a_cancel_of_the_broker_is_told(broker: FakeBroker, channel: Channel) -> None:
    told: list[bool] = []
    await channel.consume("q", lambda *_: None, on_cancel=lambda: told.append(True))
    broker.give((1, commands.Basic.Cancel(consumer_tag="partymq", nowait=True)))
    assert told == [True]


async def test_a_cancel_that_nobody_asked_about_is_nothing(broker: FakeBroker, channel: Channel) -> None:
    await channel.consume("q", lambda *_: None)
    broker.give((1, commands.Basic.Cancel(consumer_tag="partymq", nowait=True)))
    assert not channel.closed.done()


# Writes.


async def test_a_chunk_is_one_write_whatever_it_causes(
    broker: FakeBroker, connection: Connection, channel: Channel
) -> None:
    order: list[str] = []

    def forward(tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        order.append(f"delivery {tag}")
        channel.publish(TO_Q, header, body)

    def hook() -> None:
        order.append("hook")
        channel.ack(3, multiple=True)

    await channel.consume("q", forward)
    connection.add_chunk_hook(hook)
    before, sent = broker.writes, len(broker.sent)
    broker.give(*(delivery(1, tag) for tag in (1, 2, 3)))
    assert broker.writes == before + 1
    assert order == ["delivery 1", "delivery 2", "delivery 3", "hook"]
    published = [item for _, item in broker.sent[sent:]]
    assert [type(item) for item in published].count(commands.Basic.Publish) == 3
    headers = [item for item in published if isinstance(item, ContentHeader)]
    assert [header.body_size for header in headers] == [5, 5, 5]
    ack = published[-1]
    assert isinstance(ack, commands.Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (3, True)
    connection.remove_chunk_hook(hook)
    broker.give(delivery(1, 4))
    assert order[-1] == "delivery 4"


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 20_000])
async def test_a_body_is_published_on_the_channel_that_publishes(
    broker: FakeBroker, connection: Connection, channel: Channel, size: int
) -> None:
    other = await connection.channel()
    header, body = plain_header(size), bytes(size)
    sent = len(broker.sent)
    other.publish(publish_frame(other.number, "", "q"), header, body_frames(body, channel.number))
    await asyncio.sleep(0)
    assert {number for number, _ in broker.sent[sent:]} == {other.number}
    assert b"".join(item.value for _, item in broker.sent[sent:] if isinstance(item, ContentBody)) == body


async def test_outside_of_a_chunk_one_turn_of_the_loop_is_one_write(broker: FakeBroker, channel: Channel) -> None:
    before = broker.writes
    for _ in range(10):
        channel.publish(TO_Q, plain_header(5), HELLO)
    assert broker.writes == before
    await turns(2)
    assert broker.writes == before + 1


async def test_reading_waits_while_the_broker_takes_nothing(
    broker: FakeBroker, connection: Connection, channel: Channel
) -> None:
    assert broker.high_water == 4 * 1024 * 1024
    connection.pause_writing()
    assert not broker.reading
    connection.resume_writing()
    assert broker.reading


async def test_a_connection_that_is_held_reads_nothing(broker: FakeBroker, connection: Connection) -> None:
    connection.hold(True)
    connection.pause_writing()
    connection.resume_writing()
    assert not broker.reading
    connection.pause_writing()
    connection.hold(False)
    assert not broker.reading
    connection.resume_writing()
    assert broker.reading


async def test_confirms_are_told_at_once(broker: FakeBroker, channel: Channel) -> None:
    told: list[tuple[str, int, bool]] = []
    await channel.confirm_select(
        lambda tag, multiple: told.append(("ack", tag, multiple)),
        lambda tag, multiple: told.append(("nack", tag, multiple)),
    )
    broker.give(
        (1, commands.Basic.Ack(1, multiple=False)), (1, commands.Basic.Ack(5, True)), (1, commands.Basic.Nack(6, False))
    )
    assert told == [("ack", 1, False), ("ack", 5, True), ("nack", 6, False)]


async def test_a_return_says_what_came_back(broker: FakeBroker, connection: Connection, channel: Channel) -> None:
    told: list[Returned] = []
    method = commands.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="ex", routing_key="gone")
    content = header_frame(1, plain_header(5)) + HELLO
    broker.give((1, method), content)
    channel.on_return(told.append)
    broker.give((1, method), content)
    assert [str(one) for one in told] == ["a message to exchange 'ex' with routing key 'gone' came back: 312 NO_ROUTE"]
    assert told[0].header == plain_header(5)
    assert not connection.lost.done()


async def test_a_channel_that_is_being_closed_sends_no_more(broker: FakeBroker, channel: Channel) -> None:
    broker.answers[commands.Channel.Close] = None
    closing = asyncio.create_task(channel.close())
    await turns()
    before = len(broker.sent)
    channel.ack(1)
    channel.publish(TO_Q, plain_header(5), HELLO)
    await turns()
    assert broker.sent[before:] == [], "the broker would close the connection over it"
    broker.give((channel.number, commands.Channel.CloseOk()))
    await closing


# The end of a connection.


async def everybody(broker: FakeBroker, connection: Connection) -> list[BaseException | None]:
    """What those learn who wait for the connection, a channel, a call, and a new channel."""
    broker.answers[commands.Queue.Declare] = None
    channel = next(iter(connection._channels.values()))
    call = asyncio.ensure_future(channel.inspect("q"))
    await turns()

    async def end() -> list[BaseException | None]:
        await asyncio.gather(connection.lost, channel.closed, call, return_exceptions=True)
        with pytest.raises(PartyMQError) as late:
            await connection.channel()
        return [connection.lost.exception(), channel.closed.exception(), call.exception(), late.value]

    return await end()


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (lambda broker, _: broker.lose(), "was closed by the other side"),
        (lambda broker, _: broker.lose(ConnectionResetError("reset by peer")), "was closed: reset by peer"),
        (lambda broker, _: broker.give(b"\x08" + bytes(7)), "out of step"),
        (
            lambda broker, _: broker.give(
                (
                    0,
                    commands.Connection.Close(
                        reply_code=320, reply_text="CONNECTION_FORCED - shutdown", class_id=0, method_id=0
                    ),
                )
            ),
            "the broker closed the connection: 320 CONNECTION_FORCED - shutdown",
        ),
        (lambda _, connection: connection.abort(), "was given up"),
    ],
)
async def test_everybody_is_told_the_one_reason(
    broker: FakeBroker,
    connection: Connection,
    channel: Channel,
    end: Callable[[FakeBroker, Connection], None],
    why: str,
) -> None:
    asyncio.get_running_loop().call_later(0.001, end, broker, connection)
    told = await everybody(broker, connection)
    assert {str(error) for error in told} == {str(told[0])}
    assert why in str(told[0])
    assert all(isinstance(error, ConnectionLostError) for error in told)
    sent = len(broker.sent)
    channel.publish(TO_Q, plain_header(5), HELLO)
    channel.ack(1)
    connection.send(b"")
    await channel_close(channel)
    await connection.close()
    await turns()
    assert len(broker.sent) == sent


async def channel_close(channel: Channel) -> None:
    await channel.close()


async def test_the_broker_gets_its_close_ok(broker: FakeBroker, connection: Connection) -> None:
    broker.give((0, commands.Connection.Close(reply_code=320, reply_text="CONNECTION_FORCED", class_id=0, method_id=0)))
    assert isinstance(broker.methods(0)[-1], commands.Connection.CloseOk)


async def test_a_callback_that_raises_ends_the_connection_and_sends_nothing_of_its_chunk(
    broker: FakeBroker, connection: Connection, channel: Channel
) -> None:
    def fail(tag: int, origin: bytes, header: bytes, body: bytes) -> None:
        channel.publish(TO_Q, header, body)
        if tag == 2:
            raise LookupError("a defect")

    await channel.consume("q", fail)
    sent = len(broker.sent)
    broker.give(delivery(1, 1), delivery(1, 2), delivery(1, 3))
    assert isinstance(connection.lost.exception(), LookupError)
    assert broker.aborted
    assert len(broker.sent) == sent


async def test_a_hook_that_raises_ends_the_connection(
    broker: FakeBroker, connection: Connection, channel: Channel
) -> None:
    def hook() -> None:
        raise LookupError("a defect")

    connection.add_chunk_hook(hook)
    broker.give(delivery(1, 1))
    assert isinstance(connection.lost.exception(), LookupError)


async def test_a_clean_close_is_no_error(broker: FakeBroker, connection: Connection, channel: Channel) -> None:
    tags: list[int] = []
    await channel.consume("q", lambda tag, *_: tags.append(tag))
    broker.answers[commands.Connection.Close] = None
    closing = asyncio.ensure_future(connection.close())
    await turns()
    broker.give(delivery(1, 1), (0, commands.Connection.CloseOk()))
    await closing
    await connection.close()
    assert tags == []
    assert connection.lost.result() is None
    assert channel.closed.result() is None
    with pytest.raises(ConnectionLostError, match="was closed"):
        await connection.channel()
    with pytest.raises(ConnectionLostError, match="was closed"):
        await channel.inspect("q")


async def test_a_close_that_is_cancelled_leaves_no_socket(broker: FakeBroker, connection: Connection) -> None:
    broker.answers[commands.Connection.Close] = None
    closing = asyncio.ensure_future(connection.close())
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert broker.aborted
    assert connection.lost.done()


@in_virtual_time
async def test_a_clean_close_waits_for_the_broker_only_so_long() -> None:
    broker = FakeBroker()
    broker.answers[commands.Connection.Close] = None
    loop = asyncio.get_running_loop()
    async with connected(broker) as connection:
        start = loop.time()
        await connection.close()
        assert loop.time() - start == pytest.approx(5)
        assert connection.lost.result() is None


async def test_an_end_that_nobody_looks_at_is_no_warning(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(broker) as connection:
        channel = await connection.channel()
        broker.lose()
    del connection, channel
    gc.collect()
    assert caplog.records == []


# Liveness.


@in_virtual_time
async def test_heartbeats_are_sent_while_there_is_nothing_else_to_send() -> None:
    broker = FakeBroker()
    async with connected(broker, heartbeat=10) as connection:
        channel = await connection.channel()
        for _ in range(6):
            await asyncio.sleep(5)
            broker.give((0, Heartbeat()))
        idle = sum(isinstance(sent, Heartbeat) for _, sent in broker.sent)
        assert idle >= 5
        for _ in range(12):
            await asyncio.sleep(2.5)
            channel.publish(TO_Q, plain_header(5), HELLO)
            broker.give((0, Heartbeat()))
        assert sum(isinstance(sent, Heartbeat) for _, sent in broker.sent) <= idle + 1
        assert not connection.lost.done()


@in_virtual_time
async def test_a_silent_broker_is_lost_after_two_heartbeats() -> None:
    broker = FakeBroker()
    loop = asyncio.get_running_loop()
    async with connected(broker, heartbeat=10) as connection:
        start = loop.time()
        await asyncio.wait([connection.lost])
        assert 20 <= loop.time() - start <= 25
        assert "nothing came from the broker for 20 seconds" in str(connection.lost.exception())
        assert broker.aborted


@in_virtual_time
async def test_a_broker_that_takes_nothing_but_lives_is_not_lost() -> None:
    """In an alarm it reads nothing for hours; what it sends is looked at just often enough to know that it is there."""
    broker = FakeBroker()
    loop = asyncio.get_running_loop()
    async with connected(broker, heartbeat=10) as connection:
        connection.pause_writing()
        sips = 0
        start = loop.time()
        while loop.time() < start + 3600:
            await asyncio.sleep(1)
            if broker.reading:
                sips += 1
                broker.give((0, Heartbeat()))
                assert not broker.reading, "one chunk at a time"
        assert not connection.lost.done()
        assert sips <= 3600 / 5
        seen: list[float | None] = []
        connection.on_blocked = lambda: seen.append(connection.blocked_since)
        broker.give((0, commands.Connection.Blocked("memory")))
        broker.give((0, commands.Connection.Unblocked()))
        assert seen == [loop.time(), None]
        connection.resume_writing()
        assert broker.reading


@in_virtual_time
async def test_a_connection_that_is_held_reads_a_chunk_now_and_then() -> None:
    """As one that waits because the broker takes nothing."""
    broker = FakeBroker()
    loop = asyncio.get_running_loop()
    async with connected(broker, heartbeat=10) as connection:
        connection.hold(True)
        sips, start = 0, loop.time()
        while loop.time() < start + 600:
            await asyncio.sleep(1)
            if broker.reading:
                sips += 1
                broker.give((0, Heartbeat()))
                assert not broker.reading, "one chunk at a time"
        assert not connection.lost.done()
        assert 600 / 10 <= sips <= 600 / 5
        connection.hold(False)
        assert broker.reading


@in_virtual_time
async def test_a_broker_that_takes_nothing_and_is_gone_is_lost() -> None:
    broker = FakeBroker()
    async with connected(broker, heartbeat=10) as connection:
        connection.pause_writing()
        async with asyncio.timeout(60):
            await asyncio.wait([connection.lost])
