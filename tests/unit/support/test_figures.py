"""A figure that counts too little makes a rollout look cheap."""

import pytest

from support import figures
from support.events import Event, Kind

LOG = """\
2026-11-29 17:00:00,500 INFO    partymq.router.rebalance.handoffs: partymq.shop.orders.1.1: a hands over 0-3 to b
2026-11-29 17:00:10,000 INFO    partymq.router.rebalance.handoffs: partymq.shop.orders.1.2: b hands over 0-1,3 to c, 2 to nobody
2026-11-29 17:00:11,000 INFO    partymq.router.rebalance.handoffs: partymq.shop.orders.1.3: c hands over 0 to d
2026-11-29 17:00:12,000 INFO    partymq.router.rebalance.handoffs: partymq.shop.orders.1.4: d hands over nothing
2026-11-29 17:00:12,000 INFO    partymq.router.rebalance.handoffs: partymq.shop.others.1.4: x hands over 9 to y
"""  # noqa: E501 - as it is logged
AT = 1_795_971_600.0
"""17:00:00."""
_S = 1_000_000_000


def test_moves_are_those_of_the_group_since_then() -> None:
    found = figures.moves(LOG, group="shop.orders", after=AT + 1)
    assert found == figures.Moves(handoffs=2, moved=5, most=2)
    assert figures.moves(LOG, group="shop.orders", after=AT).moved == 9


def test_a_key_waits_from_before_its_publish_to_its_first_delivery() -> None:
    events = [
        Event(1 * _S, Kind.SENT, "p", "early", 0),
        Event(9 * _S, Kind.RECEIVED, "c", "early", 0),
        Event(5 * _S, Kind.SENT, "p", "k", 0),
        Event(6 * _S, Kind.RECEIVED, "c", "k", 0),
        Event(9 * _S, Kind.REDELIVERED, "d", "k", 0),
        Event(7 * _S, Kind.SENT, "p", "k", 1),
        Event(9 * _S, Kind.RECEIVED, "d", "k", 1),
    ]
    assert figures.waits(events, after=4, before=8) == figures.Waits(longest=2.0, at=3.0, p99=2.0)


def test_when_nobody_consumed() -> None:
    events = [
        Event(int(at * _S), Kind.ALIVE, actor) for actor, at in (("a", 1), ("a", 3), ("b", 2), ("b", 4), ("c", 6))
    ]
    there = figures.presence([*events, Event(8 * _S, Kind.GONE, "c")])
    assert sorted(there) == [(1, 3), (2, 4), (6, 8)]
    assert figures.gaps(there, after=0, before=10) == [(0, 1), (4, 6), (8, 10)]
    assert figures.gaps(there, after=2, before=5) == [(4, 5)]
    assert figures.together(there, [(3.5, 6.5)]) == pytest.approx(1.0)


def test_waits_of_a_key_that_overlap_count_once() -> None:
    sent = [Event(int(at * _S), Kind.SENT, "p", key, seq) for seq, (key, at) in enumerate(WAITS)]
    received = [Event(int(WAITS[key, at] * _S), Kind.RECEIVED, "c", key, seq) for seq, (key, at) in enumerate(WAITS)]
    assert figures.waited_in_all([*sent, *received], after=5, least=1.0) == {"k": 7.0}


WAITS = {("k", 1): 9, ("k", 10): 12, ("k", 11): 15, ("k", 20): 22, ("k", 30): 30.5, ("other", 10): 10.1}
"""When messages of a key were sent and received."""
