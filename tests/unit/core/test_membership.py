"""A member that is given up too early moves partitions for nothing; too late, and its partitions stand still."""

import pytest

from partymq.core.membership import Membership, Pod, PodState
from partymq.core.report import MemberState

REJOIN = 30.0

READY = Pod(name="a", state=PodState.READY)
STARTING = Pod(name="a", state=PodState.STARTING)
TERMINATING = Pod(name="a", state=PodState.TERMINATING)
SET_READY = Pod(name="a", state=PodState.READY, returns=True)
SET_STARTING = Pod(name="a", state=PodState.STARTING, returns=True)
SET_TERMINATING = Pod(name="a", state=PodState.TERMINATING, returns=True)


class History:
    """What happens to one member `a`, step by step."""

    def __init__(self, *, owns: bool = False) -> None:
        self.membership = Membership()
        self.owns = owns

    def see(
        self, pod: Pod | None, *, at: float, consuming: bool | None = None, unheard: bool = False
    ) -> MemberState | None:
        self.membership = self.membership.observe(
            pods=[] if pod is None else [pod],
            consuming={} if consuming is None else {"a": consuming},
            unheard={"a"} if unheard else (),
            owners=["a"] if self.owns else [],
            now=at,
            rejoin_seconds=REJOIN,
        )
        member = self.membership.members.get("a")
        return None if member is None else member.state


def active(pod: Pod = READY) -> History:
    """A member that works: seen ready and consuming, and an owner."""
    history = History(owns=True)
    assert history.see(pod, at=0, consuming=True) is MemberState.ACTIVE
    return history


@pytest.mark.parametrize(("pod", "consuming"), [(STARTING, None), (STARTING, True), (READY, None), (READY, False)])
def test_who_is_not_ready_and_consuming_is_given_nothing(pod: Pod, consuming: bool | None) -> None:
    history = History()
    assert history.see(pod, at=0, consuming=consuming) is MemberState.JOINING
    assert history.see(pod, at=1000, consuming=consuming) is MemberState.JOINING
    assert not history.membership.eligible
    assert not history.membership.keeping
    assert not history.membership.leaving(["a"])


def test_who_is_ready_and_consuming_may_be_given_partitions() -> None:
    history = History()
    assert history.see(READY, at=0, consuming=True) is MemberState.IDLE
    assert history.membership.eligible == {"a"}
    history.owns = True
    assert history.see(READY, at=1) is MemberState.ACTIVE
    assert history.membership.eligible == {"a"}


def test_a_container_restart_keeps_what_it_owns_until_the_rejoin_time_is_over() -> None:
    history = active()
    assert history.see(STARTING, at=10, consuming=False) is MemberState.ABSENT
    assert history.membership.keeping == {"a"}
    assert not history.membership.eligible
    assert history.membership.next_change == 40
    assert history.see(READY, at=39.9, consuming=False) is MemberState.ABSENT, "half a return does not extend it"
    assert history.see(READY, at=40) is MemberState.LEAVING
    assert history.membership.leaving(["a"]) == {"a"}
    assert history.membership.next_change is None


def test_a_container_that_returns_in_time_is_active_and_has_the_whole_time_again() -> None:
    """Where it was there for long enough in between that the first time is forgotten."""
    history = active()
    history.see(READY, at=10, consuming=False)
    assert history.see(READY, at=20, consuming=True) is MemberState.ACTIVE
    assert history.membership.next_change is None
    history.see(READY, at=330)
    assert history.see(READY, at=335, consuming=False) is MemberState.ABSENT
    assert history.membership.next_change == 365


@pytest.mark.parametrize("pod", [TERMINATING, None])
def test_who_is_gone_and_does_not_return_leaves_at_once(pod: Pod | None) -> None:
    history = active()
    assert history.see(pod, at=1, consuming=True) is MemberState.LEAVING
    assert history.membership.leaving(["a"]) == {"a"}


def test_an_absent_pod_that_is_deleted_leaves_at_once() -> None:
    history = active()
    history.see(STARTING, at=1, consuming=False)
    assert history.see(None, at=2) is MemberState.LEAVING


def test_a_pod_that_returns_under_its_name_keeps_what_it_owns() -> None:
    """A rolling update of a StatefulSet: terminating, gone, starting, ready, consuming."""
    history = active(SET_READY)
    assert history.see(SET_TERMINATING, at=1, consuming=True) is MemberState.ABSENT
    assert history.see(None, at=5) is MemberState.ABSENT
    assert history.see(SET_STARTING, at=8, consuming=False) is MemberState.ABSENT
    assert history.see(SET_READY, at=12, consuming=True) is MemberState.ACTIVE


def test_a_pod_of_a_set_that_was_scaled_down_leaves_after_its_rejoin_time() -> None:
    history = active(SET_READY)
    assert history.see(None, at=1) is MemberState.ABSENT
    assert history.see(None, at=31) is MemberState.LEAVING


