"""What a queue refuses is sent again, in order and one at a time; what it was not given can be taken back."""

import pytest

from partymq.router.publish import refusing_queue as module
from partymq.router.publish.outlet import Outlet, Refused, Sink
from partymq.router.publish.publisher import Publisher
from partymq.router.publish.refusing_queue import RefusingQueue
from support.conditions import eventually
from unit.router.doubles import FakeChannel, FakeLink


class Broker(FakeChannel):
    """A channel to a queue that takes what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[int] = []


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
    publisher = Publisher(FakeLink(), broker)
    outlet = Outlet(broker)
    await outlet.open()
    outlet.serve(source)
    publisher._outlets = [outlet] * 4
    publisher.refusing_changed.connect(lambda changed: broker.changes.append(changed.kept))
    return broker, publisher, publisher.sink("q"), source


async def test_what_was_refused_is_sent_again_in_order_and_before_what_is_newer() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2, 3, 4):
        sink.arrival(b"%d" % tag, b"", tag)
    broker.nacked(3, False)
    broker.confirmed(2, False)
    sink.outlet.arrival(sink, b"5", b"", 5)
    assert len(broker.published) == 4, "nothing is sent while more may be refused"
    broker.nacked(1, False)
    broker.confirmed(4, False)
    assert (sink.unconfirmed, publisher.kept) == (3, 3)
    for number, header in ((5, b"1"), (6, b"3"), (7, b"5")):
        await eventually(lambda n=number: len(broker.published) == n, "it is not sent again", every=0)  # type: ignore[misc]
        assert broker.published[-1] == header
        broker.confirmed(number, False)
    assert source.done == [2, 4, 1, 3, 5]
    assert (sink.unconfirmed, publisher.kept) == (0, 0)
    assert broker.changes[-1] == 0
    sink.outlet.arrival(sink, b"6", b"", 6)
    sink.outlet.arrival(sink, b"7", b"", 7)
    assert broker.published[7:] == [b"6"], "one at a time from then on"
    broker.confirmed(8, False)
    assert broker.published[7:] == [b"6", b"7"]


async def test_many_are_refused_at_once() -> None:
    broker, _, sink, source = await _stage()
    for tag in range(1, 6):
        sink.arrival(b"%d" % tag, b"", tag)
    broker.confirmed(2, True)
    broker.nacked(5, True)
    for number in (6, 7, 8):
        await eventually(lambda n=number: len(broker.published) == n, "it is not sent again", every=0)  # type: ignore[misc]
        broker.confirmed(number, False)
    assert broker.published[5:] == [b"3", b"4", b"5"]
    assert source.done == [1, 2, 3, 4, 5]


async def test_one_that_is_refused_again_keeps_its_place() -> None:
    broker, _, sink, source = await _stage()
    sink.arrival(b"1", b"", 1)
    broker.nacked(1, False)
    sink.outlet.publish(sink, b"2", b"", source, 2)
    for number in (2, 3, 4):
        await eventually(lambda n=number: len(broker.published) == n, "it is not sent again", every=0)  # type: ignore[misc]
        broker.nacked(number, False)
    await eventually(lambda: len(broker.published) == 5, "it is not sent again", every=0)
    broker.confirmed(5, False)
    broker.confirmed(6, False)
    assert broker.published == [b"1"] * 5 + [b"2"]
    assert source.done == [1, 2]


async def test_what_a_client_has_not_been_given_can_be_taken_from_it() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2):
        sink.arrival(b"%d" % tag, b"", tag)
    line = publisher.refusing(sink)
    line.pause()
    sink.outlet.arrival(sink, b"3", b"", 3)
    sink.outlet.publish(sink, b"4", b"", source, 4)
    assert line.under_way == 2
    broker.nacked(2, False)
    broker.confirmed(1, False)
    assert not line.under_way
    assert [(m.header, m.tag, m.arrived) for m in line.take()] == [(b"2", 2, True), (b"3", 3, True), (b"4", 4, False)]
    assert (sink.unconfirmed, source.done, len(broker.published)) == (0, [1], 2)
    publisher.release(line)
    assert not publisher._keepers


async def test_the_source_takes_back_what_it_has_delivered() -> None:
    broker, publisher, sink, source = await _stage()
    sink.arrival(b"1", b"", 1)
    broker.nacked(1, False)
    sink.outlet.arrival(sink, b"2", b"", 2)
    sink.outlet.publish(sink, b"3", b"", source, 3)
    await eventually(lambda: len(broker.published) == 2, "it is not sent again", every=0)
    publisher.drop_arrivals()
    assert sink.unconfirmed == 2, "one is on its way, and one was not the source's"
    broker.nacked(2, False)
    assert broker.published[2:] == [b"3"], "what the source has taken back is not sent again"
    broker.confirmed(3, False)
    assert (source.done, sink.unconfirmed) == ([3], 0)


async def test_what_is_refused_when_the_source_has_stopped_goes_back_to_it() -> None:
    broker, publisher, sink, source = await _stage()
    for tag in (1, 2):
        sink.arrival(b"%d" % tag, b"", tag)
    source.stopped = True
    publisher.drop_arrivals()
    broker.nacked(1, False)
    broker.confirmed(2, False)
    assert (source.done, sink.unconfirmed, publisher.kept) == ([2], 0, 0)
    assert not isinstance(sink.way, RefusingQueue)


async def test_one_that_comes_back_is_not_confirmed() -> None:
    broker, publisher, sink, source = await _stage()
    sink.arrival(b"1", b"", 1)
    broker.nacked(1, False)
    await eventually(lambda: len(broker.published) == 2, "it is not sent again", every=0)
    assert publisher.forget_arrival(1)
    assert not publisher.forget_arrival(1)
    broker.confirmed(2, False)
    assert source.done == []
    assert sink.unconfirmed == 0


async def test_who_publishes_may_take_care_of_it_himself() -> None:
    broker, publisher, _, source = await _stage()
    refused: list[Refused] = []
    sink = publisher.sink("other", refused=refused.append)
    sink.publish(b"1", b"body", origin=source, tag=7)
    broker.nacked(1, False)
    (message,) = refused
    assert (message.header, message.body, message.origin, message.tag) == (b"1", b"body", source, 7)
    assert sink.unconfirmed == 0
    assert not isinstance(sink.way, RefusingQueue)


async def test_a_session_that_is_over_sends_nothing() -> None:
    broker, _, sink, _ = await _stage()
    sink.arrival(b"1", b"", 1)
    sink.arrival(b"2", b"", 2)
    broker.nacked(1, False)
    broker.closed.set_result(None)
    line = sink.way
    assert isinstance(line, RefusingQueue)
    await eventually(lambda: line._timer is None, "it goes on", every=0)
    assert len(broker.published) == 2


async def test_a_copy_that_fits_nowhere_counts_as_on_its_way_until_it_is_set_aside() -> None:
    """Its original is acknowledged when all copies have arrived."""
    broker, publisher, sink, _ = await _stage()
    sink.publish(b"1", b"")
    broker.nacked(1, False)
    await eventually(lambda: len(broker.published) == 2, "it is not sent again", every=0)
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
    broker.nacked(2, True)
    broker.confirmed(3, False)
    line, aside, back = publisher.refusing(sink), publisher.sink("aside"), Source()
    room: list[int] = []
    line.pause()
    sink.outlet.arrival(sink, b"4", b"", 4)
    line.divert(aside, back, on_room=lambda: room.append(1))
    assert broker.published[3:] == [b"1", b"2", b"4"], "in order, to the other queue"
    assert (line.kept, line.has_room, sink.unconfirmed, aside.unconfirmed) == (0, True, 0, 3)
    line.go_on()
    sink.outlet.publish(sink, b"5", b"", source, 5)
    broker.confirmed(7, True)
    assert source.done == [3, 1, 2, 4, 5]
    sink.outlet.publish(sink, b"1", b"", back, 10)
    await eventually(lambda: broker.published[7:] == [b"1"], "it is not given out", every=0)
    assert (line.has_room, line.under_way) == (False, 1)
    line.park()
    sink.outlet.arrival(sink, b"6", b"", 6)
    assert (len(broker.published), line.kept, publisher.kept) == (8, 2, 1)
    room.clear()
    broker.confirmed(8, False)
    assert (back.done, room, line.has_room) == ([10], [1], True)
    line.rejoin()
    assert broker.published[8:] == [b"6"], "straight again"
    broker.confirmed(9, False)
    assert (source.done[-1], sink.unconfirmed, line.kept) == (6, 0, 0)


async def test_what_is_parked_beside_a_full_queue_goes_to_the_other_one_after_all() -> None:
    broker, publisher, sink, _ = await _stage()
    line, aside, back = publisher.refusing(sink), publisher.sink("aside"), Source()
    line.divert(aside, back, on_room=lambda: None)
    sink.outlet.publish(sink, b"1", b"", back, 1)
    broker.nacked(1, False)
    line.park()
    for tag in (2, 3):
        sink.outlet.arrival(sink, b"%d" % tag, b"", tag)
    line.divert(aside, back, on_room=lambda: None)
    assert broker.published == [b"1", b"2", b"3"], "what has been there waits for room"
    assert (line.kept, aside.unconfirmed) == (1, 2)
    line.park()
    sink.outlet.arrival(sink, b"4", b"", 4)
    line.pause()
    assert [message.header for message in line.take()] == [b"4"], "what stands in the other queue is not given up"
    assert (sink.unconfirmed, line.under_way) == (0, 0)


async def test_the_source_takes_back_what_is_parked() -> None:
    broker, publisher, sink, source = await _stage()
    line = publisher.refusing(sink)
    line.park()
    sink.outlet.arrival(sink, b"1", b"", 1)
    sink.outlet.publish(sink, b"2", b"", source, 2)
    publisher.drop_arrivals()
    assert (publisher.kept, line.kept, sink.unconfirmed) == (0, 1, 1)
    line.rejoin()
    assert broker.published == [b"2"]


async def test_somebody_is_told_when_much_waits() -> None:
    broker, publisher, sink, _ = await _stage()
    publisher.refusing(sink)
    for tag in range(1, module.MUCH + 3):
        sink.outlet.arrival(sink, b"", b"", tag)
    assert broker.changes == [module.MUCH + 1], "with the one that is under way"
