"""Groups share what may be under way: none starves another or waits for ever, and the sum stays below the whole."""

from random import Random

import pytest

from partymq.router.broker.memory_budget import Budget, Share


class _Group:
    def __init__(self, budget: Budget) -> None:
        self.stopped = False
        self.share: Share = budget.share(self._hold)

    def _hold(self, on: bool) -> None:
        assert on is not self.stopped, "told twice"
        self.stopped = on

    def holds(self, held: int, *, idle: bool = False) -> None:
        self.share.holds(held, idle=idle or not held)


def test_a_group_alone_takes_half() -> None:
    group = _Group(Budget(100))
    group.holds(50)
    assert not group.stopped
    group.holds(51)
    assert group.stopped
    group.holds(50)
    assert not group.stopped


def test_one_that_is_stuck_leaves_others_as_much_as_it_has() -> None:
    budget = Budget(100)
    stuck, other = _Group(budget), _Group(budget)
    stuck.holds(51)
    other.holds(24)
    assert (stuck.stopped, other.stopped) == (True, False)
    other.holds(25)
    assert other.stopped
    other.holds(0)
    assert not other.stopped


def test_who_waits_reads_on_when_another_has_less() -> None:
    budget = Budget(100)
    one, other = _Group(budget), _Group(budget)
    one.holds(51)
    other.holds(30)
    assert (one.stopped, other.stopped) == (True, True)
    one.holds(40)
    assert (one.stopped, other.stopped) == (True, False)
    other.share.close()
    assert not one.stopped


def test_a_message_larger_than_everything_is_read() -> None:
    group = _Group(Budget(100))
    group.holds(1000, idle=True)
    assert not group.stopped
    group.holds(1000)
    assert group.stopped
    group.holds(10, idle=True)
    assert not group.stopped


def test_who_gives_up_reads_what_still_comes_and_keeps_its_part_until_it_ends() -> None:
    budget = Budget(100)
    group = _Group(budget)
    group.holds(80)
    group.share.let_go()
    assert not group.stopped
    assert budget.free == 20
    group.share.close()
    assert budget.free == 100


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_stays_below_the_whole_and_all_get_on(seed: int) -> None:
    random, budget = Random(seed), Budget(1000)
    groups = [_Group(budget) for _ in range(random.randint(1, 12))]
    for _ in range(2000):
        group = random.choice(groups)
        held = group.share.held
        if not group.stopped and random.random() < 0.7:
            group.holds(held + 5)
        elif held:
            group.holds(held - random.randint(1, held))
        assert sum(each.share.held for each in groups) <= 1000 + 5
        assert budget.free == 1000 - sum(each.share.held for each in groups)
        for each in groups:
            assert each.stopped is (each.share.held > budget.free and each.share.held > 0)
    for group in groups:
        group.holds(0)
    assert not any(group.stopped for group in groups)
