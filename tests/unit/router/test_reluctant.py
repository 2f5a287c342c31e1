"""What a queue refuses is sent again, in order and one at a time; what it was not given can be taken back."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from partymq.router import reluctant as module
from partymq.router.outlet import Outlet, Sink
from partymq.router.publisher import Publisher
from partymq.router.reluctant import Message, Reluctant
from support.conditions import eventually

_Settle = Callable[[int, bool], None]


class Broker:
    """A channel to a queue that takes what the test says, and its link."""

    blocked = False
    number = 1

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.hooks: list[Callable[[], None]] = []
        self.on_chunk, self.off_chunk = self.hooks.append, self.hooks.remove
        self.sent: list[bytes] = []
        """Headers, by their numbers less one."""
        self.changes: list[int] = []

    def publish(self, _frame: bytes, header: bytes, _body: bytes) -> None:
        self.sent.append(header)

    async def confirm_select(self, on_confirm: _Settle, on_nack: _Settle) -> None:
        self.confirm, self.nack = on_confirm, on_nack

    def chunk(self) -> None:
        for hook in tuple(self.hooks):
            hook()


class Source:
    """Whose messages they are."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.stopped = False

    def confirmed(self, tag: int) -> None:
        self.done.append(tag)

    def stays(self, tag: int) -> None:
        self.done.append(-tag)

    def keeps(self, tag: int) -> bool:
        return -tag in self.done

    def leaves(self, tag: int) -> None:
        self.done.remove(-tag)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST", 0.01)
    monkeypatch.setattr(module, "MOST", 0.02)


async def _stage() -> tuple[Broker, Publisher, Sink, Source]:
    broker, source = Broker(), Source()
    publisher = Publisher(cast(Any, broker), cast(Any, broker))
    outlet = Outlet(cast(Any, broker), cast(Any, broker))
    await outlet.open()
    outlet.serve(source)
    publisher._outlets = [outlet] * 4
    publisher.on_reluctant = lambda changed: broker.changes.append(changed.kept)
    return broker, publisher, publisher.sink("q"), source


async def test_what_was_refused_is_sent_again_in_order_and_before_what_is_newer() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2, 3, 4):
        sink.arrival(b"%d" % tag, b"", tag)
    broker.nack(3, False)
    broker.confirm(2, False)
    sink.outlet.arrival(sink, b"5", b"", 5)
    assert len(broker.sent) == 4, "nothing is sent while more may be refused"
    broker.nack(1, False)
    broker.confirm(4, False)
    assert (sink.unconfirmed, publisher.kept) == (3, 3)
    for number, header in ((5, b"1"), (6, b"3"), (7, b"5")):
        await eventually(lambda n=number: len(broker.sent) == n, "it is not sent again", every=0)  # type: ignore[misc]
        assert broker.sent[-1] == header
        broker.confirm(number, False)
    assert source.done == [2, 4, 1, 3, 5]
    assert (sink.unconfirmed, publisher.kept) == (0, 0)
    assert broker.changes[-1] == 0
    sink.outlet.arrival(sink, b"6", b"", 6)
    sink.outlet.arrival(sink, b"7", b"", 7)
    assert broker.sent[7:] == [b"6"], "one at a time from then on"
    broker.confirm(8, False)
    assert broker.sent[7:] == [b"6", b"7"]


async def test_many_are_refused_at_once() -> None:
    broker, _, sink, source = await _stage()
    for tag in range(1, 6):
        sink.arrival(b"%d" % tag, b"", tag)
    broker.confirm(2, True)
    broker.nack(5, True)
    for number in (6, 7, 8):
        await eventually(lambda n=number: len(broker.sent) == n, "it is not sent again", every=0)  # type: ignore[misc]
        broker.confirm(number, False)
    assert broker.sent[5:] == [b"3", b"4", b"5"]
    assert source.done == [1, 2, 3, 4, 5]


