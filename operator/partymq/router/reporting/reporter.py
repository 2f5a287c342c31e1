"""What people are shown of a group, put together from what its session holds.

Invariant: a report is a picture of the journal and of the last polls. Nothing is decided by it, but that a lost journal
is rebuilt with the last owners that were seen. Notices are for transitions only: a session that makes way for another
one of the same process is none, unless that takes longer than moments.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from partymq.core.report import (
    Condition,
    Counters,
    GroupReport,
    MemberReport,
    MemberState,
    Notice,
)
from partymq.core.spec import GroupConfig
from partymq.errors import PartyMQError
from partymq.router.broker.polling import CHECK_EVERY
from partymq.router.reporting import conditions
from partymq.router.reporting.conditions import listed
from partymq.router.reporting.consumer_check import ConsumerCheck
from partymq.router.reporting.consumer_scan import ConsumerScan
from partymq.router.reporting.handoff_progress import balanced, handoff_reports
from partymq.router.reporting.key_check import KeyCheck
from partymq.router.reporting.members import MemberReports, working
from partymq.router.reporting.notices import AT_WORK, MemberNotices
from partymq.router.reporting.rollout_progress import RolloutProgress
from partymq.router.session.session import Session
from partymq.router.session.snapshot import Snapshot

LOG = logging.getLogger(__name__)

_NOTHING = Counters()
REPORT_EVERY = 0.5
"""Seconds between pictures while things change that nobody tells of: depths, counters, ages."""
STANDS = 2.0
"""Seconds without anything new out of the source after which that is shown."""
RESTART = 2.0
"""Seconds after a session's end in order within which the next one routes: until then the last picture stands."""