def test_a_successor_of_the_same_name_must_be_seen_consuming_itself() -> None:
    """Otherwise it is given messages on the word of the pod before."""
    history = active(SET_READY)
    history.see(None, at=1)
    assert history.see(SET_READY, at=2) is MemberState.ABSENT
    assert history.see(SET_READY, at=3, consuming=True) is MemberState.ACTIVE


def test_an_inbox_that_cannot_be_polled_keeps_its_last_answer() -> None:
    history = active()
    assert history.see(READY, at=1) is MemberState.ACTIVE
    history.see(READY, at=2, consuming=False)
    assert history.see(READY, at=3) is MemberState.ABSENT


def test_the_rejoin_time_starts_anew_after_a_handoff() -> None:
    """While the router held the inbox its member could not be seen to consume it."""
    history = active()
    history.see(READY, at=1, consuming=False)
    history.membership = history.membership.restart_grace("a", 25)
    assert history.membership.next_change == 55
    assert history.see(READY, at=54) is MemberState.ABSENT
    assert history.see(READY, at=55) is MemberState.LEAVING


def test_only_who_is_away_has_a_rejoin_time_to_restart() -> None:
    history = active()
    assert history.membership.restart_grace("a", 5) is history.membership
    assert history.membership.restart_grace("unknown", 5) is history.membership
    history.see(None, at=1)
    assert history.membership.restart_grace("a", 5) is history.membership, "who leaves goes on leaving"


@pytest.mark.parametrize("pod", [READY, SET_READY])
def test_who_leaves_and_comes_back_is_active_again(pod: Pod) -> None:
    history = active(pod)
    history.see(pod, at=1, consuming=False)
    assert history.see(pod, at=31) is MemberState.LEAVING
    assert history.see(pod, at=32, consuming=False) is MemberState.LEAVING, "there is no second rejoin time"
    assert history.see(pod, at=33, consuming=True) is MemberState.ACTIVE


def test_who_has_given_all_up_joins_again() -> None:
    history = active()
    history.see(READY, at=1, consuming=False)
    history.see(READY, at=31)
    history.owns = False
    assert history.see(READY, at=32) is MemberState.JOINING
    assert history.see(READY, at=33, consuming=True) is MemberState.IDLE


def test_who_is_gone_and_owns_nothing_is_forgotten_and_its_inbox_emptied() -> None:
    history = active()
    history.see(None, at=1)
    history.owns = False
    assert history.see(None, at=2) is None
    assert history.membership.leaving(["a"]) == {"a"}
    assert not history.membership.leaving([])


def test_an_idle_pod_that_returns_under_its_name_keeps_its_inbox() -> None:
    """Deleting it would cancel the consumer of the pod that is just coming back."""
    history = History()
    history.see(SET_READY, at=0, consuming=True)
    assert history.see(None, at=1) is MemberState.JOINING
    assert not history.membership.leaving(["a"])
    assert history.membership.next_change == 31
    assert history.see(SET_STARTING, at=5) is MemberState.JOINING
    assert history.membership.next_change is None
    assert history.see(None, at=10) is MemberState.JOINING
    assert history.see(None, at=40) is None


def test_an_idle_pod_that_terminates_leaves() -> None:
    history = History()
    history.see(READY, at=0, consuming=True)
    assert history.see(TERMINATING, at=1, consuming=True) is MemberState.LEAVING
    assert history.see(None, at=2) is None


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        (READY, MemberState.ACTIVE),
        (STARTING, MemberState.ABSENT),
        (TERMINATING, MemberState.LEAVING),
        (SET_TERMINATING, MemberState.ABSENT),
        (None, MemberState.LEAVING),
    ],
)
def test_a_router_that_starts_believes_the_pods_and_waits_for_polls(pod: Pod | None, state: MemberState) -> None:
    """The ledger names an owner that this process has never seen."""
    history = History(owns=True)
    assert history.see(pod, at=100) is state
    assert history.membership.next_change == (130 if state is MemberState.ABSENT else None)
    assert history.membership.keeping == ({"a"} if state is not MemberState.LEAVING else frozenset())


def test_who_was_not_seen_yet_keeps_what_it_owns_and_is_given_no_more() -> None:
    history = History(owns=True)
    assert history.see(READY, at=100) is MemberState.ACTIVE
    assert history.membership.keeping == {"a"}
    assert history.membership.eligible == frozenset()
    assert history.see(READY, at=1000) is MemberState.ACTIVE, "not seen is not absent"
    assert history.see(READY, at=1001, consuming=False) is MemberState.ABSENT


def test_no_rejoin_time_runs_out_while_nothing_is_known() -> None:
    """Its inbox has no leader: it may well be consumed again."""
    history = History(owns=True)
    history.see(READY, at=100, consuming=True)
    assert history.see(READY, at=101, consuming=False) is MemberState.ABSENT
    assert history.see(READY, at=200, unheard=True) is MemberState.ABSENT
    assert history.membership.next_change is not None
    assert history.membership.next_change > 200
    assert history.see(READY, at=202, consuming=False) is MemberState.LEAVING


