"""What a person is told of a member that does nothing: the one thing that it lacks."""

from unittest import mock

import pytest

from partymq.core.ledger import admit, claim, empty, list_backlogs
from partymq.core.membership import Member, Membership, PodState
from partymq.core.report import MemberReport, MemberState
from partymq.core.rollouts import NO_ROLES, Roles
from partymq.router.broker.queue_troubles import Trouble
from partymq.router.flow.lanes import Member as Inbox
from partymq.router.flow.statistics import InboxStatistics
from partymq.router.publish.outlet import Sink
from partymq.router.reporting.members import MemberReports, stuck_text, working
from support.snapshots import NAMES, rebalancer, snapshot

INBOX = NAMES.inbox("a")


class Stage:
    """A session with one member, `a`."""

    def __init__(self, state: MemberState, *, owns: bool = False) -> None:
        self.ledger = empty(4)
        if owns:
            self.ledger = list_backlogs(claim(admit(self.ledger, {"a"}), {1: "a", 2: "a"}), [1, 2])
        self.member = Member(name="a", state=state, since=0.0, here_since=0.0)
        self.distrusted = frozenset[str]()
        self.roles = NO_ROLES
        self.pod: PodState | None = PodState.READY
        self.trouble = ""
        self.stuck_since: float | None = None

    def look(self) -> MemberReport:
        seen = snapshot(
            ledger=self.ledger,
            inboxes={"a": InboxStatistics(ready=7, stuck_since=self.stuck_since)},
            backlogs={1: 20, 2: 0},
            troubles={INBOX: Trouble(reason="QueueLost", message=self.trouble)} if self.trouble else {},
            rebalancer=rebalancer(
                membership=Membership(members={"a": self.member}, distrusted=self.distrusted),
                roles=self.roles,
                pods={"a": self.pod} if self.pod is not None else {},
            ),
        )
        (report,) = MemberReports().look(seen)
        return report


@pytest.mark.parametrize(
    ("pod", "trouble", "lacks"),
    [
        (PodState.STARTING, "", "its pod to be ready"),
        (PodState.READY, "", f"a consumer: it is ready, but nobody consumes {INBOX}"),
        (None, "", "its pod to come back"),
        (PodState.READY, "the broker refuses its inbox", "the broker refuses its inbox"),
    ],
)
def test_who_joins_is_shown_with_what_it_lacks(pod: PodState | None, trouble: str, lacks: str) -> None:
    stage = Stage(MemberState.JOINING)
    stage.pod, stage.trouble = pod, trouble
    report = stage.look()
    assert (report.state, report.waiting_for) == (MemberState.JOINING, lacks)


def test_who_waits_for_its_share_is_not_idle() -> None:
    """Idle says that there are too many pods."""
    stage = Stage(MemberState.IDLE)
    report = stage.look()
    assert report.state is MemberState.WAITING
    assert report.waiting_for == "its share, which is planned or handed over by others"
    stage.ledger = empty(0)
    assert stage.look().state is MemberState.IDLE
    stage.roles = Roles(newer=frozenset("a"))
    report = stage.look()
    assert (report.state, report.waiting_for) == (MemberState.WAITING, "a pod of an older generation to leave")


def test_who_is_not_trusted_is_shown_with_why() -> None:
    stage = Stage(MemberState.IDLE)
    stage.member = Member(
        name="a", state=MemberState.IDLE, since=0.0, here_since=50.0, absences=(10.0, 20.0, 30.0, 40.0)
    )
    stage.distrusted = frozenset("a")
    report = stage.look()
    assert report.state is MemberState.JOINING
    assert report.waiting_for == "240 s without a break: it was absent 4 times of late"


def test_who_is_stuck_is_shown_with_what_waits_for_it() -> None:
    stage = Stage(MemberState.ACTIVE, owns=True)
    assert stage.look().state is MemberState.ACTIVE
    stage.stuck_since = 0.0
    report = stage.look()
    assert (report.state, report.partitions, report.ready, report.backlog) == (MemberState.STUCK, (1, 2), 7, 20)
    condition = working((report,))
    assert (condition.ok, condition.reason, condition.message) == (False, "Stuck", stuck_text(report))
    assert "about 20 messages of partitions 1-2 wait for it" in condition.message


def test_who_cannot_take_anything_while_its_inbox_is_ours_is_not_stuck() -> None:
    inbox = Inbox("a", Sink(mock.Mock(), b"", 0), 10)
    inbox.taking = mock.Mock(stuck_since=lambda _now: 5.0)
    assert inbox.statistics(9.0).stuck_since == 5.0
    inbox.closed = True
    assert inbox.statistics(9.0).stuck_since is None
