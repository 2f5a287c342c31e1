"""What is under way when something dies: the model must be able to lose it, and must not lose more."""

import pytest

from unit.model.broker import Broker, Channel, ChannelClosedByBrokerError, ClosedError, Connection, Depth

INBOX = "inbox"
DEAD = "dead"
STAMPED = {"x-partymq-epoch": 1}
TAKEOVER = 2147483647


@pytest.fixture
def broker() -> Broker:
    broker = Broker()
    broker.declare(DEAD)
    broker.bind("dlx", DEAD, header="x-partymq-epoch")
    broker.declare(INBOX, single_active=True, dead_letters="dlx")
    return broker


def fill(broker: Broker, count: int) -> None:
    channel = broker.connect().channel()
    for number in range(1, count + 1):
        channel.publish(INBOX, f"m{number}", headers=STAMPED)
    broker.settle()


def takeover(broker: Broker) -> tuple[Connection, Channel]:
    connection = broker.connect()
    channel = connection.channel()
    channel.consume(INBOX, priority=TAKEOVER)
    return connection, channel


def client(broker: Broker) -> Channel:
    channel = broker.connect().channel()
    channel.consume(INBOX, prefetch=10)
    return channel


def bodies(channel: Channel) -> list[str]:
    return [delivery.body for delivery in channel.take()]


def test_a_publish_is_confirmed_when_it_is_in_the_queue_and_not_before(broker: Broker) -> None:
    channel = broker.connect().channel()
    number = channel.publish(INBOX, "m1")
    assert channel.confirmed == set()
    assert broker.depth(INBOX) == Depth(messages=0, consumers=0)
    broker.settle()
    assert channel.confirmed == {number}
    assert broker.depth(INBOX) == Depth(messages=1, consumers=0)


def test_a_publish_to_no_queue_is_returned(broker: Broker) -> None:
    channel = broker.connect().channel()
    number = channel.publish("nowhere", "m1")
    broker.settle()
    assert channel.returned == channel.confirmed == {number}


def test_between_queues_of_a_channel_there_is_no_order(broker: Broker) -> None:
    """Why a partition's destination changes only when everything to the old one is confirmed."""
    channel = broker.connect().channel()
    channel.publish(INBOX, "older")
    newer = channel.publish(DEAD, "newer")
    broker.step(next(line for line in broker.lines if line.queue == DEAD))
    assert channel.confirmed == {newer}


def test_a_killed_connection_loses_what_had_no_effect_yet(broker: Broker) -> None:
    connection = broker.connect()
    channel = connection.channel()
    for number in range(3):
        channel.publish(INBOX, f"m{number}")
    broker.step(broker.lines[0])
    connection.kill()
    broker.settle()
    assert broker.depth(INBOX) == Depth(messages=1, consumers=0)
    with pytest.raises(ClosedError):
        channel.publish(INBOX, "m4")


def test_a_closed_connection_loses_nothing(broker: Broker) -> None:
    connection = broker.connect()
    connection.channel().publish(INBOX, "m1")
    connection.close()
    assert broker.depth(INBOX) == Depth(messages=1, consumers=0)


def test_an_ack_that_nothing_proved_may_be_lost_with_the_connection(broker: Broker) -> None:
    fill(broker, 200)
    connection, router = takeover(broker)
    router.ack(200, multiple=True)
    connection.kill()
    broker.settle()
    assert broker.depth(INBOX) == Depth(messages=200, consumers=0)


def test_a_fence_that_came_back_proves_the_acks_before_it(broker: Broker) -> None:
    fill(broker, 200)
    connection, router = takeover(broker)
    router.take()
    router.ack(200, multiple=True)
    router.publish(INBOX, "", headers={"x-partymq-fence": "1.1"}, expiration=0)
    while not router.deliveries:
        broker.step(broker.lines[0])
    connection.kill()
    broker.advance(2)
    broker.settle()
    assert broker.depth(INBOX) == Depth(messages=0, consumers=0)


