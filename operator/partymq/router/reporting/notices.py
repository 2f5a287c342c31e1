"""What is told of members: from one picture to the next.

Invariant: an Event is for a change; what was so before this process was the router was told by somebody else. The pods
of a rollout come and go without an Event each; see `rollout_progress`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from partymq.core.membership import FORGIVEN, Member
from partymq.core.report import GroupReport, MemberReport, MemberState, Notice
from partymq.router.reporting.members import stuck_text
from partymq.router.reporting.rollout_progress import RolloutProgress

LONG: Final = 60.0
"""Seconds after which a person is told that a member does not come to join."""
AT_WORK: Final = (MemberState.ACTIVE, MemberState.IDLE, MemberState.WAITING, MemberState.STUCK)
_ORDINARY: Final = (
    MemberState.JOINING,
    MemberState.ACTIVE,
    MemberState.WAITING,
    MemberState.IDLE,
    MemberState.LEAVING,
)
"""What becomes of pods in a rollout."""


class MemberNotices:
    """Tells what becomes of the members of one group."""

    def __init__(self, on_notice: Callable[[Notice], None], rollouts: RolloutProgress) -> None:
        self._on_notice = on_notice
        self._rollouts = rollouts
        self._told: dict[str, MemberState] | None = None
        self._late: set[str] = set()
        """Those of whom it was told that they do not come to join."""
        self._absences: dict[str, int] = {}

    def look(self, report: GroupReport, known: Mapping[str, Member]) -> float | None:
        """Tells what has changed; in how many seconds to look again, where that matters."""
        states = {member.name: member.state for member in report.members}
        if self._told is None:
            # Those who own partitions were members before this process was the router: somebody else has told.
            at_work = AT_WORK if report.partitions_assigned else ()
            self._told = {name: state for name, state in states.items() if state in at_work}
        for member in report.members:
            before = self._told.get(member.name)
            if before is not member.state:
                self._changed(member, before, known.get(member.name))
        for name in self._told.keys() - states.keys():
            if not self._rollouts.takes_part(name):
                self._notice("MemberGone", f"{name} is gone")
        settled = {name for name, state in states.items() if state is MemberState.ACTIVE}
        self._rollouts.forget(settled | (self._told.keys() - states.keys()))
        self._told = states
        self._flapping(known)
        return self._joining(report)

    def _changed(self, member: MemberReport, before: MemberState | None, known: Member | None) -> None:
        if member.state is MemberState.STUCK:
            self._notice("MemberStuck", stuck_text(member), warning=True)
        elif before is MemberState.STUCK and member.state is MemberState.ACTIVE:
            self._notice("MemberActive", f"{member.name} acknowledges messages again")
        elif member.state is MemberState.WAITING:
            return  # for its share: that it has got one is told
        elif self._rollouts.takes_part(member.name) and (
            member.state in _ORDINARY or (known is not None and known.returns)
        ):
            return
        else:
            waits = f", it waits for {member.waiting_for}" if member.waiting_for else ""
            self._notice(f"Member{member.state.value}", f"{member.name} is {member.state.value.lower()}{waits}")

    def _flapping(self, known: Mapping[str, Member]) -> None:
        for name, member in known.items():
            times = len(member.absences)
            if times > max(FORGIVEN, self._absences.get(name, 0)):
                minutes = max(1, round((member.absences[-1] - member.absences[0]) / 60))
                self._notice(
                    "MemberFlapping",
                    f"{name} was absent {times} times in {minutes} minute{'' if minutes == 1 else 's'}. It is waited "
                    "for less each time, and is given partitions only when it has been there for a while: look at its "
                    "container's restarts (`kubectl describe pod`), or why it loses its connection",
                    warning=True,
                )
        self._absences = {name: len(member.absences) for name, member in known.items()}

    def _joining(self, report: GroupReport) -> float | None:
        now, due = time.time(), None
        joining = [member for member in report.members if member.state is MemberState.JOINING]
        self._late &= {member.name for member in joining}
        for member in joining:
            left = member.since + LONG - now
            if left > 0:
                due = left if due is None else min(due, left)
            elif member.name not in self._late:
                self._late.add(member.name)
                if member.waiting_for:
                    text = f"{member.name} has not joined for a minute, it waits for {member.waiting_for}"
                    self._notice("MemberWaits", text, warning=True)
        return due

    def _notice(self, reason: str, message: str, *, warning: bool = False) -> None:
        self._on_notice(Notice(warning=warning, reason=reason, message=message))