async def test_one_that_is_refused_again_keeps_its_place() -> None:
    broker, _, sink, source = await _stage()
    sink.arrival(b"1", b"", 1)
    broker.nack(1, False)
    sink.outlet.publish(sink, b"2", b"", source, 2)
    for number in (2, 3, 4):
        await eventually(lambda n=number: len(broker.sent) == n, "it is not sent again", every=0)  # type: ignore[misc]
        broker.nack(number, False)
    await eventually(lambda: len(broker.sent) == 5, "it is not sent again", every=0)
    broker.confirm(5, False)
    broker.confirm(6, False)
    assert broker.sent == [b"1"] * 5 + [b"2"]
    assert source.done == [1, 2]


async def test_what_a_client_has_not_been_given_can_be_taken_from_it() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2):
        sink.arrival(b"%d" % tag, b"", tag)
    line = publisher.reluctant(sink)
    line.pause()
    sink.outlet.arrival(sink, b"3", b"", 3)
    sink.outlet.publish(sink, b"4", b"", source, 4)
    assert line.under_way == 2
    broker.nack(2, False)
    broker.confirm(1, False)
    assert not line.under_way
    assert [(m.header, m.tag, m.arrived) for m in line.take()] == [(b"2", 2, True), (b"3", 3, True), (b"4", 4, False)]
    assert (sink.unconfirmed, source.done, len(broker.sent)) == (0, [1], 2)
    publisher.release(line)
    assert not publisher.keepers


async def test_the_source_takes_back_what_it_has_delivered() -> None:
    broker, publisher, sink, source = await _stage()
    sink.arrival(b"1", b"", 1)
    broker.nack(1, False)
    sink.outlet.arrival(sink, b"2", b"", 2)
    sink.outlet.publish(sink, b"3", b"", source, 3)
    await eventually(lambda: len(broker.sent) == 2, "it is not sent again", every=0)
    publisher.drop_arrivals()
    assert sink.unconfirmed == 2, "one is on its way, and one was not the source's"
    broker.nack(2, False)
    assert broker.sent[2:] == [b"3"], "what the source has taken back is not sent again"
    broker.confirm(3, False)
    assert (source.done, sink.unconfirmed) == ([3], 0)


async def test_what_is_refused_when_the_source_has_stopped_goes_back_to_it() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2):
        sink.arrival(b"%d" % tag, b"", tag)
    source.stopped = True
    publisher.drop_arrivals()
    broker.nack(1, False)
    broker.confirm(2, False)
    assert (source.done, sink.unconfirmed, publisher.kept) == ([2], 0, 0)
    assert not isinstance(sink.way, Reluctant)


async def test_one_that_comes_back_is_not_confirmed() -> None:
    broker, publisher, sink, source = await _stage()
    sink.arrival(b"1", b"", 1)
    broker.nack(1, False)
    await eventually(lambda: len(broker.sent) == 2, "it is not sent again", every=0)
    assert publisher.forget_arrival(1)
    assert not publisher.forget_arrival(1)
    broker.confirm(2, False)
    assert source.done == []
    assert sink.unconfirmed == 0


async def test_who_publishes_may_take_care_of_it_himself() -> None:
    _, publisher, _, source = await _stage()
    broker = cast(Broker, cast(Any, publisher)._link)
    refused: list[Message] = []
    sink = publisher.sink("other", refused=refused.append)
    sink.publish(b"1", b"body", origin=source, tag=7)
    broker.nack(1, False)
    (message,) = refused
    assert (message.header, message.body, message.origin, message.tag) == (b"1", b"body", source, 7)
    assert sink.unconfirmed == 0
    assert not isinstance(sink.way, Reluctant)


async def test_a_session_that_is_over_sends_nothing() -> None:
    broker, _, sink, _ = await _stage()
    sink.arrival(b"1", b"", 1)
    sink.arrival(b"2", b"", 2)
    broker.nack(1, False)
    broker.closed.set_result(None)
    line = sink.way
    assert isinstance(line, Reluctant)
    await eventually(lambda: line._timer is None, "it goes on", every=0)
    assert len(broker.sent) == 2


