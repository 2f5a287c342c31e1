"""A pod that crashes again and again must neither drag partitions to and fro nor stop its keys each time."""

from collections import Counter
from collections.abc import Iterator

import pytest

from partymq.core.ledger import admit, begin_handoff, claim, commit, empty
from partymq.core.membership import Membership, Pod, PodState
from partymq.core.planner import plan

PARTITIONS = 64
NAMES = [f"p{n}" for n in range(6)]
MINUTES = 5
REJOIN = 30.0
DELAY = 2.0
STEP = 0.5
BACKOFF = (0.5, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Seconds until Kubernetes starts a container again that has crashed so often."""


def consumes(runs: float, starts: float) -> Iterator[bool]:
    """Whether the pod's container consumes, at each step: it runs for a while, crashes, and is started again."""
    yield from [True] * int(10 / STEP)
    for pause in BACKOFF:
        yield from [False] * int((pause + starts) / STEP)
        yield from [True] * int(runs / STEP)


@pytest.mark.parametrize("runs", [1.0, 5.0, 20.0, 40.0, 50.0], ids=lambda runs: f"runs {runs:.0f} s")
@pytest.mark.parametrize("starts", [1.0, 5.0])
def test_a_crash_loop_of_one_of_six_pods_for_five_minutes(runs: float, starts: float) -> None:
    membership, ledger, due = Membership(), empty(PARTITIONS), None
    moves, paused, handoffs = 0, 0.0, 0
    for step, there in zip(range(int(MINUTES * 60 / STEP)), consumes(runs, starts), strict=False):
        now, before = step * STEP, membership
        membership = before.observe(
            pods=[Pod(name=name, state=PodState.READY) for name in NAMES],
            consuming={name: there or name != "p0" for name in NAMES},
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
            ledger = begin_handoff(ledger, id=f"h{handoffs}", donor=donor, targets=targets)
            ledger = commit(ledger, id=f"h{handoffs}", drop=False)
        if not there and Counter(part.owner for part in ledger.partitions)["p0"]:
            paused += STEP
    assert moves <= 20
    assert paused <= 60.0
