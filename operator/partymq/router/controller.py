"""From pods to plans: what should change, and when.

Invariant: every decision is made from the whole current membership and the last journaled ledger; events only wake this
up.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from partymq.core.ledger import Ledger, LedgerError, admit, claim, retarget
from partymq.core.membership import Membership, Pod, PodState
from partymq.core.planner import Plan, plan
from partymq.core.spec import GroupSpec
from partymq.router.handoff import Handoffs
from partymq.router.inboxes import Inboxes
from partymq.router.journal import Journal
from partymq.router.pace import CHECK_EVERY, Pace

DECIDES_SOON = 3.0
"""Seconds before the end of a rejoin time from which on it has to be known how an inbox is."""
OBSERVE_EVERY = 1.0
"""Seconds between looks at the membership when nothing wakes us, but in a calm."""


class Controller:
    """Keeps the membership, plans, and starts what the plan asks for."""

    def __init__(
        self,
        *,
        spec: GroupSpec,
        journal: Journal,
        inboxes: Inboxes,
        handoffs: Handoffs,
        pace: Pace,
        managed: Callable[[], tuple[Pod, ...]],
        on_membership: Callable[[Membership], None],
        on_ledger: Callable[[Ledger], None],
    ) -> None:
        self._spec = spec
        self._journal = journal
        self._inboxes = inboxes
        self._handoffs = handoffs
        self._pace = pace
        self._pods: tuple[Pod, ...] | None = None
        self._managed = managed
        self._on_membership = on_membership
        self._on_ledger = on_ledger
        self._wake = asyncio.Event()
        pace.on_work(self._wake.set)
        self._due: float | None = None
        self._planned: tuple[Ledger, Membership, Plan] | None = None
        self.membership = Membership()
        self.observed = False
        """True once the membership was looked at: before, nobody is known."""

    def set_pods(self, pods: tuple[Pod, ...]) -> None:
        """Takes the whole list of pods that opted in."""
        self._pods = pods
        self._wake.set()

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    def handed_off(self, donor: str) -> None:
        """A handoff is over: its donor's consumer is seen again, and there may be more to do."""
        self.membership = self.membership.restart_grace(donor, time.monotonic())
        self._wake.set()

    def present(self, member: str) -> bool:
        """True while the member's pod exists and is not on its way out."""
        return any(pod.name == member and pod.state is not PodState.TERMINATING for pod in self._listed or ())

    def is_pod(self, name: str) -> bool:
        """True if a pod of that name has opted in, as far as is known."""
        return any(pod.name == name for pod in self._pods or ())

    @property
    def _listed(self) -> tuple[Pod, ...] | None:
        """Pods and managed clients; None while pods have not been listed yet."""
        if self._pods is None:
            return None
        names, plain = {pod.name for pod in self._pods}, self._journal.ledger.plain
        # A pod that has the name of a plain client has to wait until that is unbound: one name is one owner.
        pods = (pod for pod in self._pods if pod.name not in plain)
        return (*pods, *(client for client in self._managed() if client.name not in names))

    @property
    def balanced(self) -> bool:
        """True when there is nothing to plan and nothing on its way."""
        return not self._handoffs.running and self._due is None and not self._plan()

    async def run(self) -> None:
        """Observes, waits until changes have settled, plans."""
        while True:
            self._wake.clear()
            if (listed := self._listed) is not None:
                await self._observe(listed)
                await self._act()
                if not self.balanced:
                    self._pace.stir()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float:
        due = [at for at in (self._due, self.membership.next_change) if at is not None]
        every = CHECK_EVERY if self._pace.calm else OBSERVE_EVERY
        return min(max(0.0, min(due, default=every + time.monotonic()) - time.monotonic()), every)

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
        changed = self._sets(before) != self._sets(self.membership)
        # Nobody was seen before the first look, so nobody is known to have been leaving.
        left_before = self._leaving(before) if self.observed else frozenset[str]()
        if changed and self._leaving(self.membership) - left_before:
            self._due = now  # its keys wait for this; who comes has time to come together
        elif changed and self._due is None:
            self._due = now + self._spec.rebalance_delay
        self.observed = True
        if before is not self.membership:
            self._on_membership(self.membership)
        here = {pod.name for pod in self._listed or ()}  # by now: a client may have been bound meanwhile
        for name in self._inboxes.members.keys() - here - self.membership.members.keys():
            if name not in ledger.members and not ledger.names(name):
                await self._inboxes.discard(name)

    def _sets(self, membership: Membership) -> tuple[frozenset[str], ...]:
        return membership.eligible, membership.keeping, self._leaving(membership)

    def _leaving(self, membership: Membership) -> frozenset[str]:
        return membership.leaving(self._journal.ledger.members)

    def _plan(self) -> Plan:
        ledger, membership = self._journal.ledger, self.membership
        if self._planned is None or self._planned[0] is not ledger or self._planned[1] is not membership:
            eligible, keeping, leaving = self._sets(membership)
            todo = plan(ledger, eligible=eligible, keeping=keeping, leaving=leaving)
            self._planned = ledger, membership, todo
        return self._planned[2]

    async def _act(self) -> None:
        if self._due is not None and self._due > time.monotonic():
            return
        self._due = None
        todo = self._plan()
        if not todo:
            return
        try:
            ledger = await self._journal.write(lambda now: _apply(now, todo))
        except LedgerError:  # a handoff has committed meanwhile: the next plan starts from there
            self._wake.set()
            return
        self._on_ledger(ledger)
        for donor, targets in todo.handoffs.items():
            self._start(donor, targets)

    def _start(self, donor: str, targets: Mapping[int, str | None]) -> None:
        if donor not in self._handoffs.running:
            self._handoffs.start(donor, targets)


def _apply(ledger: Ledger, todo: Plan) -> Ledger:
    """The parts of a plan that are only a journal write."""
    ledger = claim(admit(ledger, todo.admissions), todo.claims)
    for id, targets in todo.retargets.items():  # noqa: A001
        ledger = retarget(ledger, id=id, targets=targets)
    return ledger
