"""Members come, go and return in any order while partitions are assigned to them: no history may break the promises."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partymq.core.assignment import assign
from partymq.core.membership import FORGOTTEN_AFTER, Membership, Pod, PodState
from partymq.core.report import MemberState

REJOIN = 30.0
NAMES = ["web-0", "web-1", "app-x"]

names = st.sampled_from(NAMES)


def returns(name: str) -> bool:
    return name.startswith("web-")


class Group(RuleBasedStateMachine):
    """The platform (pods and consumers as they are) and a router that learns of it, late or at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pods: dict[str, Pod] = {}
        self.consumers: set[str] = set()
        self.held: set[str] = set()
        self.membership = Membership()
        self.owners: tuple[str | None, ...] = (None,) * 12
        self.seen_working: set[str] = set()
        self.known_pods: set[str] = set()
        self.known_consuming: set[str] = set()
        self.polled: set[str] = set()
        self.away_since: dict[str, float] = {}
        self.given_up: set[str] = set()

    @rule(name=names, state=st.sampled_from(PodState), consumes=st.booleans(), seen=st.booleans())
    def pod_changes(self, name: str, state: PodState, consumes: bool, seen: bool) -> None:
        self.pods[name] = Pod(name=name, state=state, returns=returns(name))
        (self.consumers.add if consumes else self.consumers.discard)(name)
        if seen:
            self.router_works()

    @rule(name=names, seen=st.booleans())
    def pod_goes(self, name: str, seen: bool) -> None:
        self.pods.pop(name, None)
        self.consumers.discard(name)
        if seen:
            self.router_works()

    @rule(name=names)
    def inbox_is_taken_over(self, name: str) -> None:
        self.held.add(name)

    @rule(name=names)
    def inbox_is_released(self, name: str) -> None:
        if name in self.held:
            self.held.remove(name)
            self.membership = self.membership.restart_grace(name, self.now)
            if name in self.membership.keeping:
                self.away_since[name] = self.now

    @rule(seconds=st.sampled_from([0.5, 10.0, 29.0, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def router_restarts(self) -> None:
        """The ledger stays: owners are known, members are not."""
        self.membership = Membership()
        self.known_pods.clear()
        self.known_consuming.clear()
        self.polled.clear()
        self.away_since.clear()
        self.given_up.clear()

    @rule()
    def router_works(self) -> None:
        self.router_observes()
        self.router_plans()

    @rule()
    def router_observes(self) -> None:
        self.known_pods |= self.pods.keys()
        self.polled |= set(NAMES) - self.held
        self.membership = self.observed()
        assert self.observed() == self.membership, "observing the same twice changes something"

        for name in NAMES:
            if name not in self.pods:
                self.known_consuming.discard(name)
            elif name not in self.held:
                (self.known_consuming.add if name in self.consumers else self.known_consuming.discard)(name)
        ready = {name for name, pod in self.pods.items() if pod.state is PodState.READY}
        here, distrusted = ready & self.known_consuming, self.membership.distrusted
        assert self.membership.eligible == here - distrusted
        assert distrusted <= here
        assert not here or distrusted < here, "nobody is trusted"
        self.seen_working |= here

        owning = {owner for owner in self.owners if owner is not None}
        away = owning - here
        may_return = {name for name in away if self.present(name) or (name in self.known_pods and returns(name))}
        unseen = {name for name in away & ready if name not in self.polled} - self.given_up
        self.away_since = {name: self.away_since.get(name, self.now) for name in away - unseen}
        late = {name for name, since in self.away_since.items() if self.now - since >= REJOIN * self.patience(name)}
        # Who was given up once stays so until it works again.
        self.given_up = (self.given_up & away) | (away - may_return) | late
        assert self.membership.leaving(away) == self.given_up
        assert self.membership.keeping == (away - self.given_up) | (owning & distrusted)

    @rule()
    def router_plans(self) -> None:
        before = self.owners
        eligible, keeping = self.membership.eligible, self.membership.keeping
        self.owners = assign(before, eligible, keeping)
        for old, new in zip(before, self.owners, strict=True):
            assert new is None or new in self.seen_working, "a member that was never ready and consuming owns something"
            assert old == new or new is None or new in eligible, "a member that is away was given something"
        if eligible:
            counts = [self.owners.count(name) for name in sorted(eligible)]
            assert None not in self.owners
            assert max(counts) - min(counts) <= 1
        assert assign(self.owners, eligible, keeping) == self.owners

    @invariant()
    def states_agree_with_each_other(self) -> None:
        membership = self.membership
        for name, member in membership.members.items():
            assert member.name == name
            assert member.deadline is None or member.state in (MemberState.ABSENT, MemberState.JOINING)
            assert member.deadline is not None or member.state is not MemberState.ABSENT
            assert member.since <= self.now
        named = frozenset(membership.members)
        assert not membership.eligible & membership.keeping
        assert not membership.leaving(named) & (membership.eligible | membership.keeping)

    def observed(self) -> Membership:
        return self.membership.observe(
            pods=self.pods.values(),
            consuming={name: name in self.consumers for name in NAMES if name not in self.held},
            owners=[owner for owner in self.owners if owner is not None],
            now=self.now,
            rejoin_seconds=REJOIN,
        )

    def present(self, name: str) -> bool:
        return name in self.pods and self.pods[name].state is not PodState.TERMINATING

    def working(self) -> set[str]:
        return {name for name in self.consumers if name in self.pods and self.pods[name].state is PodState.READY}

    def patience(self, name: str) -> float:
        """Of who was away too often: `test_membership` holds how much that is."""
        member = self.membership.members.get(name)
        return 1.0 if member is None else member.patience

    def settle(self) -> None:
        """Nothing changes any more and every inbox is polled, until everybody is trusted again."""
        self.held.clear()
        for seconds in (REJOIN, REJOIN, FORGOTTEN_AFTER):
            self.router_observes()
            self.now += seconds
        self.router_observes()
        self.router_plans()
        self.membership = self.observed()

    def teardown(self) -> None:
        """Whatever happened: when things settle, exactly the members that work own the partitions."""
        self.settle()
        working = self.working()
        assert self.membership.eligible == working
        assert not self.membership.keeping
        assert {owner for owner in self.owners if owner is not None} == working
        assert {name for name, member in self.membership.members.items() if member.state is MemberState.LEAVING} == {
            name for name, pod in self.pods.items() if pod.state is PodState.TERMINATING and name not in working
        }


Group.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestGroup = Group.TestCase
