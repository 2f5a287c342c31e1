"""How far partitions are on their way to who shall have them.

Invariant: what is shown of a handoff is what its session knows and what is journaled of it, nothing else.
"""

from collections.abc import Sequence

from partymq.core.report import Condition, HandoffReport, RolloutReport
from partymq.router.reporting.conditions import listed
from partymq.router.session.snapshot import Snapshot


def balanced(seen: Snapshot, rollouts: Sequence[RolloutReport]) -> Condition:
    """The condition Balanced."""
    if seen.rebalancer.balanced:
        if troubles := tuple(seen.troubles.values()):
            text = listed([trouble.message for trouble in troubles])
            return Condition(ok=False, reason=troubles[0].reason, message=text)
        text = "; ".join(rollout.sentence for rollout in rollouts)
        return Condition(ok=True, reason="Balanced", message=text or "every member owns its share")
    if seen.overdue:
        return Condition(ok=False, reason="HandoffOverdue", message=listed(seen.overdue))
    count = len(seen.handoffs)
    if count:
        text = f"{count} handoff{'' if count == 1 else 's'} under way"
        return Condition(ok=False, reason="HandingOff", message=text)
    return Condition(ok=False, reason="Rebalancing", message="members have changed; a plan follows")


def handoff_reports(seen: Snapshot) -> tuple[HandoffReport, ...]:
    """All handoffs under way."""
    reports = []
    for progress in seen.handoffs.values():
        handoff = seen.ledger.handoffs.get(progress.handoff_id)
        reports.append(
            HandoffReport(
                handoff_id=progress.handoff_id,
                donor=progress.donor,
                phase=handoff.phase.value if handoff is not None else "planned",
                partitions=tuple(sorted(handoff.targets)) if handoff is not None else (),
                since=progress.since,
                waiting_for=progress.waiting_for,
            )
        )
    return tuple(reports)
