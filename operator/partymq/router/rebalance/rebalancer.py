"""From pods to plans: what should change, and when.

Invariant: every decision is made from the whole current membership and the last journaled ledger; events only wake this
up. What nobody owns, and what those have who leave, never waits for changes to be collected.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from partymq.core.ledger import Ledger, LedgerError, admit, claim, retarget
from partymq.core.membership import Membership, Pod, PodState
from partymq.core.planner import Plan, plan
from partymq.core.rollouts import NO_ROLES, Roles, Rollout, changes_at, roles, rollouts
from partymq.router.broker.polling import CHECK_EVERY
from partymq.router.context import Context
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lanes import Member
from partymq.router.rebalance.handoffs import Handoffs
from partymq.router.rebalance.listing import Listing
from partymq.router.signals import Signal

DECIDES_SOON = 3.0
"""Seconds before the end of a rejoin time from which on it has to be known how an inbox is."""
OBSERVE_EVERY = 1.0
"""Seconds between looks at the membership when nothing wakes us, but in a calm."""
EXPECTS_EVERY = 0.05
EXPECTS_EACH = 0.002
"""Seconds between looks at the inboxes of those whose first message waits for their consumers, and for each of them."""
EXPECTS_FOR = 60.0
"""Seconds after the last change of pods for which that is so: a pod may never consume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancerStatistics:
    """Who is there, as it was observed last."""

    observed: bool
    """False before the first look: nobody is known then."""
    balanced: bool
    """Whether there is nothing to plan and nothing on its way."""
    membership: Membership
    pods: Mapping[str, PodState]
    """What the platform says of those that it lists."""
    rollouts: tuple[Rollout, ...]
    """What pods show, under way or not."""
    roles: Roles


