"""What people are shown of a group, put together from what its session holds.

Invariant: a report is a picture of the journal and of the last polls; it decides nothing. Notices are for transitions
only: a session that makes way for another one of the same process is none, unless that takes longer than moments.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from partymq.core.report import (
    Condition,
    Counters,
    GroupReport,
    HandoffReport,
    MemberReport,
    Notice,
    RolloutReport,
)
from partymq.core.spec import GroupConfig
from partymq.errors import PartyMQError
from partymq.router import conditions
from partymq.router.census import Census
from partymq.router.conditions import listed
from partymq.router.keycheck import KeyCheck
from partymq.router.pace import CHECK_EVERY
from partymq.router.rolling import Rolling
from partymq.router.roster import Roster, working
from partymq.router.routing import Routing
from partymq.router.scrutiny import Scrutiny
from partymq.router.session import Session
from partymq.router.transitions import AT_WORK, Transitions

_NOTHING = Counters()
REPORT_EVERY = 0.5
"""Seconds between pictures while things change that nobody tells of: depths, counters, ages."""
RESTART = 2.0
"""Seconds after a session's end in order within which the next one routes: until then the last picture stands."""


class Reporter:
    """Builds a group's reports, and says what has changed."""

    def __init__(
        self,
        config: GroupConfig,
        *,
        census: Census,
        on_report: Callable[[GroupReport], None],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self._config = config
        self._scrutiny = Scrutiny(census, on_notice)
        self._keycheck = KeyCheck(on_notice)
        self._on_report = on_report
        self.notice = on_notice
        """Tells something that is worth an Event."""
        self._session: Session | None = None
        self._error: PartyMQError | None = None
        self._trouble: PartyMQError | None = None
        self._standby = False
        self._changed = asyncio.Event()
        self._last: GroupReport | None = None
        self._before = _NOTHING
        self._handoffs = 0
        self._sessions = 0
        self._noticed = ""
        self._roster = Roster()
        self._rolling = Rolling(on_notice)
        self._transitions = Transitions(on_notice, self._rolling)
        self._look_within = CHECK_EVERY
        self._ended = float("-inf")
        self._rivals: set[str] = set()
        """Those that were told."""
        self.known_members: frozenset[str] = frozenset()
        self.owned: dict[str, tuple[int, ...]] = {}
        """All members with their partitions, when this process routed the group last."""

    def configure(self, config: GroupConfig) -> None:
        """Takes a new configuration."""
        self._config = config

    @property
    def epoch(self) -> int:
        """The highest epoch that is known of the group."""
        return max(self._config.known_epoch, self._last.epoch if self._last is not None else 0)

    # --- what happens

    def begin(self, session: Session) -> None:
        """A session starts."""
        self._session = session
        self._trouble = None
        self._standby = False
        self._sessions += 1

    def standby(self) -> None:
        """Another router holds the journal."""
        self._standby = True
        self._error = None
        self._changed.set()

    def trouble(self, error: PartyMQError | None) -> None:
        """Something is in the way of routing, or not any more."""
        if str(error) != str(self._trouble):
            self._trouble = error
            self._changed.set()

    def rival(self, identity: str) -> None:
        """A router of another PartitionGroup of this name stands by at our journal."""
        if identity in self._rivals:
            return
        self._rivals.add(identity)
        self._notice(
            "SecondPartyMQ",
            f"another PartyMQ ({identity}) stands by for another group of this namespace and name: another cluster, or "
            "`partymq serve`, uses the same virtual host. It takes over if this one stops, and its pods get nothing "
            "meanwhile. Give each cluster a virtual host of its own, or rename one of the groups",
            warning=True,
        )

    def changed(self) -> None:
        """The picture has changed."""
        self._standby = False
        self._error = None
        self._changed.set()

    def look(self) -> None:
        """Something that a report shows may have changed."""
        self._changed.set()

    def committed(self, donor: str, moved: int, seconds: float) -> None:
        """A handoff is over."""
        self._handoffs += 1
        if not self._rolling.committed(donor, moved, seconds):
            self._notice(
                "HandoffCommitted",
                f"{moved} partition{'' if moved == 1 else 's'} moved from {donor} in {seconds * 1000:.0f} ms",
            )
        self._changed.set()

    def failed(self, error: PartyMQError) -> None:
        """The session has ended; another one follows."""
        self._end()
        self._error = error
        self._changed.set()

    def stopped(self) -> None:
        """The session has ended in order."""
        self._end()
        self._ended = time.monotonic()
        self._changed.set()

    def _end(self) -> None:
        if self._session is not None and self._session.routing is not None:
            self._before = self._counters(self._session.routing)
        self._session = None

    # --- what is shown

    @property
    def _every(self) -> float:
        routing = self._session.routing if self._session is not None else None
        still = self._standby if routing is None else routing.pace.calm
        return min(CHECK_EVERY, self._look_within) if still else REPORT_EVERY

    async def run(self) -> None:
        """Reports changes at once (but not in bursts), and the depths now and then."""
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            report = self._report()
            if report != self._last:
                before, self._last = self._last, report
                self._on_report(report)
                self._ready_transition(before, report)
            self._member_transitions(report)
            await asyncio.sleep(0.05)

    def _report(self) -> GroupReport:
        routing = self._session.routing if self._session is not None else None
        if routing is not None and not routing.controller.observed:
            routing = None
        if routing is None and self._restarting and self._last is not None:
            return self._last
        connected = self._connected(routing)
        if routing is None:
            return GroupReport(
                routing=False,
                epoch=self.epoch,
                partitions_total=self._config.spec.partitions,
                partitions_assigned=0,
                partitions_held=0,
                source_ready=None,
                backlog=0,
                members=(),
                handoffs=(),
                ready=self._idle(connected),
                broker_connected=connected,
                balanced=conditions.NOT_ROUTING,
                working=replace(conditions.NOT_ROUTING, known=False),
                counters=self._before,
            )
        ledger = routing.journal.ledger
        members = self._members(routing)
        rollouts = self._rolling.look(
            [
                rollout
                for rollout in routing.controller.rollouts
                if rollout.replaced and self._config.spec.rollout_patience
            ],
            newer=routing.controller.roles.newer,
            at_work=[member.name for member in members if member.state in AT_WORK],
            now=time.time(),
        )
        assigned = sum(part.owner is not None for part in ledger.partitions)
        safe = self._scrutiny.look(
            self._config,
            session=routing.journal.session,
            now=time.monotonic(),
            askable=routing.intake.kind.may_ask,
        )
        return GroupReport(
            routing=True,
            epoch=ledger.epoch,
            partitions_total=len(ledger.partitions),
            partitions_assigned=assigned,
            partitions_held=len(ledger.held),
            source_ready=routing.intake.ready,
            backlog=max(0, routing.waiting),
            members=members,
            handoffs=self._handoff_reports(routing),
            ready=self._ready(routing, anybody=assigned > 0 or bool(ledger.plain_ready)),
            broker_connected=connected,
            balanced=self._balanced(routing, rollouts),
            counters=self._counters(routing),
            consumers_safe=safe.consumers,
            queues_safe=safe.queues,
            working=working(members),
            rollouts=rollouts,
        )

    @property
    def _restarting(self) -> bool:
        return not self._standby and self._error is None and time.monotonic() < self._ended + RESTART

    def _connected(self, routing: Routing | None) -> Condition:
        if routing is not None or self._standby or self._trouble is not None or self._blocked:
            return Condition(ok=True, reason="Connected", message="the broker answers")
        if self._error is not None:
            return Condition(ok=False, reason=self._error.reason, message=str(self._error))
        return Condition(ok=False, reason="Connecting", message="connecting to the broker")

    @property
    def _blocked(self) -> bool:
        return self._session is not None and self._session.blocked

    def _idle(self, connected: Condition) -> Condition:
        if self._blocked:
            return conditions.BLOCKED
        if self._trouble is not None:  # on its way to routing, and waiting for something
            return Condition(ok=False, reason=self._trouble.reason, message=str(self._trouble))
        if not self._standby:
            return connected
        return conditions.standby(self._config)

    def _ready(self, routing: Routing, *, anybody: bool) -> Condition:
        if self._trouble is not None:
            return Condition(ok=False, reason=self._trouble.reason, message=str(self._trouble))
        if self._blocked:
            return conditions.BLOCKED
        if self._config.spec.paused:
            return Condition(ok=False, reason="Paused", message="spec.paused is true: the source is not read")
        if not anybody:
            return Condition(ok=False, reason="NoMembers", message=conditions.nobody(self._config))
        if routing.intake.full:
            return conditions.BACKLOG_FULL
        if kept := routing.careful.kept:
            return conditions.refused(kept)
        message = "messages are routed"
        if routing.careful.engaged:
            message += conditions.ONE_AT_A_TIME
        if troubles := routing.troubles.now:
            message += f", but {listed([trouble.message for trouble in troubles])}"
        if wrong := self._keycheck.look(self._counters(routing), self._config.spec.key, routing.keyless.causes):
            message += f"; {wrong}"
        return Condition(ok=True, reason="Routing", message=message)

    def _balanced(self, routing: Routing, rollouts: Sequence[RolloutReport]) -> Condition:
        if routing.controller.balanced:
            if troubles := routing.troubles.now:
                text = listed([trouble.message for trouble in troubles])
                return Condition(ok=False, reason=troubles[0].reason, message=text)
            text = "; ".join(rollout.sentence for rollout in rollouts)
            return Condition(ok=True, reason="Balanced", message=text or "every member owns its share")
        if overdue := routing.escalation.overdue:
            return Condition(ok=False, reason="HandoffOverdue", message=listed(overdue))
        count = len(routing.handoffs.running)
        if count:
            text = f"{count} handoff{'' if count == 1 else 's'} under way"
            return Condition(ok=False, reason="HandingOff", message=text)
        return Condition(ok=False, reason="Rebalancing", message="members have changed; a plan follows")

    def _members(self, routing: Routing) -> tuple[MemberReport, ...]:
        members = self._roster.look(routing)
        self.known_members |= frozenset(member.name for member in members)
        self.owned = {member.name: member.partitions for member in members}
        return members

    def _handoff_reports(self, routing: Routing) -> tuple[HandoffReport, ...]:
        handoffs = routing.journal.ledger.handoffs
        reports = []
        for progress in routing.handoffs.running.values():
            handoff = handoffs.get(progress.id)
            phase = handoff.phase.value if handoff is not None else "planned"
            partitions = tuple(sorted(handoff.targets)) if handoff is not None else ()
            waiting = progress.waiting_for
            reports.append(
                HandoffReport(
                    id=progress.id, donor=progress.donor, phase=phase, partitions=partitions, since=progress.since,
                    waiting_for=waiting,
                )
            )  # fmt: skip
        return tuple(reports)

    def _counters(self, routing: Routing) -> Counters:
        before = self._before
        return Counters(
            routed=before.routed + routing.intake.routed,
            keyless=before.keyless + routing.keyless.missing,
            dead=before.dead + routing.keyless.dead + routing.careful.aside,
            backlogged=before.backlogged + routing.backlogs.appended,
            released=before.released + routing.releaser.released,
            handoffs=self._handoffs,
            sessions=self._sessions,
        )

    # --- transitions

    def _ready_transition(self, before: GroupReport | None, after: GroupReport) -> None:
        was = None if before is None else (before.ready.ok, before.ready.reason)
        if was != (after.ready.ok, after.ready.reason) and after.ready.reason != "Connecting":
            self._notice(after.ready.reason, after.ready.message, warning=conditions.is_wrong(after.ready))

    def _member_transitions(self, report: GroupReport) -> None:
        routing = self._session.routing if self._session is not None else None
        if report.routing and routing is not None:
            due = self._transitions.look(report, routing.controller.membership.members)
            self._look_within = CHECK_EVERY if due is None else due

    def _notice(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.notice(Notice(warning=warning, reason=reason, message=message))
