"""The real router on a simulated broker: no history of crashes, joins, leaves and slow clients may break a promise."""

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from partymq.router.failpoints import Point
from partymq.router.flow.source_reader import PREFETCH
from unit.sim.script import (
    Act,
    Crash,
    CrashAt,
    Join,
    Leave,
    LoseJournal,
    LoseNode,
    LoseSide,
    Outcome,
    Produce,
    Restart,
    Stall,
    Trouble,
    play,
    scripts,
    settings_of_histories,
)
from unit.sim.world import Setting

DOWN = (Crash, CrashAt, Stall, Restart, LoseSide, LoseJournal, LoseNode)
"""What ends a session."""
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
    if any(isinstance(act.step, DOWN) for act in script):
        # A router that is gone while it takes over, and then the client: docs/guarantees.md has that as a limit.
        setting = replace(setting, zombies=False)
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
        noticed = ("journal: was the queue deleted?", "there is no such queue")  # the second in the middle of a write
        assert any(text in line for text in noticed for line in outcome.log)
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


def test_an_inbox_takes_no_messages_for_a_while() -> None:
    for seed in range(20):
        script = [
            Act(Produce(40, 6, 0.003), 0.05),
            Act(Trouble("a", "refuses"), 0.3),
            Act(Produce(40, 6, 0.003), 0.1),
            Act(Join("c"), 0.1) if seed % 3 == 0 else Act(Trouble("b", "slow"), 0.1),
            Act(Trouble("a", "accepts"), 0.02),
            Act(Trouble("a", "refuses"), 0.3),
            Act(Leave("a", "drained") if seed % 3 == 1 else Trouble("a", "accepts"), 0.3),
            Act(Produce(20, 6, 0.003), 0.1),
        ]
        outcome = play(Setting(seed=seed, pace="uneven", window=6), script, begin=2.0)
        check(outcome)


@pytest.mark.parametrize("budget", [150, 600, 1500])
def test_what_waits_for_slow_members_weighs_too_much(budget: int) -> None:
    for seed in range(8):
        script = [
            Act(Produce(60, 6, 0.002), 0.1),
            Act(Trouble("a", "slow"), 0.3),
            Act(Produce(60, 6, 0.002), 0.3),
            *([Act(Join("c"), 0.4)] if seed % 3 == 0 else []),
            *([Act(Restart(), 0.3)] if seed % 3 == 1 else []),
            *(Act(Trouble(name, what), 0.2) for name, what in (("a", "works"), ("b", "slow"))),
            Act(Produce(60, 6), 0.3),
            Act(Trouble("b", "works"), 0.2),
        ]
        check(play(Setting(seed=seed, pace="uneven", budget=budget), script, begin=2.0))


@pytest.mark.parametrize("restart", [False, True])
def test_clients_die_while_they_are_taken_over_and_come_back_as_zombies(restart: bool) -> None:
    for seed in range(20):
        script = [
            Act(Produce(30, 6, 0.003), 0.05),
            *(Act(Trouble(name, "stuck"), 0.1) for name in "ab"),
            Act(Join("c"), 0.5),
            *(Act(Trouble(name, what), 0.05) for what in ("lost", "works") for name in "ab"),
            Act(Produce(20, 6, 0.003), 0.3),
            *([Act(Restart(), 0.3)] if restart else []),
            Act(Leave("c", "closed"), 0.5),
            Act(Produce(20, 6, 0.003), 0.1),
        ]
        check(play(Setting(seed=seed, pace="uneven", zombies=True), script, begin=2.0))


@pytest.mark.parametrize("zombies", [False, True])
def test_nodes_are_lost_while_inboxes_are_deleted_whose_leaders_they_have(zombies: bool) -> None:
    """The broker ends the connection over which that is done; no session ends with it."""
    for seed in range(20):
        script = [
            Act(Produce(40, 6, 0.003), 0.05),
            Act(Join("c"), 0.4),
            Act(Leave("a", ("drained", "killed")[seed % 2]), 1.5),
            Act(Join("a"), 0.02 * (seed % 10)),
            Act(Leave("b", "killed"), 1.5),
            Act(Join("b"), 0.4),
            Act(Produce(20, 6, 0.003), 0.1),
        ]
        setting = Setting(seed=seed, pace=("uneven", "rough")[seed % 2], zombies=zombies, fragile=True)
        check(play(setting, script, begin=2.0))


@pytest.mark.parametrize("stops", [False, True])
def test_a_router_ends_before_it_has_deleted_the_inbox_of_a_pod_that_is_gone(stops: bool) -> None:
    for seed in range(12):
        script = [
            Act(Produce(30, 6, 0.003), 0.1),
            *([] if stops else [Act(CrashAt(Point.COMMITTED), 0.0)]),
            Act(Leave("a", "killed"), 0.5 + seed / 8),
            *([Act(Restart(), 1.0)] if stops else []),
            Act(Produce(20, 6, 0.003), 0.5),
        ]
        check(play(Setting(seed=seed, pace="uneven"), script, begin=2.0))


@pytest.mark.parametrize("stops", [False, True])
def test_a_router_ends_before_a_pod_has_joined_that_then_goes(stops: bool) -> None:
    """It has declared its inbox, and nobody else is told of that pod."""
    for seed in range(12):
        script = [
            Act(Produce(20, 6, 0.003), 0.1),
            Act(Join("c"), 0.03 + 0.01 * seed),
            Act(Leave("c", "killed"), 0.0),
            Act(Restart() if stops else Crash(0), 1.0),
            Act(Produce(10, 6, 0.003), 0.5),
        ]
        check(play(Setting(seed=seed, pace="uneven"), script, begin=2.0))


@pytest.mark.parametrize("again", [False, True])
def test_a_client_dies_while_it_is_taken_over_for_the_second_time(again: bool) -> None:
    """What it gives back stands behind what the first router gave back: the second one puts that in order."""
    for seed in range(30):
        script = [
            *(Act(Trouble(name, "slow"), 0.0) for name in "ab"),
            Act(Produce(36, 6, 0.001), 0.3),
            Act(CrashAt(Point.COLLECTED), 0.0),
            Act(Join("c"), 1.0),
            Act(Produce(1, 1), 0.2 + (seed % 6) / 10),
            *([Act(CrashAt(Point.COLLECTED), 0.02 * (seed % 10))] if again else []),
            *(Act(Trouble(name, what), 0.0) for what in ("works", "lost") for name in "ab"),
            Act(Produce(1, 1), 1.5),
        ]
        check(play(Setting(seed=seed, pace="uneven", window=20), script, begin=2.0))


def check(outcome: Outcome) -> None:
    assert not outcome.violations, "\n".join([*outcome.log[-400:], *outcome.violations])
