"""What is on its way is known until the broker has it, and is not waited for without end."""

import asyncio

import pytest

from partymq.errors import BrokerError
from partymq.router.publish import publisher as module
from partymq.router.publish.outlet import UNLIMITED, Sink
from partymq.router.publish.publisher import STALLED_AFTER, Publisher
from unit.router.doubles import FakeChannel, FakeLink


class _Broker(FakeChannel):
    """A channel whose publishes are confirmed when the test says so, and its link."""

    def __init__(self) -> None:
        self.link = FakeLink()
        super().__init__(self.link)

    def settle(self, tag: int, multiple: bool) -> None:
        self.confirmed(tag, multiple)
        self.link.chunk_over()


async def _publisher() -> tuple[_Broker, Publisher, Sink]:
    broker = _Broker()
    publisher = Publisher(broker.link, broker)
    await publisher.journal.open()
    return broker, publisher, Sink(publisher.journal, b"", UNLIMITED)


async def test_the_oldest_is_what_waits() -> None:
    broker, publisher, sink = await _publisher()
    assert publisher.journal.oldest is None
    for _ in range(3):
        sink.publish(b"", b"")
    broker.settle(2, False)
    assert publisher.journal.oldest == 1
    broker.settle(1, False)
    assert publisher.journal.oldest == 3
    broker.settle(3, True)
    assert publisher.journal.oldest is None


async def test_a_publish_that_is_never_confirmed_is_noticed() -> None:
    broker, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    assert not publisher.stalled(0)
    sink.publish(b"", b"")
    broker.settle(2, False)
    assert not publisher.stalled(STALLED_AFTER - 1)
    assert publisher.stalled(STALLED_AFTER)


async def test_one_after_the_other_may_take_its_time() -> None:
    broker, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    for tag in range(1, 10):  # there is always one that waits
        sink.publish(b"", b"")
        broker.settle(tag, False)
        assert not publisher.stalled(tag * (STALLED_AFTER - 1))


async def test_a_broker_that_takes_no_messages_is_waited_for() -> None:
    broker, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    assert not publisher.stalled(0)
    broker.link.connection.blocked_since = 0.0
    assert not publisher.stalled(STALLED_AFTER)
    broker.link.connection.blocked_since = None
    assert not publisher.stalled(STALLED_AFTER + 1), "the time begins when it takes messages again"
    assert publisher.stalled(2 * STALLED_AFTER + 1)


async def test_it_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(module, "STALLED_AFTER", 0.0)
    _, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    with pytest.raises(BrokerError, match="quorum_status"):
        await asyncio.wait_for(publisher.watch(), 5)


async def test_a_queue_is_settled_when_its_own_messages_are_confirmed() -> None:
    broker, publisher, sink = await _publisher()
    other = Sink(publisher.journal, b"", UNLIMITED)
    for to in (sink, other, sink):
        to.publish(b"", b"")
    hooks = broker.link.connection._hooks
    settled = asyncio.create_task(publisher.settled(sink))
    broker.settle(1, False)
    await asyncio.sleep(0)
    assert not settled.done()
    broker.settle(3, False)
    await asyncio.wait_for(settled, 5)
    assert (sink.unconfirmed, other.unconfirmed) == (0, 1)
    assert broker.link.connection._hooks == hooks, "nobody looks any more"
    await asyncio.wait_for(publisher.settled(sink), 5)  # it was before


async def test_what_came_back_is_not_waited_for() -> None:
    _, publisher, sink = await _publisher()
    sink.arrival(b"", b"", 7)
    assert sink.unconfirmed == 1
    assert publisher.journal.forget_arrival(7)
    assert not publisher.journal.forget_arrival(7)
    assert sink.unconfirmed == 0


async def test_what_came_back_is_an_arrival_only_where_it_can_be_nothing_else() -> None:
    """A message out of a segment may carry the stamp of an arrival that is under way."""
    broker, publisher, sink = await _publisher()
    elsewhere = Sink(publisher.journal, b"elsewhere", UNLIMITED)
    sink.arrival(b"", b"", 7)
    elsewhere.publish(b"", b"")
    sink.publish(b"", b"")
    assert not publisher.journal.forget_arrival(7)
    broker.settle(3, False)
    assert publisher.journal.forget_arrival(7)
    assert not publisher.journal.forget_arrival(7)