def test_no_rejoin_time_means_leaving_at_once() -> None:
    membership = Membership().observe(pods=[READY], consuming={"a": True}, owners=["a"], now=0, rejoin_seconds=0)
    membership = membership.observe(pods=[READY], consuming={"a": False}, owners=["a"], now=1, rejoin_seconds=0)
    assert membership.members["a"].state is MemberState.LEAVING


def test_a_member_shows_since_when_it_has_its_state() -> None:
    history = History()
    history.see(STARTING, at=5)
    history.see(READY, at=7, consuming=False)
    assert history.membership.members["a"].since == 5
    history.see(READY, at=9, consuming=True)
    history.see(READY, at=11)
    assert history.membership.members["a"].since == 9


def flap(history: History, *, at: float, away: float) -> float:
    """Its consumer goes and comes back; when that was."""
    history.see(READY, at=at, consuming=False)
    history.see(READY, at=at + away, consuming=True)
    return at + away


class Pair(History):
    """The same beside a member `b` that nothing happens to."""

    def see(
        self, pod: Pod | None, *, at: float, consuming: bool | None = None, unheard: bool = False
    ) -> MemberState | None:
        other = Pod(name="b", state=PodState.READY)
        self.membership = self.membership.observe(
            pods=[other] if pod is None else [pod, other],
            consuming={"b": True} if consuming is None else {"a": consuming, "b": True},
            owners=["a", "b"] if self.owns else ["b"],
            now=at,
            rejoin_seconds=REJOIN,
        )
        member = self.membership.members.get("a")
        return None if member is None else member.state


def test_who_flaps_is_waited_for_half_as_long_each_time() -> None:
    """Its keys wait whenever it is away: a crash loop must not stop them again and again."""
    history = Pair(owns=True)
    history.see(READY, at=0, consuming=True)
    waited = []
    for at in (100, 200, 300, 400):
        history.see(READY, at=at, consuming=False)
        assert history.membership.next_change is not None
        waited.append(history.membership.next_change - at)
        history.see(READY, at=at + 1, consuming=True)
    assert waited == [30, 15, 7.5, 3.75]


def test_who_flaps_is_given_nothing_before_it_has_been_there_for_a_while() -> None:
    history = Pair()
    history.see(READY, at=0, consuming=True)
    back = flap(history, at=10, away=5)
    assert "a" in history.membership.eligible, "a restart changes nothing"
    back = flap(history, at=back + 10, away=5)
    assert history.membership.eligible == {"b"}
    assert history.membership.next_change == back + 60
    history.see(READY, at=back + 60)
    assert history.membership.eligible == {"a", "b"}
    back = flap(history, at=back + 70, away=5)
    assert history.membership.next_change == back + 120
    back = flap(history, at=back + 10, away=5)
    back = flap(history, at=back + 10, away=5)
    assert history.membership.next_change == back + 240
    back = flap(history, at=back + 10, away=5)
    assert history.membership.next_change == back + 240, "it is bounded"


def test_who_is_not_trusted_keeps_what_it_has() -> None:
    history = Pair(owns=True)
    history.see(READY, at=0, consuming=True)
    for at in (10, 20, 30):
        flap(history, at=at, away=1)
    assert history.membership.eligible == {"b"}
    assert history.membership.keeping == {"a"}
    assert history.membership.members["a"].state is MemberState.ACTIVE


def test_five_minutes_without_a_break_make_all_forgotten() -> None:
    history = Pair()
    history.see(READY, at=0, consuming=True)
    for at in (10, 20, 30, 40):
        flap(history, at=at, away=1)
    counted = []
    for at in (340, 341):
        history.see(READY, at=at)
        counted.append(len(history.membership.members["a"].absences))
    assert counted == [4, 0]
    flap(history, at=400, away=1)
    assert "a" in history.membership.eligible


def test_a_pod_that_is_made_anew_is_not_one_that_flaps() -> None:
    """A StatefulSet is rolled out several times within minutes."""
    history = Pair(owns=True)
    history.see(SET_READY, at=0, consuming=True)
    for at in (10, 40, 70, 100):
        history.see(SET_TERMINATING, at=at, consuming=False)
        history.see(None, at=at + 1)
        history.see(SET_STARTING, at=at + 2, consuming=False)
        history.see(SET_READY, at=at + 5, consuming=True)
    assert history.membership.eligible == {"a", "b"}
    assert history.membership.members["a"].absences == ()


def test_where_nobody_is_trusted_everybody_is() -> None:
    """A bad release, or a broker that was restarted: somebody has to have the partitions."""
    history = active()
    for at in (10, 20, 30, 40):
        flap(history, at=at, away=1)
    assert history.membership.eligible == {"a"}
    assert history.membership.next_change is None


def test_members_do_not_disturb_each_other() -> None:
    pods = [Pod(name=name, state=PodState.READY) for name in "abc"]
    membership = Membership()
    for at, consuming in ((0, {"a": True, "b": True, "c": True}), (1, {"b": False}), (2, {"c": False})):
        membership = membership.observe(
            pods=pods, consuming=consuming, owners=["b", "c"], now=at, rejoin_seconds=REJOIN
        )
    assert membership.eligible == {"a"}
    assert membership.keeping == {"b", "c"}
    assert membership.next_change == 31
