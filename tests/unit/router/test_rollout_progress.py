"""A rollout of eight pods that makes sixty Events hides what matters; one that is not told hides itself."""

import time
from dataclasses import dataclass, field

from partymq.core.membership import Generation, Member, Pod, PodState
from partymq.core.report import GroupReport, MemberReport, MemberState, Notice, RolloutReport
from partymq.core.rollouts import rollouts
from partymq.router.reporting.notices import LONG, MemberNotices
from partymq.router.reporting.rollout_progress import RolloutProgress
from support.fake_kubernetes import report


@dataclass
class Stage:
    """What is told of one group."""

    notices: list[Notice] = field(default_factory=list)
    since: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.rollouts = RolloutProgress(self.notices.append)
        self.members = MemberNotices(self.notices.append, self.rollouts)
        self.pods: dict[str, Pod] = {}
        self.states: dict[str, MemberState] = {}
        self.known: dict[str, Member] = {}

    def pod(self, name: str, generation: str, *, state: PodState = PodState.READY, owner: str = "orders") -> None:
        self.pods[name] = Pod(
            name=name,
            state=state,
            generation=Generation(owner=f"Deployment {owner}", name=generation),
            created=float(int(generation, 16)),
        )

    def look(self, *, stalled: bool = False, now: float = 0.0) -> tuple[RolloutReport, ...]:
        found = [rollout for rollout in rollouts(self.pods.values()) if rollout.replaced]
        newer = frozenset() if stalled else frozenset[str]().union(*(one.newer for one in found))
        at_work = [name for name, state in self.states.items() if state is not MemberState.JOINING]
        leaving = [name for name, state in self.states.items() if state is MemberState.LEAVING]
        shown = self.rollouts.look(found, newer=newer, at_work=at_work, leaving=leaving, now=now)
        self.members.look(self.report(), self.known)
        return shown

    def report(self) -> GroupReport:
        members = (
            MemberReport(name=name, state=state, partitions=(), ready=0, since=self.since, waiting_for="a consumer")
            for name, state in self.states.items()
        )
        return report(members=tuple(members))

    @property
    def told(self) -> list[str]:
        return [notice.reason for notice in self.notices]


def test_a_rollout_reads_as_a_handful_of_sentences() -> None:
    stage = Stage()
    for n in range(8):
        stage.pod(f"o{n}", "a")
        stage.states[f"o{n}"] = MemberState.ACTIVE
    stage.look()
    for n in range(8):
        stage.pod(f"n{n}", "b", state=PodState.STARTING)
        stage.states[f"n{n}"] = MemberState.JOINING
        stage.look()
        stage.pod(f"n{n}", "b")
        stage.states[f"n{n}"] = MemberState.WAITING
        stage.look()
        stage.pod(f"o{n}", "a", state=PodState.TERMINATING)
        stage.states[f"o{n}"] = MemberState.LEAVING
        stage.look()
        assert stage.rollouts.committed(f"o{n}", 8, 0.1 + n / 100)
        stage.states[f"n{n}"] = MemberState.ACTIVE
        del stage.pods[f"o{n}"]
        stage.look(now=50.0)
        del stage.states[f"o{n}"]
        stage.look(now=50.0)
    assert [notice.message for notice in stage.notices] == [
        "rollout of orders to b: what old pods leave goes to new ones",
        "rollout of orders to b: 2 of 8 pods, 8 partitions moved",
        "rollout of orders to b: 4 of 8 pods, 24 partitions moved",
        "rollout of orders to b: 6 of 8 pods, 40 partitions moved",
        (
            "rollout of orders to b is over after 50 s: 64 partitions moved in 8 handoffs, the longest of which took "
            "170 ms"
        ),
    ]
    stage.states["n0"] = MemberState.ABSENT
    stage.look()
    assert stage.told[-1] == "MemberAbsent", "what happens to its pods afterwards is told as ever"


