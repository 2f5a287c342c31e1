"""What is on its way is known until the broker has it, and is not waited for without end."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from partymq.amqp.channel import Channel
from partymq.errors import BrokerError
from partymq.router import publisher as module
from partymq.router.link import Link
from partymq.router.publisher import STALLED_AFTER, UNLIMITED, Publisher, Sink

_Settle = Callable[[int, bool], None]


class _Broker:
    """A channel whose publishes are confirmed when the test says so, and its link."""

    confirm: _Settle

    def __init__(self) -> None:
        self.blocked = False
        self.number = 1

    def publish(self, *_: bytes) -> None:
        """Takes it."""

    async def confirm_select(self, on_confirm: _Settle, _on_nack: _Settle) -> None:
        self.confirm = on_confirm


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