async def test_a_copy_that_fits_nowhere_counts_as_on_its_way_until_it_is_set_aside() -> None:
    """Its original is acknowledged when all copies have arrived."""
    broker, publisher, sink, _ = await _stage()
    sink.publish(b"1", b"")
    broker.nack(1, False)
    await eventually(lambda: len(broker.sent) == 2, "it is not sent again", every=0)
    (outlet, *_) = publisher.outlets
    stay = outlet.keep(2)
    assert stay is not None
    assert sink.unconfirmed == 1
    stay.end()
    assert not sink.unconfirmed


async def test_what_waits_is_led_through_another_queue_and_back() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2, 3):
        sink.arrival(b"%d" % tag, b"", tag)
    broker.nack(2, True)
    broker.confirm(3, False)
    line, aside, back = publisher.reluctant(sink), publisher.sink("aside"), Source()
    line.pause()
    sink.outlet.arrival(sink, b"4", b"", 4)
    line.divert(aside, back)
    assert broker.sent[3:] == [b"1", b"2", b"4"], "in order, to the other queue"
    assert (line.kept, line.has_room, sink.unconfirmed, aside.unconfirmed) == (0, True, 0, 3)
    line.go_on()
    sink.outlet.publish(sink, b"5", b"", source, 5)
    broker.confirm(7, True)
    assert source.done == [3, 1, 2, 4, 5]
    sink.outlet.publish(sink, b"1", b"", back, 10)
    await eventually(lambda: broker.sent[7:] == [b"1"], "it is not given out", every=0)
    assert (line.has_room, line.under_way) == (False, 1)
    line.park()
    sink.outlet.arrival(sink, b"6", b"", 6)
    assert (len(broker.sent), line.kept, publisher.kept) == (8, 2, 1)
    room: list[int] = []
    line.on_room = lambda: room.append(1)
    broker.confirm(8, False)
    assert (back.done, room, line.has_room) == ([10], [1], True)
    line.rejoin()
    assert broker.sent[8:] == [b"6"], "straight again"
    broker.confirm(9, False)
    assert (source.done[-1], sink.unconfirmed, line.kept) == (6, 0, 0)


async def test_what_is_parked_beside_a_full_queue_goes_to_the_other_one_after_all() -> None:
    broker, publisher, sink, _ = await _stage()
    line, aside, back = publisher.reluctant(sink), publisher.sink("aside"), Source()
    line.divert(aside, back)
    sink.outlet.publish(sink, b"1", b"", back, 1)
    broker.nack(1, False)
    line.park()
    for tag in (2, 3):
        sink.outlet.arrival(sink, b"%d" % tag, b"", tag)
    line.divert(aside, back)
    assert broker.sent == [b"1", b"2", b"3"], "what has been there waits for room"
    assert (line.kept, aside.unconfirmed) == (1, 2)
    line.park()
    sink.outlet.arrival(sink, b"4", b"", 4)
    line.pause()
    assert [message.header for message in line.take()] == [b"4"], "what stands in the other queue is not given up"
    assert (sink.unconfirmed, line.under_way) == (0, 0)


async def test_the_source_takes_back_what_is_parked() -> None:
    broker, publisher, sink, source = await _stage()
    line = publisher.reluctant(sink)
    line.park()
    sink.outlet.arrival(sink, b"1", b"", 1)
    sink.outlet.publish(sink, b"2", b"", source, 2)
    publisher.drop_arrivals()
    assert (publisher.kept, line.kept, sink.unconfirmed) == (0, 1, 1)
    line.rejoin()
    assert broker.sent == [b"2"]


async def test_somebody_is_told_when_much_waits() -> None:
    broker, publisher, sink, _ = await _stage()
    publisher.reluctant(sink)
    for tag in range(1, module.MUCH + 3):
        sink.outlet.arrival(sink, b"", b"", tag)
    assert broker.changes == [module.MUCH + 1], "with the one that is under way"