def test_a_fence_that_meets_no_active_router_vanishes_and_is_nobodys_dead_letter(broker: Broker) -> None:
    fill(broker, 10)
    worker = client(broker)
    _, router = takeover(broker)
    router.publish(INBOX, "fence", expiration=0)
    broker.settle()
    assert broker.depth(INBOX) == Depth(messages=1, consumers=1)
    broker.advance(2)
    assert broker.depth(INBOX) == Depth(messages=0, consumers=1)
    worker.ack(10, multiple=True)
    broker.settle()
    assert bodies(router) == []
    assert broker.depth(DEAD) == Depth(messages=0, consumers=0)


def test_a_fence_without_a_takeover_goes_to_an_idle_client(broker: Broker) -> None:
    """The limit that the design states."""
    worker = client(broker)
    broker.connect().channel().publish(INBOX, "fence", expiration=0)
    broker.settle()
    assert bodies(worker) == ["fence"]


@pytest.mark.parametrize(("milliseconds", "seen"), [(0, ["fence"]), (2, [])])
def test_a_router_that_dies_with_a_fence_shows_it_within_a_millisecond(
    broker: Broker, milliseconds: float, seen: list[str]
) -> None:
    worker = client(broker)
    connection, router = takeover(broker)
    router.publish(INBOX, "fence", expiration=0)
    broker.settle()
    assert bodies(router) == ["fence"]
    broker.advance(milliseconds)
    connection.kill()
    broker.settle()
    assert bodies(worker) == seen


def test_only_the_head_of_a_queue_expires(broker: Broker) -> None:
    channel = broker.connect().channel()
    channel.publish(INBOX, "m1")
    channel.publish(INBOX, "fence", expiration=0)
    broker.settle()
    broker.advance(1000)
    assert broker.depth(INBOX) == Depth(messages=2, consumers=0)
    assert bodies(client(broker)) == ["m1"]
    assert broker.depth(INBOX) == Depth(messages=0, consumers=1)


@pytest.mark.parametrize("behind_returned", [False, True])
def test_what_was_returned_keeps_the_next_one_from_expiring_before_4_3(behind_returned: bool) -> None:
    broker = Broker(expires_behind_returned=behind_returned)
    broker.declare("q")
    channel = broker.connect().channel()
    channel.publish("q", "m1")
    channel.consume("q", prefetch=1)
    broker.settle()
    channel.close()
    broker.settle()
    broker.connect().channel().publish("q", "fence", expiration=0)
    broker.settle()
    broker.advance(10)
    assert broker.depth("q") == Depth(messages=1 if behind_returned else 2, consumers=0)


def test_a_rejected_message_is_dead_and_says_why(broker: Broker) -> None:
    fill(broker, 1)
    worker = client(broker)
    worker.reject(1)
    broker.settle()
    reader = broker.connect().channel()
    reader.consume(DEAD)
    [dead] = reader.take()
    assert dead.body == "m1"
    assert dead.headers["x-death"] == {"queue": INBOX, "reason": "rejected"}


def test_a_message_that_expires_by_itself_is_dead_when_it_is_stamped(broker: Broker) -> None:
    broker.connect().channel().publish(INBOX, "m1", headers=STAMPED, expiration=50)
    broker.settle()
    broker.advance(49)
    assert broker.depth(DEAD) == Depth(messages=0, consumers=0)
    broker.advance(1)
    assert broker.depth(DEAD) == Depth(messages=1, consumers=0)


def test_deleting_an_inbox_cancels_whoever_is_there(broker: Broker) -> None:
    fill(broker, 3)
    worker = client(broker)
    _, router = takeover(broker)
    router.delete(INBOX)
    assert (worker.cancelled, router.cancelled) == (["consumer"], ["consumer"])
    assert broker.depth(INBOX) is None
    worker.ack(3, multiple=True)
    broker.settle()
    assert worker.open


def test_a_queue_of_the_same_name_is_another_queue(broker: Broker) -> None:
    fill(broker, 3)
    worker = client(broker)
    broker.connect().channel().delete(INBOX)
    broker.declare(INBOX, single_active=True)
    fill(broker, 1)
    worker.ack(3, multiple=True)
    worker.close()
    broker.settle()
    assert broker.depth(INBOX) == Depth(messages=1, consumers=0)


