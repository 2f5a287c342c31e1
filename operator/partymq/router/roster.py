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
from partymq.router.conditions import listed
from partymq.router.lanes import Member as Inbox
from partymq.router.routing import Routing

_UNKNOWN: Final = Member(name="", state=MemberState.LEAVING, since=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One member's state, and what it waits for."""

    state: MemberState
    waiting_for: str = ""
    since: float | None = None
    """When that began, by the monotonic clock, where it was not noticed at once."""


class Roster:
    """The members of one group, over all sessions of this process."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[MemberState, float]] = {}

    def look(self, routing: Routing) -> tuple[MemberReport, ...]:
        """All members, by name."""
        ledger, date, now = routing.journal.ledger, time.time(), time.monotonic()
        owned = owned_by(ledger)
        waiting = {p: routing.backlogs.entered_of(p) - routing.releaser.taken_from(p) for p in ledger.backlogs}
        known = routing.controller.membership.members
        reports = []
        for name in sorted(known.keys() | ledger.members | ledger.plain):
            partitions = owned.get(name, ())
            seen = _seen(routing, known.get(name, _UNKNOWN), name, owns=bool(partitions), now=now)
            if self._states.get(name, (None, 0.0))[0] is not seen.state:
                self._states[name] = (seen.state, date if seen.since is None else date - (now - seen.since))
            inbox = routing.inboxes.members.get(name)
            reports.append(
                MemberReport(
                    name=name,
                    state=seen.state,
                    partitions=partitions,
                    ready=inbox.ready if inbox is not None else 0,
                    since=self._states[name][1],
                    pinned=ledger.pins.get(name, 0).bit_count(),
                    backlog=sum(max(0, waiting.get(p, 0)) for p in partitions),
                    waiting_for=seen.waiting_for,
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
        f"messages of partitions {ranges.text(member.partitions)} wait for it; others go on. Look at its log; if it "
        "hangs, delete the pod: what it holds is delivered again, in order"
    )


def _about(count: int) -> int:
    """A number that does not change with every message: one digit, and zeros."""
    size: int = 10 ** (len(str(count)) - 1)
    return max(1, count // size) * size


def _seen(routing: Routing, member: Member, name: str, *, owns: bool, now: float) -> _Seen:
    ledger, state = routing.journal.ledger, member.state
    if name in ledger.plain:
        ready = ledger.clients[name].ready
        return _Seen(state=MemberState.ACTIVE if ready else MemberState.JOINING)
    inbox = routing.inboxes.members.get(name)
    if state in (MemberState.ACTIVE, MemberState.IDLE):
        # What it owns is newer than the membership, which was looked at before the last plan.
        return _at_work(inbox, now) if owns else _without(routing, member)
    if state in (MemberState.JOINING, MemberState.ABSENT):
        return _Seen(state=state, waiting_for=_lacks(routing, name))
    return _Seen(state=state)


def _at_work(inbox: Inbox | None, now: float) -> _Seen:
    since = inbox.taking.stuck_since(now) if inbox is not None and not (inbox.closed or inbox.barred) else None
    if since is None:
        return _Seen(state=MemberState.ACTIVE)
    return _Seen(
        state=MemberState.STUCK, since=since, waiting_for="its client to acknowledge what it holds, and to take more"
    )


def _without(routing: Routing, member: Member) -> _Seen:
    """One that is there and owns nothing."""
    controller = routing.controller
    if member.name in controller.membership.distrusted:
        wait = member.trusted_at - (member.here_since or 0.0)
        why = f"{wait:.0f} s without a break: it was absent {len(member.absences)} times of late"
        return _Seen(state=MemberState.JOINING, waiting_for=why)
    if member.name in controller.roles.newer:
        return _Seen(state=MemberState.WAITING, waiting_for="a pod of an older generation to leave")
    return _Seen(state=MemberState.IDLE)


def _lacks(routing: Routing, name: str) -> str:
    queue = routing.names.inbox(name)
    if trouble := routing.troubles.of(queue):
        return trouble
    state = routing.controller.pod_state(name)
    if state is PodState.READY:
        return f"a consumer: it is ready, but nobody consumes {queue}"
    if state is PodState.STARTING:
        return "its pod to be ready"
    return "its pod to come back"
