"""A pod that crashes again and again must neither drag partitions to and fro nor stop its keys each time."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partymq.core.ledger import admit, begin_handoff, claim, commit, empty
from partymq.core.membership import Membership, Pod, PodState
from partymq.core.planner import plan

PARTITIONS = 64
NAMES = [f"p{n}" for n in range(6)]
SHARE = 11
"""Of one of six, at most."""
MINUTES = 5
REJOIN = 30.0
DELAY = 2.0
STEP = 0.5
BACKOFF = (0.5, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Seconds until Kubernetes starts a container again that has crashed so often."""


def consumes(runs: Iterable[float], away: Iterable[float]) -> Iterator[bool]:
    """Whether the pod's container consumes, at each step: it runs for a while, ends, and is started again."""
    yield from [True] * int(10 / STEP)
    for there, gone in zip(runs, away, strict=False):
        yield from [False] * int(gone / STEP)
        yield from [True] * int(there / STEP)
    yield from repeat(True)


def flapped(there: Iterator[bool]) -> tuple[int, float]:
    """What five minutes of that cost: moves, and seconds in which the keys of its partitions wait."""
    membership, ledger, due = Membership(), empty(PARTITIONS), None
    moves, paused, handoffs = 0, 0.0, 0
    for step, consuming in zip(range(int(MINUTES * 60 / STEP)), there, strict=False):
        now, before = step * STEP, membership
        membership = before.observe(
            pods=[Pod(name=name, state=PodState.READY) for name in NAMES],
            consuming={name: consuming or name != "p0" for name in NAMES},
            owners={part.owner for part in ledger.partitions if part.owner is not None},
            now=now,
            rejoin_seconds=REJOIN,
        )
        if due is None and before.eligible != membership.eligible:
            due = now + DELAY
        todo = plan(
            ledger,
            eligible=membership.eligible,
            keeping=membership.keeping,
            leaving=membership.leaving(ledger.members),
        )
        if due is not None and due > now:
            todo = todo.urgent(membership.leaving(ledger.members))
        else:
            due = None
        ledger = claim(admit(ledger, todo.admissions), todo.claims)
        for donor, targets in todo.handoffs.items():
            handoffs += 1
            moves += sum(target != donor for target in targets.values())
            ledger = begin_handoff(ledger, handoff_id=f"h{handoffs}", donor=donor, targets=targets)
            ledger = commit(ledger, handoff_id=f"h{handoffs}", drop=False)
        if not consuming and Counter(part.owner for part in ledger.partitions)["p0"]:
            paused += STEP
    return moves, paused


@pytest.mark.parametrize("runs", [1.0, 5.0, 20.0, 40.0, 50.0], ids=lambda runs: f"runs {runs:.0f} s")
@pytest.mark.parametrize("starts", [1.0, 5.0], ids=lambda starts: f"starts in {starts:.0f} s")
def test_a_crash_loop_of_one_of_six_pods_for_five_minutes(runs: float, starts: float) -> None:
    moves, paused = flapped(consumes(repeat(runs), (pause + starts for pause in BACKOFF)))
    assert moves <= 20
    assert paused <= 60.0


@pytest.mark.parametrize("runs", [5.0, 10.0, 30.0, 55.0], ids=lambda runs: f"runs {runs:.0f} s")
@pytest.mark.parametrize("away", [0.5, 2.0, 5.0, 14.0, 29.0], ids=lambda away: f"away for {away:.0f} s")
def test_a_liveness_loop_of_one_of_six_pods_for_five_minutes(runs: float, away: float) -> None:
    """Its probe has it killed again and again, and it comes back each time within its rejoin time."""
    moves, paused = flapped(consumes(repeat(runs), repeat(away)))
    assert moves <= 20
    assert paused <= 60.0


@settings(deadline=None)
@given(
    st.lists(st.floats(0.5, 59.0), max_size=40),
    st.lists(st.floats(0.5, 100.0), max_size=40),
)
def test_however_it_flaps_it_is_waited_for_two_rejoin_times_in_all(runs: list[float], away: list[float]) -> None:
    """It is never there for a minute. More moves than in the loops cost only a long first absence, and good conduct."""
    moves, paused = flapped(consumes(chain(runs, repeat(30.0)), away))
    assert paused <= 2 * REJOIN + STEP * len(away)
    between = islice(chain(runs, repeat(30.0)), max(0, len(away) - 1))  # the last run does not end
    back = 10 + sum(away) + sum(between)
    assert moves <= 3 * SHARE + SHARE * (back <= MINUTES * 60 - 60)