def test_a_successor_may_be_active_before_the_old_sessions_other_queues_have_settled(broker: Broker) -> None:
    """Why a new session awaits `consumer_count == 0` on every queue that it reads."""
    fill(broker, 2)
    connection = broker.connect()
    for queue in (INBOX, DEAD):
        connection.channel().consume(queue)
    connection.kill()
    broker.drain(next(line for line in broker.lines if line.queue == DEAD))
    assert broker.depth(DEAD) == Depth(messages=0, consumers=0)
    assert broker.depth(INBOX) == Depth(messages=0, consumers=1)
    assert broker.connect().channel().purge(INBOX) == 0, "a purge now misses what is about to return"
    broker.settle()
    assert broker.depth(INBOX) == Depth(messages=2, consumers=0)


def test_the_broker_closes_a_channel_that_names_no_queue_or_no_delivery(broker: Broker) -> None:
    channels = [broker.connect().channel() for _ in range(3)]
    with pytest.raises(ChannelClosedByBrokerError, match="404"):
        channels[0].consume("nowhere")
    with pytest.raises(ChannelClosedByBrokerError, match="404"):
        channels[1].depth("nowhere")
    with pytest.raises(ChannelClosedByBrokerError, match="406"):
        channels[2].ack(1)
    assert not any(channel.open for channel in channels)


def test_a_request_takes_effect_after_what_its_channel_sent_before(broker: Broker) -> None:
    channel = broker.connect().channel()
    channel.publish(INBOX, "m1")
    assert channel.depth(INBOX) == Depth(messages=1, consumers=0)


def held(broker: Broker, count: int) -> Channel:
    """A client that holds so many messages of a queue."""
    broker.declare("queue")
    channel = broker.connect().channel()
    channel.consume("queue")
    for number in range(count):
        channel.publish("queue", f"m{number}")
    broker.settle()
    assert len(channel.take()) == count
    return channel


def test_acknowledgements_in_a_burst_are_held_back_and_dropped_at_a_close(broker: Broker) -> None:
    channel = held(broker, 250)
    for tag in range(1, 251):
        channel.ack(tag)
    channel.close()
    broker.settle()
    assert broker.depth("queue") == Depth(messages=217, consumers=0)


def test_one_command_is_never_held_back_by_itself(broker: Broker) -> None:
    channel = held(broker, 250)
    channel.ack(250, multiple=True)
    channel.close()
    broker.settle()
    assert broker.depth("queue") == Depth(messages=0, consumers=0)


def test_what_is_held_back_follows_before_a_fence_is_confirmed_behind_which_nothing_stands(broker: Broker) -> None:
    channel = held(broker, 250)
    for tag in range(1, 251):
        channel.ack(tag)
    number = channel.publish("queue", "fence")
    line = broker.lines[0]
    while number not in channel.confirmed:
        broker.step(line)
    channel.close()
    broker.settle()
    assert broker.depth("queue") == Depth(messages=1, consumers=0), "the fence alone"


def test_a_fence_is_confirmed_before_what_is_held_back_where_much_stands_behind_it(broker: Broker) -> None:
    channel = held(broker, 250)
    for tag in range(1, 251):
        channel.ack(tag)
    number = channel.publish("queue", "fence")
    for _ in range(32):
        channel.publish("queue", "later")
    line = broker.lines[0]
    while number not in channel.confirmed:
        broker.step(line)
    channel.close()
    broker.settle()
    assert broker.depth("queue") == Depth(messages=217 + 33, consumers=0)


def test_a_cancel_hands_over_what_is_held_back(broker: Broker) -> None:
    channel = held(broker, 250)
    for tag in range(1, 251):
        channel.ack(tag)
    channel.cancel()
    channel.close()
    broker.settle()
    assert broker.depth("queue") == Depth(messages=0, consumers=0)


def test_a_classic_queue_is_handed_everything(broker: Broker) -> None:
    broker.declare("classic", quorum=False)
    channel = broker.connect().channel()
    channel.consume("classic")
    for number in range(100):
        channel.publish("classic", f"m{number}")
    broker.settle()
    for tag in range(1, 101):
        channel.ack(tag)
    channel.close()
    broker.settle()
    assert broker.depth("classic") == Depth(messages=0, consumers=0)
