"""Messages that the broker takes and then takes no more: the others neither wait for them nor are lost over them."""

import pytest

from unit.sim.script import Act, Crash, Join, Leave, Outcome, Poison, Produce, Refuse, Restart, Step, Trouble, play
from unit.sim.wire import Refusal
from unit.sim.world import SOURCE, Setting

DEAD = "partymq.sim.g.dead"
SEEDS = 4
KINDS = pytest.mark.parametrize("kind", Refusal, ids=lambda kind: kind.name.lower())


def _play(setting: Setting, *steps: Step, begin: float = 2.0) -> Outcome:
    outcome = play(setting, [Act(step, 0.3) for step in steps], begin=begin)
    assert not outcome.violations, "\n".join([*outcome.log[-300:], *outcome.violations])
    return outcome


@KINDS
@pytest.mark.parametrize("quorum", [True, False], ids=["quorum", "classic"])
def test_they_are_set_aside_one_by_one(kind: Refusal, quorum: bool) -> None:
    for seed in range(SEEDS):
        setting = Setting(seed=seed, pace="uneven", quorum_source=quorum, delivery_limit=1)
        outcome = _play(
            setting, Produce(20, 6), Poison(1, kind), Produce(20, 6), Poison(5, kind), Produce(30, 8, 0.003)
        )
        assert outcome.poisoned == [DEAD] * 6
        assert not outcome.kept


def test_what_fits_nowhere_stays_and_is_named() -> None:
    for seed in range(SEEDS):
        setting = Setting(seed=seed, pace="uneven", large=True, delivery_limit=3)
        outcome = _play(setting, Produce(20, 6), Poison(2), Produce(60, 8, 0.003))
        assert outcome.poisoned == [SOURCE] * 2
        assert len(outcome.kept) == 2


@pytest.mark.parametrize("quorum", [True, False], ids=["quorum", "classic"])
def test_what_fits_by_now_goes_to_the_dead_queue(quorum: bool) -> None:
    for seed in range(SEEDS):
        setting = Setting(seed=seed, pace="uneven", large=True, quorum_source=quorum)
        steps: list[Step] = [Produce(20, 6), Poison(2), Produce(20, 6), Produce(20, 8, 0.003)]
        script = [*(Act(step, 0.3) for step in steps), Act(Refuse(refuses=False), 80.0), Act(Produce(20, 6), 1.0)]
        outcome = play(setting, script, begin=2.0)
        assert not outcome.violations, outcome.violations
        assert outcome.poisoned == [DEAD] * 2
        assert not outcome.kept


@KINDS
def test_many_in_a_row_lose_nothing(kind: Refusal) -> None:
    for seed in range(3):
        steps = [step for _ in range(15) for step in (Poison(2, kind), Produce(6, 6))]
        outcome = _play(Setting(seed=seed, delivery_limit=1), Produce(6, 6), *steps)
        assert outcome.poisoned == [DEAD] * 30


@KINDS
def test_a_producer_of_some_that_are_refused_is_served_by_a_session_that_lasts(kind: Refusal) -> None:
    for seed in range(SEEDS):
        setting = Setting(seed=seed, pace="uneven", delivery_limit=3)
        steps: list[Step] = [step for _ in range(30) for step in (Poison(1, kind), Produce(10, 6))]
        outcome = play(setting, [Act(step, 1.5) for step in steps], begin=2.0)
        assert not outcome.violations, outcome.violations
        assert outcome.poisoned == [DEAD] * 30
        assert sum("ended: the broker closed" in line for line in outcome.log) <= 4


@KINDS
def test_whatever_else_happens_meanwhile(kind: Refusal) -> None:
    for seed in range(SEEDS):
        setting = Setting(seed=seed, pace="uneven", members=2, window=6, routers=1 + seed % 2)
        outcome = _play(
            setting,
            Produce(30, 6, 0.003),
            Poison(2, kind),
            Trouble("a", "stuck"),
            Produce(30, 6, 0.003),
            Join("c"),
            Poison(1, kind),
            Crash(30 + 7 * seed),
            Leave("b", "closed"),
            Produce(20, 8),
            Restart(),
            Poison(1, kind),
        )
        assert set(outcome.poisoned) == {DEAD}
        assert len(outcome.poisoned) >= 4  # one may be set aside twice, if the router dies over it


@KINDS
@pytest.mark.parametrize("large", [False, True], ids=["set-aside", "stays"])
def test_in_a_backlog(kind: Refusal, large: bool) -> None:
    for seed in range(SEEDS):
        outcome = _play(
            Setting(seed=seed, pace="uneven", members=1, strict=False, large=large),
            Trouble("a", "stuck"),
            Produce(60, 6),
            Poison(2, kind),
            Produce(30, 6),
            Refuse(),
            Trouble("a", "works"),
            Produce(60, 6, 0.01),
        )
        assert len(outcome.kept) == 2 * large
        assert (DEAD in outcome.poisoned) != large


@KINDS
def test_in_an_inbox_that_is_handed_off(kind: Refusal) -> None:
    for seed in range(SEEDS):
        outcome = _play(
            Setting(seed=seed, pace="uneven", members=1, window=20, strict=False),
            Trouble("a", "stuck"),
            Produce(6, 6),
            Poison(2, kind),
            Produce(6, 6),
            Refuse(),
            Join("b"),
            Trouble("a", "lost"),
            Produce(60, 6, 0.01),
        )
        assert outcome.handoffs
        assert set(outcome.poisoned) <= {DEAD}
