"""What has to be in memory as a whole is bounded over all groups, and who has most of it pays."""

from random import Random

import pytest

from partymq.errors import TooMuchAtOnceError
from partymq.router.broker.holdings import Holding, Holdings

NAMESPACES = ("bob", "mallory")


class _Session:
    def __init__(self, holdings: Holdings, tenant: str) -> None:
        self.ended: Exception | None = None
        self.holding = Holding(holdings, tenant, self._end)
        self.part = self.holding.part()

    def _end(self, error: Exception) -> None:
        assert self.ended is None, "ended twice"
        self.ended = error


def test_who_takes_too_much_is_told_and_has_nothing_any_more() -> None:
    holdings = Holdings(100)
    session = _Session(holdings, "bob")
    session.part.holds(100)
    assert session.ended is None
    session.part.add(1)
    assert isinstance(session.ended, TooMuchAtOnceError)
    assert "101 bytes" in str(session.ended)
    assert "--in-flight-bytes" in str(session.ended)
    assert holdings.held == 0
    session.part.add(50)  # what the same chunk still brings
    session.part.holds(0)
    session.holding.close()
    assert holdings.held == 0


def test_who_had_it_first_does_not_pay_for_who_has_most() -> None:
    holdings = Holdings(100)
    bob, mallory = _Session(holdings, "bob"), _Session(holdings, "mallory")
    mallory.part.holds(70)
    bob.part.holds(31)
    assert mallory.ended is not None
    assert bob.ended is None
    assert holdings.held == 31


def test_many_sessions_of_one_tenant_are_one_tenant() -> None:
    holdings = Holdings(100)
    bob = _Session(holdings, "bob")
    bob.part.holds(30)
    many = [_Session(holdings, "mallory") for _ in range(9)]
    for size, session in enumerate(many, 5):
        session.part.holds(size)
    assert bob.ended is None, "each of mallory's has less, all of them have more"
    assert [session.ended is not None for session in many].count(True) == 1
    assert holdings.held <= 100


def test_parts_add_up_and_end_by_themselves() -> None:
    holdings = Holdings(100)
    session = _Session(holdings, "bob")
    other = session.holding.part()
    session.part.holds(40)
    other.add(30)
    other.add(-10)
    assert holdings.held == 60
    session.part.holds(0)
    assert holdings.held == 20
    session.holding.close()
    assert holdings.held == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_stays_below_the_whole_and_the_smaller_tenant_goes_on(seed: int) -> None:
    random, holdings = Random(seed), Holdings(1000)
    sessions = [_Session(holdings, random.choice(NAMESPACES)) for _ in range(8)]
    for _ in range(2000):
        session = random.choice(sessions)
        if session.ended is None:
            session.part.holds(random.choice((0, session.part.held + random.randint(1, 200))))
        assert holdings.held <= 1000
        assert holdings.held == sum(one.part.held for one in sessions if one.ended is None)
        for one in sessions:
            if one.ended is not None and random.random() < 0.3:
                sessions.remove(one)
                sessions.append(_Session(holdings, one.holding.tenant))