def test_what_is_out_of_the_ordinary_is_told_in_a_rollout_too() -> None:
    stage = Stage()
    stage.pod("o0", "a")
    stage.states["o0"] = MemberState.ACTIVE
    stage.look()
    stage.pod("n0", "b")
    stage.states["n0"] = MemberState.JOINING
    stage.look()
    for state in (MemberState.ABSENT, MemberState.ACTIVE, MemberState.STUCK, MemberState.ACTIVE):
        stage.states["o0"] = state
        stage.look()
    assert stage.told == ["RolloutStarted", "MemberAbsent", "MemberStuck", "MemberActive"]


def test_a_rollout_without_progress_is_told_once() -> None:
    stage = Stage()
    stage.pod("o0", "a")
    stage.pod("n0", "b")
    for _ in range(3):
        (shown,) = stage.look(stalled=True)
        assert shown.stalled
    assert stage.told == ["RolloutStarted", "RolloutStalled"]
    assert not stage.notices[1].warning, "it may be a canary"


def test_a_second_rollout_over_the_first_is_another_one() -> None:
    stage = Stage()
    for name, generation in (("o0", "a"), ("o1", "a"), ("n0", "b")):
        stage.pod(name, generation)
    stage.look()
    stage.rollouts.committed("o0", 4, 0.1)
    stage.pod("m0", "c")
    (shown,) = stage.look()
    assert (shown.generation, shown.moved) == ("c", 0)
    assert stage.told == ["RolloutStarted", "RolloutStarted"]


def test_pods_of_no_rollout_are_told_one_by_one() -> None:
    stage = Stage()
    stage.look()
    stage.states = {"x": MemberState.JOINING}
    stage.look()
    stage.states = {"x": MemberState.ACTIVE}
    stage.look()
    stage.states = {}
    stage.look()
    assert stage.told == ["MemberJoining", "MemberActive", "MemberGone"]
    assert not stage.rollouts.committed("x", 3, 0.1)


def test_who_does_not_come_to_join_is_told_after_a_minute_and_once() -> None:
    stage = Stage()
    stage.states = {"x": MemberState.JOINING}
    due = stage.members.look(stage.report(), {})
    assert due is not None
    assert LONG - 5 < due <= LONG
    stage.since -= LONG
    for _ in range(2):
        assert stage.members.look(stage.report(), {}) is None
    assert stage.told == ["MemberJoining", "MemberWaits"]
    assert stage.notices[1].message == "x has not joined for a minute, it waits for a consumer"


def test_what_the_last_pod_leaves_is_part_of_the_rollout_although_the_pod_is_gone() -> None:
    stage = Stage()
    stage.pod("o", "a")
    stage.pod("n", "b")
    stage.states |= {"o": MemberState.ACTIVE, "n": MemberState.WAITING}
    stage.look()
    del stage.pods["o"]
    stage.states["o"] = MemberState.LEAVING
    stage.look()
    assert "RolloutDone" not in stage.told
    assert stage.rollouts.committed("o", 8, 0.1)
    del stage.states["o"]
    stage.look()
    assert "8 partitions moved in 1 handoffs" in stage.notices[-1].message


def test_who_flaps_is_told_with_how_often() -> None:
    stage = Stage()
    stage.states = {"x": MemberState.ACTIVE}
    for times in range(1, 5):
        stage.known["x"] = Member(
            name="x", state=MemberState.ACTIVE, since=0.0, absences=tuple(100.0 * n for n in range(times))
        )
        stage.look()
        stage.look()
    flapping = [notice for notice in stage.notices if notice.reason == "MemberFlapping"]
    assert [notice.message.split(". ")[0] for notice in flapping] == [
        "x was absent 2 times in 2 minutes",
        "x was absent 3 times in 3 minutes",
        "x was absent 4 times in 5 minutes",
    ]
    assert all(notice.warning for notice in flapping)
