"""What was measured on the broker, fact by fact: a model that is kinder than the broker proves nothing."""

from unit.model.broker import Broker, Channel, Depth

QUEUE = "inbox"
TAKEOVER = 2147483647


def filled(count: int, *, quorum: bool = True, single_active: bool = True) -> Broker:
    broker = Broker()
    broker.declare(QUEUE, quorum=quorum, single_active=single_active)
    publish(broker, *(f"m{n}" for n in range(1, count + 1)))
    return broker


def publish(broker: Broker, *bodies: str) -> None:
    channel = broker.connect().channel()
    for body in bodies:
        channel.publish(QUEUE, body)
    broker.settle()


def consumer(broker: Broker, *, prefetch: int = 0, priority: int = 0, automatic: bool = False) -> Channel:
    channel = broker.connect().channel()
    channel.consume(QUEUE, prefetch=prefetch, priority=priority, automatic=automatic)
    broker.settle()
    return channel


def close(broker: Broker, channel: Channel) -> None:
    channel.close()
    broker.settle()


def ack(broker: Broker, channel: Channel, tag: int, *, multiple: bool = True) -> None:
    channel.ack(tag, multiple=multiple)
    broker.settle()


def bodies(channel: Channel) -> list[str]:
    return [delivery.body for delivery in channel.take()]


def test_a_takeover_waits_for_the_clients_acks_and_gets_everything_after_them() -> None:
    broker = filled(5)
    client = consumer(broker, prefetch=2)
    takeover = consumer(broker, priority=TAKEOVER)
    assert bodies(client) == ["m1", "m2"]
    assert bodies(takeover) == []
    ack(broker, client, 1, multiple=False)
    assert bodies(client) == [], "who quiesces is given nothing more"
    assert bodies(takeover) == []
    ack(broker, client, 2)
    assert bodies(takeover) == ["m3", "m4", "m5"]
    publish(broker, "m6")
    assert bodies(takeover) == ["m6"]
    assert bodies(client) == []


def test_what_is_on_its_way_to_who_cancels_comes_before_what_he_holds() -> None:
    for quorum, order in ((True, ["m3", "m4", "m1", "m2", "m5"]), (False, ["m1", "m2", "m3", "m4", "m5"])):
        broker = filled(5, quorum=quorum, single_active=False)
        client = consumer(broker, prefetch=4)
        client.cancel(coming=[3, 4])
        client.die()
        broker.settle()
        assert bodies(consumer(broker)) == order


def test_a_takeover_that_closes_gives_back_in_order_and_the_client_resumes() -> None:
    broker = filled(5)
    client = consumer(broker, prefetch=2)
    takeover = consumer(broker, priority=TAKEOVER)
    ack(broker, client, 2)
    close(broker, takeover)
    assert bodies(client) == ["m1", "m2", "m3", "m4"]
    ack(broker, client, 4)
    assert bodies(client) == ["m5"]


def test_returns_go_to_the_back_of_earlier_returns() -> None:
    """The router held m1-m5 and closed; a client with prefetch 1 got m1 and died."""
    broker = filled(5)
    close(broker, consumer(broker))
    client = consumer(broker, prefetch=1)
    assert bodies(client) == ["m1"]
    close(broker, client)
    assert bodies(consumer(broker)) == ["m2", "m3", "m4", "m5", "m1"]


def test_a_reader_that_changes_its_prefetch_reorders() -> None:
    broker = filled(6, single_active=False)
    close(broker, consumer(broker, prefetch=10))
    close(broker, consumer(broker, prefetch=2))
    assert bodies(consumer(broker, prefetch=10)) == ["m3", "m4", "m5", "m6", "m1", "m2"]


def test_a_reader_that_keeps_its_prefetch_does_not() -> None:
    broker = filled(6, single_active=False)
    for _ in range(3):
        close(broker, consumer(broker, prefetch=4))
    reader = consumer(broker, prefetch=4)
    assert bodies(reader) == ["m1", "m2", "m3", "m4"]
    ack(broker, reader, 4)
    assert bodies(reader) == ["m5", "m6"]


def test_returns_to_a_classic_queue_stay_where_they_stood() -> None:
    broker = filled(6, quorum=False, single_active=False)
    close(broker, consumer(broker, prefetch=10))
    close(broker, consumer(broker, prefetch=2))
    assert bodies(consumer(broker, prefetch=10)) == [f"m{n}" for n in range(1, 7)]


def test_returns_are_served_before_newer_messages() -> None:
    broker = filled(2)
    first = consumer(broker)
    publish(broker, "m3")
    close(broker, first)
    publish(broker, "m4")
    deliveries = consumer(broker).take()
    assert [(each.body, each.redelivered) for each in deliveries] == [
        ("m1", True),
        ("m2", True),
        ("m3", True),
        ("m4", False),
    ]


