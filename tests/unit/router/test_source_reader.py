"""A source is closed so that whatever dies meanwhile, its messages stand in it in their order."""

import asyncio
from collections.abc import Callable

import pytest

from partymq.router.broker.source_connection import SourceConnection
from partymq.router.failpoints import Point
from partymq.router.flow import source_reader as module
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane
from partymq.router.flow.source_reader import Routes, Source
from support.conditions import eventually
from unit.router.doubles import FakeChannel, FakeLink, FakePublisher, context

PREFETCH = 10
HEADER = b"\x00\x3c\x00\x00" + bytes(8) + b"\x00\x00"


class _Channel(FakeChannel):
    """The source's: says what was done, and has things happen in round trips."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        self.meanwhile: dict[int, Callable[[], None]] = {}
        self._round_trips = 0

    async def inspect(self, queue: str) -> tuple[int, int]:
        await self._round_trip()
        return 0, 1

    async def cancel(self) -> None:
        self.did.append("cancel")
        await self._round_trip()

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.did.append(f"ack {'to ' if multiple else ''}{tag}")

    def give_back(self) -> None:
        self.did.append("give back")

    async def _round_trip(self) -> None:
        self._round_trips += 1
        await asyncio.sleep(0)
        self.meanwhile.get(self._round_trips, lambda: None)()
        await asyncio.sleep(0)


class _SourceConnection(SourceConnection):
    """One whose chunks are those of the data connection."""

    def __init__(self, link: FakeLink, channel: _Channel) -> None:
        super().__init__(link.connection, channel, link.budget, link.whole.part())
        self._link = link

    def let_go(self) -> None:
        super().let_go()
        self._link.chunk_over()


class _Link(FakeLink):
    """Reads the source through a channel of the test's."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__()
        self._source_channel = channel

    async def source_connection(self) -> SourceConnection:
        return _SourceConnection(self, self._source_channel)

    async def shut_source_connection(self) -> None:
        self._source_channel.did.append("close")


class _Publisher(FakePublisher):
    """Every message is still on its way when it comes back."""

    def forget_arrival(self, tag: int) -> bool:
        return True


class _Broker:
    """What a source asks of a session: messages are confirmed when the test says so."""

    def __init__(self) -> None:
        self._channel = _Channel()
        self._link = _Link(self._channel)
        self.did = self._channel.did
        self.parked: list[Lane] = []
        self._delivered = 0
        self.table = LaneTable(1)
        self.table.waits.connect(self.parked.append)
        routes = Routes(
            lanes=self.table.lanes,
            hashed=1,
            read_key=lambda *_: b"key",
            on_missing=lambda *_: None,
            on_oversized=lambda *_: None,
            on_returns=lambda _: None,
        )
        parts = context(link=self._link, publisher=_Publisher(), checkpoint=self._reached)
        self.source = Source(parts, self.table, routes, base=0)

    def deliver(self, count: int, *, redelivered: bool = False) -> None:
        for _ in range(count):
            self._delivered += 1
            self._channel.content.redelivered = redelivered
            self._channel.content.on_delivery(self._delivered, b"", HEADER, b"")
        self._link.chunk_over()

    def confirm(self, *tags: int) -> None:
        for tag in tags:
            self.source._acks.confirmed(tag)
        self._link.chunk_over()

    def _reached(self, point: Point) -> None:
        self.did.append(point.value)

    def in_round_trip(self, number: int, what: Callable[[], None]) -> None:
        """Has that happen during a round trip, counted from 1."""
        self._channel.meanwhile[number] = what


async def _settled(_gave_back: bool) -> None:
    """As soon as it is asked."""


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> _Broker:
    """Its source is open and not begun."""
    monkeypatch.setattr(module, "PREFETCH", PREFETCH)
    monkeypatch.setattr(module, "UNPROVEN", 0.0)
    broker = _Broker()
    await broker.source.open("orders")
    return broker


@pytest.fixture
async def broker(opened: _Broker) -> _Broker:
    opened.source.begin()
    return opened


async def test_what_came_back_has_passed_when_all_of_it_is_confirmed(broker: _Broker) -> None:
    broker.deliver(3, redelivered=True)
    broker.confirm(1, 2, 3)
    assert not broker.source.passed(0), "more of it may come"
    broker.deliver(1)
    assert broker.source.passed(3)
    assert not broker.source.passed(4), "so many were under way"
    broker.confirm(4)
    assert broker.source.passed(4)


async def test_what_came_back_and_is_not_confirmed_has_not_passed(broker: _Broker) -> None:
    broker.deliver(3, redelivered=True)
    broker.deliver(2)
    broker.confirm(1, 3, 4, 5)
    assert not broker.source.passed(0)
    broker.confirm(2)
    assert broker.source.passed(0)


async def test_what_came_back_before_the_source_was_begun_counts(opened: _Broker) -> None:
    opened.deliver(2, redelivered=True)
    opened.source.begin()
    opened.deliver(1)
    opened.confirm(1)
    assert not opened.source.passed(0)
    opened.confirm(2)
    assert opened.source.passed(0)


