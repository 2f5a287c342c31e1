"""Who asks too often waits; who does not is never kept, and nobody is remembered for long."""

from random import Random

import pytest

from partymq.core.rate import Allowance, Rate

RATE = Rate(burst=5, every=2.0)


def test_a_burst_is_had_at_once_and_then_one_each_interval() -> None:
    allowance = Allowance(RATE)
    for _ in range(5):
        assert allowance.wait("a", 100.0) == 0
        allowance.take("a", 100.0)
    assert allowance.wait("a", 100.0) == pytest.approx(2.0)
    assert allowance.wait("b", 100.0) == 0
    assert allowance.wait("a", 101.5) == pytest.approx(0.5)
    assert allowance.wait("a", 102.0) == 0
    allowance.take("a", 102.0)
    assert allowance.wait("a", 102.0) == pytest.approx(2.0)


def test_who_has_not_asked_for_a_while_has_his_burst_and_is_forgotten() -> None:
    allowance = Allowance(RATE)
    for number in range(1000):
        allowance.take(f"client-{number}", number)
        assert len(allowance) <= 3
    for _ in range(5):
        assert allowance.wait("client-1", 2000.0) == 0
        allowance.take("client-1", 2000.0)


@pytest.mark.parametrize("seed", range(20))
def test_no_stretch_of_time_has_more_than_burst_and_rate(seed: int) -> None:
    random, allowance, now, taken = Random(seed), Allowance(RATE), 0.0, list[float]()
    for _ in range(500):
        now += random.choice((0.0, 0.1, random.random() * 5))
        if not allowance.wait("a", now):
            allowance.take("a", now)
            taken.append(now)
    for first, begun in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= RATE.burst + (taken[last] - begun) / RATE.every + 1e-6
    assert len(allowance) <= 1
