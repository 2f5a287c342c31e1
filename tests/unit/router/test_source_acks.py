"""What is confirmed of a source is acknowledged, but nothing behind what must not come again after it."""

import asyncio

import pytest

from partymq.core.names import SPREAD
from partymq.router.flow import source_acks as module
from partymq.router.flow.lanes import Lane, Member
from partymq.router.flow.source_acks import BEHIND_AFTER, FARTHEST, RING, SourceAcks
from partymq.router.flow.source_reader import PREFETCH
from partymq.router.publish.outlet import Sink
from support.conditions import eventually
from unit.router.doubles import FakeChannel, FakeWay


class _Deliveries:
    """Deliveries by the lane of each; time passes when the test says so."""

    def __init__(self, *lanes: Lane | None) -> None:
        self.acks = SourceAcks()
        self.channel = FakeChannel()
        self.now = self.acks._seen_at
        self.acks._now = lambda: self.now
        self.acks.begin(self.channel)
        self.last = len(lanes)
        self.acks.make_room(self.last + 1)
        for tag, lane in enumerate(lanes, 1):
            self.acks.lanes[tag % RING] = lane

    def confirm(self, *tags: int) -> None:
        for tag in tags:
            self.acks.confirmed(tag)
        self.acks.acknowledge(self.last)

    def later(self) -> list[str]:
        """What has been acknowledged in all, when it is time for what stands behind a gap."""
        for _ in range(2):
            self.now += BEHIND_AFTER
            self.acks.acknowledge(self.last)
        return self.channel.sent

    @property
    def unsettled(self) -> int:
        return self.acks.unsettled(self.last)


def _lane(partition: int, owner: Member | None = None) -> Lane:
    lane = Lane(partition, 1, lambda _: None)
    lane.belong(owner)
    return lane


P, Q = _lane(0), _lane(1)


@pytest.fixture
def plain() -> Member:
    return Member.plain("client", Sink(FakeWay(), b"", 1))


async def test_what_has_no_gap_is_acknowledged_at_once() -> None:
    deliveries = _Deliveries(P, Q, P)
    deliveries.confirm(1, 2)
    assert deliveries.channel.sent == ["all to 2"]
    assert deliveries.unsettled == 1


async def test_another_partition_is_not_waited_for_for_long() -> None:
    deliveries = _Deliveries(P, Q, P, Q)
    deliveries.confirm(2, 3, 4)
    assert deliveries.channel.sent == []
    assert deliveries.later() == ["2", "4"]
    assert deliveries.unsettled == 2


async def test_what_has_just_come_is_waited_for() -> None:
    deliveries = _Deliveries(P, Q)
    deliveries.now += BEHIND_AFTER
    deliveries.confirm(2)
    assert deliveries.channel.sent == [], "a moment ago it had not been seen"


async def test_it_does_not_take_another_chunk() -> None:
    deliveries = _Deliveries(P, Q, P, Q)
    loop = asyncio.get_running_loop()
    deliveries.acks._now = loop.time
    deliveries.confirm(2, 4)
    await eventually(lambda: deliveries.channel.sent == ["2", "4"], lambda: f"{deliveries.channel.sent}", 3.0)
    assert deliveries.acks._again is None, "until something changes"
    deliveries.confirm(3)
    deliveries.acks.rest()
    assert deliveries.channel.sent == ["2", "4"]


async def test_what_was_acknowledged_alone_is_not_again() -> None:
    deliveries = _Deliveries(P, Q, P, Q, P)
    deliveries.confirm(2, 4)
    assert deliveries.later() == ["2", "4"]
    deliveries.confirm(1, 3, 5)
    assert deliveries.channel.sent == ["2", "4", "1", "3", "5"]
    assert deliveries.unsettled == 0


async def test_then_it_goes_on_as_before() -> None:
    deliveries = _Deliveries(P, Q, P, P)
    deliveries.confirm(2)
    deliveries.later()
    deliveries.confirm(1)
    deliveries.confirm(3, 4)
    assert deliveries.channel.sent == ["2", "1", "all to 4"]


async def test_a_plain_clients_queue_keeps_the_order_of_the_source(plain: Member) -> None:
    one, other = _lane(0, plain), _lane(1, plain)
    deliveries = _Deliveries(one, other, Q)
    deliveries.confirm(2, 3)
    assert deliveries.later() == ["3"]


async def test_slots_of_a_partition_stand_behind_each_other() -> None:
    partition = _lane(0)
    deliveries = _Deliveries(partition, Lane(7, 1, lambda _: None, beside=partition), Q)
    deliveries.confirm(2, 3)
    assert deliveries.later() == ["3"]


async def test_what_has_no_key_has_no_order(plain: Member) -> None:
    """But in a plain client's queue."""
    keyless, to_client = _lane(SPREAD), _lane(SPREAD, plain)
    deliveries = _Deliveries(keyless, keyless, to_client, to_client)
    deliveries.confirm(2, 4)
    assert deliveries.later() == ["2"]


async def test_what_has_no_lane_has_no_order() -> None:
    deliveries = _Deliveries(None, P, None)
    deliveries.confirm(2, 3)
    assert deliveries.later() == ["2", "3"]


async def test_what_stays_keeps_nothing_back_and_is_not_acknowledged() -> None:
    deliveries = _Deliveries(P, P, P)
    deliveries.acks.stays(2)
    deliveries.confirm(3)
    assert deliveries.later() == []
    assert deliveries.unsettled == 3
    deliveries.confirm(1)
    assert deliveries.channel.sent == ["1", "3"]
    assert deliveries.unsettled == 1
    deliveries.acks.leaves(2)
    assert deliveries.channel.sent == ["1", "3", "2"]
    assert deliveries.unsettled == 0


async def test_what_stays_behind_a_gap_and_leaves_is_acknowledged_in_its_turn() -> None:
    deliveries = _Deliveries(P, Q)
    deliveries.acks.stays(2)
    deliveries.acks.leaves(2)
    assert deliveries.later() == ["2"]
    deliveries.confirm(1)
    assert deliveries.channel.sent == ["2", "1"]
    assert deliveries.acks.routed == 2


async def test_in_the_end_all_is_acknowledged_that_is_confirmed() -> None:
    deliveries = _Deliveries(P, Q, Q)
    deliveries.confirm(3)
    deliveries.acks.acknowledge_all()
    assert deliveries.channel.sent == ["3"]
    assert deliveries.unsettled == 2


async def test_no_more_is_acknowledged_behind_a_gap_than_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FARTHEST", 3)
    deliveries = _Deliveries(P, Q, Q, Q, Q)
    deliveries.confirm(2, 3, 4, 5)
    assert deliveries.later() == ["2", "3", "4"]


async def test_a_source_that_delivers_little_takes_little() -> None:
    acks = SourceAcks()
    assert not acks.lanes
    acks.make_room(3)
    acks.make_room(2)
    assert len(acks.lanes) == 3
    acks.make_room(2 * RING)
    assert len(acks.lanes) == RING


async def test_nor_is_anything_where_more_has_come_than_is_known() -> None:
    deliveries = _Deliveries(P, Q)
    deliveries.confirm(2)
    deliveries.last = RING + 1
    assert deliveries.later() == []


def test_the_lanes_of_all_that_may_be_under_way_are_known() -> None:
    assert FARTHEST + PREFETCH <= RING
