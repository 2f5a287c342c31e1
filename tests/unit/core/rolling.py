"""A Deployment's controller, the pods that it makes, and a router that learns of them: in memory, with its own clock.

The controller does what Kubernetes' does: it makes new pods while there are at most `surge` too many, and takes old
ones away while at most `unavailable` are missing, those that are not ready first. The router is the real membership,
rollouts and planner; its handoffs take no time.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from partymq.core.ledger import Ledger, admit, begin_handoff, claim, commit, empty
from partymq.core.membership import Generation, Membership, Pod, PodState
from partymq.core.planner import Plan, plan
from partymq.core.rollouts import Roles, changes_at, roles, rollouts

DELAY = 2.0
REJOIN = 30.0


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How a Deployment is rolled out, and how its pods behave; percentages are rounded as Kubernetes rounds them."""

    replicas: int = 8
    surge: float = 0.25
    unavailable: float = 0.25
    starts: tuple[float, float] = (1.0, 3.0)
    """Seconds from a pod's making to its readiness, from and to."""
    consumes: tuple[float, float] = (0.0, 0.0)
    """Seconds from readiness until it consumes; less than 0 is before."""
    min_ready: float = 0.0
    terminates: float = 0.2

    @property
    def most(self) -> int:
        surge = math.ceil(self.surge * self.replicas)
        return self.replicas + surge

    @property
    def least(self) -> int:
        unavailable = math.floor(self.unavailable * self.replicas)
        return self.replicas - (unavailable or (0 if self.most > self.replicas else 1))


@dataclass(kw_only=True)
class Running:
    """A pod."""

    name: str
    generation: str
    created: float
    changed: float
    ready: bool = False
    available: bool = False
    consuming: bool = False
    terminating: bool = False
    uid: int = 0
    tenure: int = 0

    @property
    def pod(self) -> Pod:
        state = PodState.TERMINATING if self.terminating else PodState.READY if self.ready else PodState.STARTING
        return Pod(
            name=self.name,
            state=state,
            generation=Generation(owner="Deployment orders", name=self.generation),
            created=math.floor(self.created),
            changed=math.floor(self.changed),
            tenure=self.tenure,
        )