class Rebalancer:
    """Keeps the membership, plans, and starts what the plan asks for."""

    def __init__(self, context: Context, *, inboxes: Inboxes, handoffs: Handoffs, listing: Listing) -> None:
        self._spec = context.config.spec
        self._journal = context.journal
        self._polling = context.polling
        self._inboxes = inboxes
        self._handoffs = handoffs
        self._listing = listing
        self.membership_changed = Signal[[]]()
        """Who is a member, or might be, is not as it was."""
        self.planned = Signal[[Ledger]]()
        """A part of a plan is journaled that needs no handoff."""
        self._wake = asyncio.Event()
        self._polling.on_work(self._wake.set)
        inboxes.news.connect(self.wake)
        handoffs.ended.connect(self.handed_off)
        self._due: float | None = None
        self._planned: tuple[Ledger, Membership, Roles, Plan] | None = None
        self._moved = Counter[int]()
        """How often partitions have moved since a rollout began last; another session begins anew."""
        self._rolled: set[tuple[str, str]] = set()
        """Owner and generation of the rollouts that there were last."""
        self.membership = Membership()
        self._rollouts: tuple[Rollout, ...] = ()
        self._roles = NO_ROLES
        self._observed = False

    def set_pods(self, pods: tuple[Pod, ...]) -> None:
        """Takes the whole list of pods that opted in."""
        self._listing.set_pods(pods)
        self._wake.set()

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    def handed_off(self, donor: str) -> None:
        """A handoff is over: its donor's consumer is seen again, and there may be more to do."""
        self.membership = self.membership.restart_grace(donor, time.monotonic())
        self._wake.set()

    @property
    def statistics(self) -> RebalancerStatistics:
        """Who is there."""
        return RebalancerStatistics(
            observed=self._observed,
            balanced=self.balanced,
            membership=self.membership,
            pods={pod.name: pod.state for pod in self._listing.all or ()},
            rollouts=self._rollouts,
            roles=self._roles,
        )

    @property
    def balanced(self) -> bool:
        """True when there is nothing to plan and nothing on its way."""
        return not self._handoffs.running and self._due is None and not self._plan()

    async def run(self) -> None:
        """Observes, waits until changes have settled, plans."""
        while True:
            self._wake.clear()
            if (listed := self._listing.all) is not None:
                await self._observe(listed)
                await self._act()
                if not self.balanced:
                    self._polling.stir()
                for member in self._expected(time.monotonic()):
                    self._inboxes.wake(member)
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float:
        now = time.monotonic()
        changes = changes_at(self._rollouts, self.membership.members, **self._times(now))
        due = [at for at in (self._due, self.membership.next_change, changes) if at is not None]
        every = CHECK_EVERY if self._polling.calm else OBSERVE_EVERY
        if expected := self._expected(now):
            every = max(EXPECTS_EVERY, EXPECTS_EACH * len(expected))
        return min(max(0.0, min(due, default=every + now) - now), every)

    def _times(self, now: float) -> dict[str, float]:
        return {"date": time.time(), "now": now, "patience": self._spec.rollout_patience}

    def _expected(self, now: float) -> list[Member]:
        """Those whose first consumer is waited for: by partitions that nobody owns, or by those that leave."""
        names = set(self._roles.arriving if self._roles.patient else ())
        ledger = self._journal.ledger
        idle = not ledger.plain_ready and any(part.owner is None for part in ledger.partitions)
        if idle and now < self._listing.listed_at + EXPECTS_FOR:
            names |= {pod.name for pod in self._listing.all or () if pod.state is not PodState.TERMINATING}
        known = [member for name in sorted(names) if (member := self._inboxes.members.get(name)) is not None]
        return [member for member in known if not (member.consuming or member.closed)]

    async def _observe(self, pods: tuple[Pod, ...]) -> None:
        await self._inboxes.expect([pod.name for pod in pods if pod.state is not PodState.TERMINATING])
        ledger, now = self._journal.ledger, time.monotonic()
        before = self.membership
        self._inboxes.doubt(before.away_until(now + DECIDES_SOON))
        after = before.observe(
            pods=pods,
            consuming=self._inboxes.consuming,
            unheard=self._inboxes.unheard(),
            owners={part.owner for part in ledger.partitions if part.owner is not None} - ledger.plain,
            now=now,
            rejoin_seconds=self._spec.rejoin_seconds,
        )
        if after != before:
            self.membership = after
        self._rollouts, parts = rollouts(pods), (self._roles.newer, self._roles.older)
        self._roles = roles(self._rollouts, self.membership.members, **self._times(now))
        under_way = {(rollout.owner, rollout.generation) for rollout in self._rollouts if rollout.replaced}
        if under_way - self._rolled:
            self._moved.clear()
        self._rolled = under_way or self._rolled
        changed = self._sets(before) != self._sets(self.membership) or parts != (self._roles.newer, self._roles.older)
        if changed and self._due is None:
            self._due = now + self._spec.rebalance_delay
        self._observed = True
        if before is not self.membership:
            self.membership_changed.emit()
        here = {pod.name for pod in self._listing.all or ()}  # by now: a client may have been bound meanwhile
        for name in self._inboxes.members.keys() - here - self.membership.members.keys():
            if name not in ledger.members and not ledger.names(name):
                await self._inboxes.discard(name)

    def _sets(self, membership: Membership) -> tuple[frozenset[str], ...]:
        return membership.eligible, membership.keeping, self._leaving(membership)

    def _leaving(self, membership: Membership) -> frozenset[str]:
        return membership.leaving(self._journal.ledger.members)

    def _plan(self) -> Plan:
        ledger, membership, parts = self._journal.ledger, self.membership, self._roles
        planned = self._planned
        if planned is None or planned[0] is not ledger or planned[1] is not membership or planned[2] != parts:
            eligible, keeping, leaving = self._sets(membership)
            todo = plan(ledger, eligible=eligible, keeping=keeping, leaving=leaving, moved=self._moved, roles=parts)
            planned = self._planned = ledger, membership, parts, todo
        return planned[3]

    async def _act(self) -> None:
        todo = self._plan()
        if todo and self._due is not None and self._due > time.monotonic():
            todo = todo.urgent(self._leaving(self.membership))  # who comes has time to come together
        else:
            self._due = None
        if not todo:
            return
        try:
            ledger = await self._journal.write(lambda now: _apply(now, todo))
        except LedgerError:  # a handoff has committed meanwhile: the next plan starts from there
            self._wake.set()
            return
        self.planned.emit(ledger)
        for donor, targets in todo.handoffs.items():
            self._start(donor, targets)

    def _start(self, donor: str, targets: Mapping[int, str | None]) -> None:
        if donor not in self._handoffs.running:
            self._moved.update(p for p, target in targets.items() if target != donor)
            self._handoffs.start(donor, targets)


def _apply(ledger: Ledger, todo: Plan) -> Ledger:
    """The parts of a plan that are only a journal write."""
    ledger = claim(admit(ledger, todo.admissions), todo.claims)
    for handoff_id, targets in todo.retargets.items():
        ledger = retarget(ledger, handoff_id=handoff_id, targets=targets)
    return ledger
