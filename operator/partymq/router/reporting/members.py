"""Members as people see them: their state, what they own, what waits for them, and what they lack.

Invariant: a state here is the membership's, but where that cannot know better: who owns nothing yet may wait for a
rollout or for trust, and who is there may take nothing out of its inbox. Sentences hold no number that changes by
itself: every change is written to the resource.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from partymq.core import ranges
from partymq.core.ledger import Ledger
from partymq.core.membership import Member, PodState
from partymq.core.report import WORKING, Condition, MemberReport, MemberState
from partymq.router.flow.statistics import InboxStatistics
from partymq.router.reporting.conditions import listed
from partymq.router.session.snapshot import Snapshot

WITHOUT_A_BREAK: Final = "without a break"
"""What one waits for who was away too often."""
_UNKNOWN: Final = Member(name="", state=MemberState.LEAVING, since=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """One member's state, and what it waits for."""

    state: MemberState
    waiting_for: str = ""
    since: float | None = None
    """When that began, by the monotonic clock, where it was not noticed at once."""


class MemberReports:
    """The members of one group, over all sessions of this process."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[MemberState, float]] = {}

    def look(self, seen: Snapshot) -> tuple[MemberReport, ...]:
        """All members, by name."""
        ledger, date, now = seen.ledger, time.time(), time.monotonic()
        owned = owned_by(ledger)
        known = seen.rebalancer.membership.members
        reports = []
        for name in sorted(known.keys() | ledger.members | ledger.plain):
            partitions = owned.get(name, ())
            shown = _shown(seen, known.get(name, _UNKNOWN), name, owns=bool(partitions))
            if self._states.get(name, (None, 0.0))[0] is not shown.state:
                self._states[name] = (shown.state, date if shown.since is None else date - (now - shown.since))
            inbox = seen.inboxes.get(name)
            reports.append(
                MemberReport(
                    name=name,
                    state=shown.state,
                    partitions=partitions,
                    ready=inbox.ready if inbox is not None else 0,
                    since=self._states[name][1],
                    backlog=sum(seen.backlogs.get(p, 0) for p in partitions),
                    waiting_for=shown.waiting_for,
                )
            )
        self._states = {report.name: self._states[report.name] for report in reports}
        return tuple(reports)


def owned_by(ledger: Ledger) -> Mapping[str, tuple[int, ...]]:
    """Everybody's partitions."""
    owned: dict[str, list[int]] = {}
    for p, partition in enumerate(ledger.partitions):
        if partition.owner is not None:
            owned.setdefault(partition.owner, []).append(p)
    return {name: tuple(partitions) for name, partitions in owned.items()}


def working(members: tuple[MemberReport, ...]) -> Condition:
    """The condition that names those who are stuck."""
    stuck = [stuck_text(member) for member in members if member.state is MemberState.STUCK]
    if not stuck:
        return WORKING
    return Condition(ok=False, reason="Stuck", message=listed(stuck))


def stuck_text(member: MemberReport) -> str:
    """What is known of a member that is stuck, and what to do."""
    since = datetime.fromtimestamp(member.since, UTC).strftime("%H:%M:%SZ")
    return (
        f"{member.name} has acknowledged nothing since {since}, although about {_about(member.ready + member.backlog)} "
        f"messages of partitions {ranges.text(member.partitions)} wait for it. Look at its log; if it "
        "hangs, delete the pod: what it holds is delivered again, in order"
    )


def _about(count: int) -> int:
    """A number that does not change with every message: one digit, and zeros."""
    size: int = 10 ** (len(str(count)) - 1)
    return max(1, count // size) * size


def _shown(seen: Snapshot, member: Member, name: str, *, owns: bool) -> _Shown:
    ledger, state = seen.ledger, member.state
    if name in ledger.plain:
        ready = ledger.clients[name].ready
        return _Shown(state=MemberState.ACTIVE if ready else MemberState.JOINING)
    if state in (MemberState.ACTIVE, MemberState.IDLE):
        # What it owns is newer than the membership, which was looked at before the last plan.
        return _at_work(seen.inboxes.get(name)) if owns else _without(seen, member)
    if state in (MemberState.JOINING, MemberState.ABSENT):
        return _Shown(state=state, waiting_for=_lacks(seen, name))
    return _Shown(state=state)


def _at_work(inbox: InboxStatistics | None) -> _Shown:
    if inbox is None or inbox.stuck_since is None:
        return _Shown(state=MemberState.ACTIVE)
    return _Shown(
        state=MemberState.STUCK,
        since=inbox.stuck_since,
        waiting_for="its client to acknowledge what it holds, and to take more",
    )


def _without(seen: Snapshot, member: Member) -> _Shown:
    """One that is there and owns nothing."""
    rebalancer = seen.rebalancer
    if member.name in rebalancer.membership.distrusted:
        wait = member.trusted_at - (member.here_since or 0.0)
        why = f"{wait:.0f} s {WITHOUT_A_BREAK}: it was absent {len(member.absences)} times of late"
        return _Shown(state=MemberState.JOINING, waiting_for=why)
    if member.name in rebalancer.roles.newer:
        return _Shown(state=MemberState.WAITING, waiting_for="a pod of an older generation to leave")
    if len(rebalancer.membership.eligible) <= len(seen.ledger.partitions):
        return _Shown(state=MemberState.WAITING, waiting_for="its share, which is planned or handed over by others")
    return _Shown(state=MemberState.IDLE)


def _lacks(seen: Snapshot, name: str) -> str:
    queue = seen.names.inbox(name)
    if trouble := seen.trouble(queue):
        return trouble
    state = seen.rebalancer.pods.get(name)
    if state is PodState.READY:
        return f"a consumer: it is ready, but nobody consumes {queue}"
    if state is PodState.STARTING:
        return "its pod to be ready"
    return "its pod to come back"