async def test_what_comes_after_a_whole_prefetch_that_came_before_goes_its_way(opened: _Broker) -> None:
    opened.deliver(PREFETCH)
    opened.source.begin()
    opened.deliver(1)
    opened.confirm(*range(1, PREFETCH + 2))
    assert opened.source.unsettled == 0


async def test_an_idle_source_is_cancelled(broker: _Broker) -> None:
    broker.deliver(3)
    broker.confirm(1, 2, 3)
    await broker.source.close(_settled)
    assert broker.did == ["ack to 3", "cancel", "source.cancelled", "close"]


async def test_nothing_is_acknowledged_before_what_was_delivered_is_confirmed(broker: _Broker) -> None:
    broker.deliver(3)
    broker.confirm(1)
    closing = await _closing(broker)
    broker.confirm(2)
    await _stays(closing)
    assert broker.did == ["ack to 1"]
    broker.confirm(3)
    await closing
    assert broker.did == ["ack to 1", "ack to 3", "cancel", "source.cancelled", "close"]


@pytest.mark.parametrize("round_trip", [1, 2])
async def test_what_comes_meanwhile_is_waited_for(broker: _Broker, round_trip: int) -> None:
    """In the second round trip, too: what the broker's channel had not handled before the first comes with that."""
    broker.deliver(1)
    broker.confirm(1)
    broker.in_round_trip(round_trip, lambda: broker.deliver(1))
    closing = await _closing(broker)
    await _stays(closing)
    assert "cancel" not in broker.did
    broker.confirm(2)
    await closing
    assert broker.did == ["ack to 1", "ack to 2", "cancel", "source.cancelled", "close"]


async def test_it_is_cancelled_when_its_credit_is_used_up_and_acknowledges_then(broker: _Broker) -> None:
    broker.deliver(PREFETCH)
    closing = await _closing(broker)
    await eventually(lambda: "source.cancelled" in broker.did, "it is not cancelled")
    broker.confirm(*range(1, PREFETCH))
    await _stays(closing)
    assert broker.did == ["cancel", "source.cancelled"]
    broker.confirm(PREFETCH)
    await closing
    assert broker.did == ["cancel", "source.cancelled", f"ack to {PREFETCH}", "close"]


async def test_what_came_after_it_had_asked_goes_its_way(broker: _Broker) -> None:
    broker.in_round_trip(3, lambda: broker.deliver(1))  # that of the cancel
    closing = await _closing(broker)
    await eventually(lambda: "source.cancelled" in broker.did, "it is not cancelled")
    await _stays(closing)
    broker.confirm(1)
    await closing
    assert broker.did == ["cancel", "source.cancelled", "ack to 1", "close"]


async def test_what_came_back_keeps_its_place_because_nothing_is_cancelled(broker: _Broker) -> None:
    broker.deliver(3)
    broker.confirm(1)
    assert broker.source.returned(2)
    broker.confirm(3)
    await broker.source.close(_settled)
    assert broker.did == ["ack to 1", "ack 3", "close"]


async def test_without_credit_what_came_back_is_given_back(broker: _Broker) -> None:
    broker.deliver(PREFETCH)
    assert broker.source.returned(1)
    broker.confirm(*range(2, PREFETCH + 1))
    await broker.source.close(_settled)
    done = [f"ack {tag}" for tag in range(2, PREFETCH + 1)]
    assert broker.did == ["cancel", "source.cancelled", *done, "give back", "close"]


async def test_what_does_not_go_its_way_in_time_keeps_its_place(
    broker: _Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    broker.deliver(2)
    broker.confirm(1)
    await broker.source.close(_settled)
    assert broker.did == ["ack to 1", "close"]
    assert not any(lane.parked for lane in broker.parked)
    broker.deliver(1)
    assert not any(lane.parked for lane in broker.parked), "what comes after that is not taken"


async def test_a_slow_broker_is_waited_for_while_it_goes_on(broker: _Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STUCK_AFTER", 0.2)
    broker.deliver(8)
    _confirm_slowly(broker, 8)
    await broker.source.close(_settled)
    assert broker.did == ["ack to 8", "cancel", "source.cancelled", "close"]


async def test_even_where_it_goes_on_the_order_is_worth_more_than_the_proof_in_the_end(
    broker: _Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_WITHIN", 0.1)
    broker.deliver(8)
    _confirm_slowly(broker, 8)
    await broker.source.close(_settled)
    assert not [one for one in broker.did if "cancel" in one]


def _confirm_slowly(broker: _Broker, count: int) -> None:
    """One each 50 ms."""
    for tag in range(1, count + 1):
        asyncio.get_running_loop().call_later(0.05 * tag, broker.confirm, tag)


async def _closing(broker: _Broker) -> asyncio.Task[None]:
    closing = asyncio.create_task(broker.source.close(_settled))
    await _stays(closing)
    return closing


async def _stays(closing: asyncio.Task[None]) -> None:
    """Gives it time enough to go on by mistake."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