class Reporter:
    """Builds a group's reports, and says what has changed."""

    def __init__(
        self,
        config: GroupConfig,
        *,
        scan: ConsumerScan,
        on_report: Callable[[GroupReport], None],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self._config = config
        self._consumer_check = ConsumerCheck(scan, on_notice)
        self._keycheck = KeyCheck(on_notice)
        self._on_report = on_report
        self.notice = on_notice
        """Tells something that is worth an Event."""
        self._session: Session | None = None
        self._seen: Snapshot | None = None
        """The last look at it."""
        self._error: PartyMQError | None = None
        self._trouble: PartyMQError | None = None
        self._standby = False
        self._changed = asyncio.Event()
        self._last: GroupReport | None = None
        self._before = _NOTHING
        self._handoffs = 0
        self._sessions = 0
        self._noticed = ""
        self._member_reports = MemberReports()
        self._rollouts = RolloutProgress(on_notice)
        self._member_notices = MemberNotices(on_notice, self._rollouts)
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
        self._session, self._seen = session, None
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
        if not self._rollouts.committed(donor, moved, seconds):
            self._notice(
                "HandoffCommitted",
                f"{moved} partition{'' if moved == 1 else 's'} moved from {donor} in {seconds * 1000:.0f} ms",
            )
        self._changed.set()

    def failed(self, error: PartyMQError) -> None:
        """The session has ended; another one follows."""
        self._end()
        # Where it came from would keep all that the session had in memory.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self._error = error
        self._changed.set()

    def stopped(self) -> None:
        """The session has ended in order."""
        self._end()
        self._ended = time.monotonic()
        self._changed.set()

    def _end(self) -> None:
        if (seen := self._look()) is not None:
            self._before = self._counters(seen)
        self._session = self._seen = None

    def _look(self) -> Snapshot | None:
        return self._session.snapshot() if self._session is not None else None

    # --- what is shown

    @property
    def _every(self) -> float:
        still = self._standby if self._seen is None else self._seen.calm
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
            seen = self._seen = self._look()
            report = self._report(seen if seen is not None and seen.rebalancer.observed else None)
            if report != self._last:
                before, self._last = self._last, report
                if before is None or before.ready.reason != report.ready.reason:
                    LOG.info("%s: %s: %s", self._config.group, report.ready.reason, report.ready.message)
                self._on_report(report)
                self._ready_transition(before, report)
            self._member_transitions(report, seen)
            await asyncio.sleep(0.05)

    def _report(self, seen: Snapshot | None) -> GroupReport:
        if seen is None and self._restarting and self._last is not None:
            return self._last
        connected = self._connected(seen)
        if seen is None:
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
        ledger = seen.ledger
        members = self._members(seen)
        rollouts = self._rollouts.look(
            [
                rollout
                for rollout in seen.rebalancer.rollouts
                if rollout.replaced and self._config.spec.rollout_patience
            ],
            newer=seen.rebalancer.roles.newer,
            at_work=[member.name for member in members if member.state in AT_WORK],
            leaving=[member.name for member in members if member.state is MemberState.LEAVING],
            now=time.time(),
        )
        assigned = sum(part.owner is not None for part in ledger.partitions)
        safe = self._consumer_check.look(
            self._config,
            session=seen.session,
            now=time.monotonic(),
            askable=seen.source.askable,
        )
        return GroupReport(
            routing=True,
            epoch=ledger.epoch,
            partitions_total=len(ledger.partitions),
            partitions_assigned=assigned,
            partitions_held=len(ledger.held),
            source_ready=seen.source.ready,
            backlog=seen.waiting,
            members=members,
            handoffs=handoff_reports(seen),
            ready=self._ready(seen, anybody=assigned > 0 or bool(ledger.plain_ready)),
            broker_connected=connected,
            balanced=balanced(seen, rollouts),
            counters=self._counters(seen),
            consumers_safe=safe.consumers,
            queues_safe=safe.queues,
            working=working(members),
            rollouts=rollouts,
        )

    @property
    def _restarting(self) -> bool:
        return not self._standby and self._error is None and time.monotonic() < self._ended + RESTART

    def _connected(self, seen: Snapshot | None) -> Condition:
        if seen is not None or self._standby or self._trouble is not None or self._blocked:
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

    def _ready(self, seen: Snapshot, *, anybody: bool) -> Condition:
        if self._trouble is not None:
            return Condition(ok=False, reason=self._trouble.reason, message=str(self._trouble))
        if self._blocked:
            return conditions.BLOCKED
        if self._config.spec.paused:
            return Condition(ok=False, reason="Paused", message="spec.paused is true: the source is not read")
        if not anybody:
            return Condition(ok=False, reason="NoMembers", message=conditions.nobody(self._config))
        if seen.source.full:
            return conditions.BACKLOG_FULL
        if seen.source.stands >= STANDS and seen.troubles:
            return conditions.stands([trouble.message for trouble in seen.troubles.values()])
        if kept := seen.isolation.kept:
            return conditions.refused(kept)
        message = "messages are routed"
        if seen.isolation.engaged:
            message += conditions.ONE_AT_A_TIME
        if troubles := seen.troubles.values():
            message += f", but {listed([trouble.message for trouble in troubles])}"
        if wrong := self._keycheck.look(self._counters(seen), self._config.spec.key, seen.keyless.causes):
            message += f"; {wrong}"
        return Condition(ok=True, reason="Routing", message=message)

    def _members(self, seen: Snapshot) -> tuple[MemberReport, ...]:
        members = self._member_reports.look(seen)
        self.known_members |= frozenset(member.name for member in members)
        self.owned = {member.name: member.partitions for member in members}
        return members

    def _counters(self, seen: Snapshot) -> Counters:
        before = self._before
        return Counters(
            routed=before.routed + seen.source.routed,
            keyless=before.keyless + seen.keyless.missing,
            dead=before.dead + seen.keyless.dead + seen.isolation.aside,
            backlogged=before.backlogged + seen.backlogged,
            released=before.released + seen.released,
            handoffs=self._handoffs,
            sessions=self._sessions,
        )

    # --- transitions

    def _ready_transition(self, before: GroupReport | None, after: GroupReport) -> None:
        was = None if before is None else (before.ready.ok, before.ready.reason)
        if was != (after.ready.ok, after.ready.reason) and after.ready.reason != "Connecting":
            self._notice(after.ready.reason, after.ready.message, warning=conditions.is_wrong(after.ready))

    def _member_transitions(self, report: GroupReport, seen: Snapshot | None) -> None:
        if report.routing and seen is not None:
            due = self._member_notices.look(report, seen.rebalancer.membership.members)
            self._look_within = CHECK_EVERY if due is None else due

    def _notice(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.notice(Notice(warning=warning, reason=reason, message=message))