@dataclass(kw_only=True)
class Cluster:
    """One Deployment and the group that its pods are in."""

    strategy: Strategy
    partitions: int = 64
    seed: int = 0
    patience: float = 60.0
    foreseen: bool = True
    """Whether the order in which pods are taken away is known."""
    now: float = 1_000_000.0
    pods: dict[str, Running] = field(default_factory=dict)
    moves: Counter[int] = field(default_factory=Counter)
    """How often each partition has changed from one owner to another."""
    remembered: Counter[int] = field(default_factory=Counter)
    """The same, as the router's session remembers it."""
    handoffs: int = 0
    unowned: float = 0.0
    """Seconds in which a partition had no owner although somebody consumed."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.replicas = self.strategy.replicas
        self.generation = "0"
        self.membership = Membership()
        self.ledger: Ledger = empty(self.partitions)
        self.due: float | None = None
        self.expected: float | None = None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._names = count()

    # --- what happens

    def roll_out(self, generation: str) -> None:
        self.generation = generation
        self.remembered.clear()
        self.reconcile()

    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self.reconcile()

    def crash(self, name: str) -> None:
        """A pod is gone at once, and its owner makes another one of its generation."""
        lost = self.pods.pop(name)
        self._make(lost.generation)
        self.reconcile()

    def new_session(self) -> None:
        """Another router takes over: it has the ledger and the pods, and has seen nothing yet."""
        self.membership = Membership()
        self.remembered.clear()
        self.look()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            at, _, call = heapq.heappop(self._timers)
            self._advance(at)
            call()
        self._advance(until)

    def settle(self) -> None:
        """Let time pass until nothing more is going to happen."""
        while self._timers:
            self.run(self._timers[0][0] - self.now)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), call))

    # --- the controller of the Deployment

    def of(self, generation: str) -> list[Running]:
        return [pod for pod in self.pods.values() if pod.generation == generation and not pod.terminating]

    @property
    def there(self) -> list[Running]:
        return [pod for pod in self.pods.values() if not pod.terminating]

    def reconcile(self) -> None:
        wanted = Strategy(replicas=self.replicas, surge=self.strategy.surge, unavailable=self.strategy.unavailable)
        new = self.of(self.generation)
        for _ in range(min(self.replicas - len(new), wanted.most - len(self.there))):
            self._make(self.generation)
        new = self.of(self.generation)
        for pod in self._victims(new)[: max(0, len(new) - self.replicas)]:
            self._terminate(pod)
        old = [pod for pod in self.there if pod.generation != self.generation]
        missing = sum(not pod.available for pod in self.of(self.generation))
        may = max(0, len(self.there) - wanted.least - missing)
        broken = [pod for pod in old if not pod.available]
        for pod in broken[:may]:
            self._terminate(pod)
        available = sum(pod.available for pod in self.there)
        healthy = self._victims([pod for pod in old if pod.available])
        for pod in healthy[: max(0, min(available - wanted.least, may - len(broken[:may])))]:
            self._terminate(pod)
        self.look()

    def _victims(self, pods: list[Running]) -> list[Running]:
        return sorted(pods, key=lambda pod: (pod.available, pod.uid))

    def _make(self, generation: str) -> None:
        pod = Running(
            name=f"{generation}-{next(self._names)}", generation=generation, created=self.now, changed=self.now
        )
        self.pods[pod.name] = pod
        pod.uid = self.random.getrandbits(32)
        pod.tenure = pod.uid if self.foreseen else 0
        starts = self.random.uniform(*self.strategy.starts)
        consumes = starts + self.random.uniform(*self.strategy.consumes)
        self.later(starts, lambda: self._set(pod, "ready"))
        self.later(starts + self.strategy.min_ready, lambda: self._set(pod, "available"))
        self.later(max(0.0, consumes), lambda: self._set(pod, "consuming"))

    def _set(self, pod: Running, what: str) -> None:
        if self.pods.get(pod.name) is not pod or pod.terminating:
            return
        setattr(pod, what, True)
        if what == "ready":
            pod.changed = self.now
        self.reconcile()

    def _terminate(self, pod: Running) -> None:
        pod.terminating = True
        pod.changed = self.now
        pod.consuming = False
        self.later(self.strategy.terminates, lambda: self._remove(pod))

    def _remove(self, pod: Running) -> None:
        self.pods.pop(pod.name, None)
        self.reconcile()

    # --- the router

    def look(self) -> None:
        """What the router does when anything has changed, as `router.rebalance.rebalancer` does it."""
        before = self.membership
        self.membership = before.observe(
            pods=self.listed,
            consuming={pod.name: pod.consuming for pod in self.pods.values()},
            owners={part.owner for part in self.ledger.partitions if part.owner is not None},
            now=self.now,
            rejoin_seconds=REJOIN,
        )
        if self.membership.leaving(self.ledger.members) - before.leaving(self.ledger.members):
            self.due = self.now
        elif self.membership.eligible - before.eligible and self.due is None:
            self.due = self.now + DELAY
            self._look_at(self.due)
        at = changes_at(
            rollouts(self.listed), self.membership.members, date=self.now, now=self.now, patience=self.patience
        )
        if at is not None:
            self._look_at(at)
        self._act()

    def _look_at(self, at: float) -> None:
        self.later(at + 0.001 - self.now, self.look)

    @property
    def listed(self) -> list[Pod]:
        return [pod.pod for pod in self.pods.values()]

    def parts(self) -> Roles:
        """Who takes which part now."""
        return roles(
            rollouts(self.listed), self.membership.members, date=self.now, now=self.now, patience=self.patience
        )

    def plan(self) -> Plan:
        return plan(
            self.ledger,
            eligible=self.membership.eligible,
            keeping=self.membership.keeping,
            leaving=self.membership.leaving(self.ledger.members),
            moved=self.remembered,
            roles=self.parts(),
        )

    def _act(self) -> None:
        todo = self.plan()
        self.ledger = claim(admit(self.ledger, todo.admissions), todo.claims)
        if self.due is not None and self.due > self.now:
            return
        self.due = None
        present = {pod.name for pod in self.there}
        for donor, targets in todo.handoffs.items():
            name = f"h{next(self._order)}"
            moved = [p for p, target in targets.items() if target != donor]
            self.moves.update(moved)
            self.remembered.update(moved)
            self.handoffs += any(target != donor for target in targets.values())
            self.ledger = begin_handoff(self.ledger, handoff_id=name, donor=donor, targets=targets)
            self.ledger = commit(self.ledger, handoff_id=name, drop=donor not in present)
        assert not self.plan(), "a plan that was carried out leaves something to do"

    def _advance(self, to: float) -> None:
        if "" in self.counts and self.membership.eligible:
            self.unowned += to - self.now
        self.now = to

    @property
    def counts(self) -> Counter[str]:
        return Counter(part.owner or "" for part in self.ledger.partitions)
