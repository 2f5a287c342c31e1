"""The real router on a simulated broker: no history of crashes, joins, leaves and slow clients may break a promise."""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from partymq.router.points import Point
from partymq.router.source import PREFETCH
from unit.sim.script import (
    Act,
    CrashAt,
    Join,
    Leave,
    LoseJournal,
    Outcome,
    Produce,
    Restart,
    play,
    scripts,
    settings_of_histories,
)
from unit.sim.world import Setting

EXAMPLES = int(os.environ.get("PARTYMQ_SIM_EXAMPLES", "0"))
"""How many histories are played, other ones each time; by default it is the same few that take some seconds."""


@settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(settings_of_histories, scripts)
def test_no_history_breaks_a_promise(setting: Setting, script: list[Act]) -> None:
    check(play(setting, script))


BUSY = [
    Act(Produce(30, 8, 0.005), 0.1),
    Act(Join("c"), 0.05),
    Act(CrashAt(Point.COPIED), 0.0),
    Act(Leave("a", "closed"), 0.3),
    Act(Produce(20, 8, 0.005), 0.01),
    Act(Restart(), 0.1),
]


def test_a_history_repeats_exactly() -> None:
    setting = Setting(seed=7, pace="rough", members=2, routers=2)
    assert play(setting, BUSY).log == play(setting, BUSY).log


def test_pods_are_heard_of_whenever_they_come() -> None:
    for step in range(40):  # through all of a session's start
        check(play(Setting(seed=step, members=0), [Act(Produce(4), 0.0), Act(Join("a"), 0.0)], begin=step / 1000))


@pytest.mark.parametrize("listed", [True, False])
def test_the_journal_is_lost_at_any_moment(listed: bool) -> None:
    for seed in range(20):
        script = [
            Act(Produce(30, 6, 0.01), seed / 50),
            Act(LoseJournal(), 0.2),
            Act(Join("c"), 0.1),
            Act(Produce(20, 6, 0.003), 0.1),
        ]
        outcome = play(Setting(seed=seed, pace="uneven", listed=listed), script)
        assert any("journal: was the queue deleted?" in line for line in outcome.log)
        check(outcome)


@pytest.mark.parametrize("prefetch", [10, PREFETCH])
def test_a_router_dies_when_it_has_cancelled_a_source_under_load(prefetch: int) -> None:
    for seed in range(24):
        script = [
            Act(Produce(100, 2, 0.001), (1 + seed % 6) / 100),
            Act(CrashAt(Point.CANCELLED), 0.0),
            Act(Restart(), 0.1),
        ]
        setting = Setting(seed=seed, pace="uneven", window=20, source_prefetch=prefetch)
        outcome = play(setting, script, begin=2.0)
        assert outcome.kills
        check(outcome)


def check(outcome: Outcome) -> None:
    assert not outcome.violations, "\n".join([*outcome.log[-400:], *outcome.violations])