def test_quiescing_outlasts_the_takeover_that_caused_it() -> None:
    broker = filled(4)
    client = consumer(broker, prefetch=3)
    takeover = consumer(broker, priority=TAKEOVER)
    close(broker, takeover)
    assert bodies(client) == ["m1", "m2", "m3"]
    ack(broker, client, 2)
    assert bodies(client) == [], "there is credit for one, but it still quiesces"
    ack(broker, client, 3)
    assert bodies(client) == ["m4"]


def test_depth_counts_ready_messages_and_who_is_active() -> None:
    broker = filled(3)
    assert broker.depth(QUEUE) == Depth(messages=3, consumers=0)
    consumer(broker, prefetch=1)
    assert broker.depth(QUEUE) == Depth(messages=2, consumers=1)
    consumer(broker)
    assert broker.depth(QUEUE) == Depth(messages=2, consumers=1), "who waits does not count"


def test_a_client_that_cancelled_is_counted_until_it_holds_nothing() -> None:
    broker = filled(3)
    client = consumer(broker, prefetch=2)
    takeover = consumer(broker, priority=TAKEOVER)
    client.cancel()
    assert broker.depth(QUEUE) == Depth(messages=0, consumers=2)
    assert bodies(takeover) == ["m3"], "active although the client still works"
    ack(broker, client, 2)
    assert broker.depth(QUEUE) == Depth(messages=0, consumers=1)


def test_a_classic_queue_does_not_count_who_cancelled() -> None:
    """So a count of 0 proves less of a classic source: what was held may still return."""
    broker = filled(2, quorum=False, single_active=False)
    reader = consumer(broker)
    reader.cancel()
    assert broker.depth(QUEUE) == Depth(messages=0, consumers=0)
    close(broker, reader)
    assert broker.depth(QUEUE) == Depth(messages=2, consumers=0)


def test_what_a_cancelled_client_held_comes_after_what_was_behind_it() -> None:
    broker = filled(12)
    client = consumer(broker, prefetch=5)
    takeover = consumer(broker, priority=TAKEOVER)
    client.cancel()
    assert bodies(takeover) == [f"m{n}" for n in range(6, 13)]
    close(broker, client)
    assert bodies(takeover) == [f"m{n}" for n in range(1, 6)]
    assert broker.depth(QUEUE) == Depth(messages=0, consumers=1)


def test_automatic_acknowledgement_hides_what_a_client_has() -> None:
    broker = filled(100)
    client = consumer(broker, automatic=True)
    takeover = consumer(broker, priority=TAKEOVER)
    publish(broker, "m101")
    assert bodies(takeover) == ["m101"], "active at once"
    assert len(bodies(client)) == 100, "and all of these are still on their way"


def test_a_consumer_of_the_same_priority_waits_until_the_first_is_gone() -> None:
    """The journal as a lock."""
    broker = filled(1)
    router = consumer(broker)
    standby = consumer(broker)
    assert bodies(router) == ["m1"]
    publish(broker, "m2")
    assert bodies(router) == ["m2"]
    assert bodies(standby) == []
    close(broker, router)
    assert bodies(standby) == ["m1", "m2"], "old before new"


def test_after_a_cancel_a_successor_may_see_the_newer_first() -> None:
    """Why the journal is never cancelled."""
    broker = filled(1)
    router = consumer(broker)
    standby = consumer(broker)
    router.cancel()
    publish(broker, "m2")
    assert bodies(standby) == ["m2"]
    assert broker.depth(QUEUE) == Depth(messages=0, consumers=2)
    close(broker, router)
    assert bodies(standby) == ["m1"]


def test_of_equals_that_wait_the_one_with_more_credit_is_next() -> None:
    broker = filled(1)
    active = consumer(broker, prefetch=1)
    small, large = consumer(broker, prefetch=1), consumer(broker)
    close(broker, active)
    assert bodies(large) == ["m1"]
    assert bodies(small) == []


def test_a_client_that_requeues_its_last_message_under_a_takeover_stops_the_queue() -> None:
    """Nobody is active, whatever is published, until a consumer attaches or goes."""
    broker = filled(2)
    client = consumer(broker, prefetch=1)
    takeover = consumer(broker, priority=TAKEOVER)
    client.reject(1, requeue=True)
    publish(broker, "m3")
    broker.advance(60_000)
    assert broker.depth(QUEUE) == Depth(messages=3, consumers=0)
    assert bodies(takeover) == []
    close(broker, consumer(broker, priority=TAKEOVER))
    assert bodies(takeover) == ["m1", "m2", "m3"]


def test_a_client_that_rejects_its_last_message_under_a_takeover_does_not() -> None:
    broker = filled(2)
    client = consumer(broker, prefetch=1)
    takeover = consumer(broker, priority=TAKEOVER)
    client.reject(1)
    broker.settle()
    assert bodies(takeover) == ["m2"]


def test_a_purge_misses_what_consumers_hold() -> None:
    broker = filled(5)
    reader = consumer(broker, prefetch=3)
    assert reader.purge(QUEUE) == 2
    close(broker, reader)
    assert broker.depth(QUEUE) == Depth(messages=3, consumers=0)
