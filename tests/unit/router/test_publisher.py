"""What is on its way is known until the broker has it, and is not waited for without end."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from partymq.amqp.channel import Channel
from partymq.errors import BrokerError
from partymq.router import publisher as module
from partymq.router.link import Link
from partymq.router.outlet import UNLIMITED, Sink
from partymq.router.publisher import STALLED_AFTER, Publisher

_Settle = Callable[[int, bool], None]


class _Broker:
    """A channel whose publishes are confirmed when the test says so, and its link."""

    def __init__(self) -> None:
        self.blocked = False
        self.number = 1
        self.hooks: list[Callable[[], None]] = []
        self.on_chunk, self.off_chunk = self.hooks.append, self.hooks.remove

    def publish(self, *_: bytes) -> None:
        """Takes it."""

    async def confirm_select(self, on_confirm: _Settle, _on_nack: _Settle) -> None:
        self._on_confirm = on_confirm

    def confirm(self, tag: int, multiple: bool) -> None:
        self._on_confirm(tag, multiple)
        for hook in tuple(self.hooks):
            hook()


async def _publisher() -> tuple[_Broker, Publisher, Sink]:
    broker = _Broker()
    publisher = Publisher(cast(Link, broker), cast(Channel, broker))
    await publisher.journal.open()
    return broker, publisher, Sink(publisher.journal, b"", UNLIMITED)


async def test_the_oldest_is_what_waits() -> None:
    broker, publisher, sink = await _publisher()
    assert publisher.journal.oldest is None
    for _ in range(3):
        sink.publish(b"", b"")
    broker.confirm(2, False)
    assert publisher.journal.oldest == 1
    broker.confirm(1, False)
    assert publisher.journal.oldest == 3
    broker.confirm(3, True)
    assert publisher.journal.oldest is None


async def test_a_publish_that_is_never_confirmed_is_noticed() -> None:
    broker, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    assert not publisher.stalled(0)
    sink.publish(b"", b"")
    broker.confirm(2, False)
    assert not publisher.stalled(STALLED_AFTER - 1)
    assert publisher.stalled(STALLED_AFTER)


async def test_one_after_the_other_may_take_its_time() -> None:
    broker, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    for tag in range(1, 10):  # there is always one that waits
        sink.publish(b"", b"")
        broker.confirm(tag, False)
        assert not publisher.stalled(tag * (STALLED_AFTER - 1))


async def test_a_broker_that_takes_no_messages_is_waited_for() -> None:
    broker, publisher, sink = await _publisher()
    sink.publish(b"", b"")
    assert not publisher.stalled(0)
    broker.blocked = True
    assert not publisher.stalled(STALLED_AFTER)
    broker.blocked = False
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
    settled = asyncio.create_task(publisher.settled(sink))
    broker.confirm(1, False)
    await asyncio.sleep(0)
    assert not settled.done()
    broker.confirm(3, False)
    await asyncio.wait_for(settled, 5)
    assert (sink.unconfirmed, other.unconfirmed) == (0, 1)
    assert not broker.hooks
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
    broker.confirm(3, False)
    assert publisher.journal.forget_arrival(7)
    assert not publisher.journal.forget_arrival(7)
