"""From a report to the resource's status.

Invariant: what is shown is a pure function of what is known; a condition's lastTransitionTime moves only when its
status does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from partymq.core import ranges
from partymq.core.report import Condition, GroupReport, HandoffReport, MemberReport, MemberState, RolloutReport

Status = dict[str, Any]

_STARTING: Final = ("Unknown", "Starting", "The operator has taken the group up; the router has not reported yet.")
_NOT_TRIED: Final = ("Unknown", "NotTried", "Nothing was tried yet; the condition Ready says why.")
_STOPPED: Final = Condition(
    ok=False,
    reason="OperatorStopped",
    message="The operator has stopped, and nobody routes this group until one runs again: messages wait in the source, "
    "pods work off what is in their inboxes, and a deletion of the group waits, too.",
)
_NOBODY_LOOKS: Final = Condition(
    ok=False, known=False, reason="OperatorStopped", message="Nobody looks: the operator has stopped."
)
_PASSING: Final = ("router", "rollout", "messages")
"""What is known only while somebody looks."""
_CAPACITY: Final = 32_768
"""Characters of a condition's message that the schema takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known of a group at one moment."""

    identity: str
    """This operator."""
    generation: int
    """The generation of the spec that this is about."""
    report: GroupReport | None
    problem: Condition | None
    """What the router cannot know, because it concerns the resource itself: it decides whether the group is ready."""


def render(view: View, previous: Mapping[str, Any], now: float) -> Status:
    """The whole status; `previous` is the one shown until now, for the times of the conditions."""
    report = view.report
    status: Status = {
        "observedGeneration": view.generation,
        "memberCount": sum(map(_counts, report.members)) if report else 0,
        "members": [_member(member) for member in report.members] if report else [],
        "handoffs": [_handoff(handoff) for handoff in report.handoffs] if report else [],
        "conditions": _conditions(view, previous.get("conditions") or (), now),
    }
    if report:
        # Who does not route may know less than was known before.
        status["epoch"] = report.epoch if report.routing else max(report.epoch, previous.get("epoch", 0))
        status["partitions"] = {
            "total": report.partitions_total,
            "assigned": report.partitions_assigned,
            "held": report.partitions_held,
        }
        if report.rollouts:
            status["rollout"] = _rollout(max(report.rollouts, key=lambda rollout: rollout.since))
        status["messages"] = {"backlog": report.backlog}
        if report.source_ready is not None:
            status["messages"]["source"] = report.source_ready
        if report.routing:
            status["router"] = view.identity
    elif "epoch" in previous:
        # The epoch tells an empty journal from a lost one: it outlives the time in which nothing else is known.
        status["epoch"] = previous["epoch"]
    return status


def stopped(status: Mapping[str, Any], previous: Mapping[str, Any], now: float) -> Status:
    """The last word on a group that nobody routes any more: what outlives the operator, nothing that would grow old.

    `previous` is the status shown until now, for the times of the conditions.
    """
    before = {condition["type"]: condition for condition in previous.get("conditions") or ()}
    conditions = [
        _condition(
            kind=condition["type"],
            said=_said(_STOPPED if condition["type"] == "Ready" else _NOBODY_LOOKS),
            generation=condition.get("observedGeneration", 0),
            last=before.get(condition["type"]),
            now=now,
        )
        for condition in status.get("conditions") or ()
    ]
    members = [
        {key: value for key, value in member.items() if key not in ("ready", "backlog", "waitingFor")}
        for member in status.get("members") or ()
    ]
    kept = {key: value for key, value in status.items() if key not in _PASSING}
    return kept | {"members": members, "handoffs": [], "conditions": conditions}


def steady(status: Mapping[str, Any]) -> Status:
    """A status without the numbers that change with every message: two of them differ when something happened."""
    members = [{**member, "ready": 0, "backlog": 0} for member in status.get("members") or ()]
    return {key: value for key, value in status.items() if key != "messages"} | {"members": members}


def patch(previous: Mapping[str, Any], status: Status) -> dict[str, Any]:
    """The merge patch from one to the other: what is no longer said must be taken back by name."""
    changes: dict[str, Any] = dict.fromkeys(previous.keys() - status.keys())
    for key, value in status.items():
        before = previous.get(key)
        if isinstance(value, dict) and isinstance(before, Mapping):
            changes[key] = dict.fromkeys(before.keys() - value.keys()) | value
        elif value != before:
            changes[key] = value
    return changes


def known_members(status: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The members that a status shows, with their partitions, as far as they can be read."""
    members = {}
    for member in status.get("members") or ():
        try:
            members[str(member["name"])] = ranges.parse(member.get("partitions") or "")
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # somebody else wrote that; it is a hint and no more
    return members


def timestamp(seconds: float) -> str:
    """A time as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _counts(member: MemberReport) -> bool:
    return bool(member.partitions) or member.state in (MemberState.ACTIVE, MemberState.WAITING, MemberState.IDLE)


def _member(member: MemberReport) -> dict[str, Any]:
    shown = {
        "name": member.name,
        "state": member.state.value,
        "partitions": ranges.text(member.partitions),
        "ready": member.ready,
        "backlog": member.backlog,
        "since": timestamp(member.since),
    }
    return shown | {"waitingFor": member.waiting_for} if member.waiting_for else shown


def _rollout(rollout: RolloutReport) -> dict[str, Any]:
    return {
        "owner": rollout.owner,
        "generation": rollout.generation,
        "pods": f"{rollout.pods}/{rollout.of}",
        "moved": rollout.moved,
        "handoffs": rollout.handoffs,
        "since": timestamp(rollout.since),
        "stalled": rollout.stalled,
        "message": rollout.sentence,
    }


def _handoff(handoff: HandoffReport) -> dict[str, Any]:
    return {
        "id": handoff.handoff_id,
        "donor": handoff.donor,
        "phase": handoff.phase,
        "partitions": ranges.text(handoff.partitions),
        "since": timestamp(handoff.since),
        "waitingFor": handoff.waiting_for,
    }


def _conditions(view: View, previous: Iterable[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    before = {condition["type"]: condition for condition in previous}
    report = view.report
    said: dict[str, Condition | None] = {
        "Ready": view.problem or (report.ready if report else None),
        "BrokerConnected": report.broker_connected if report else None,
        "Balanced": report.balanced if report else None,
        "ConsumersSafe": report.consumers_safe if report else None,
        "QueuesSafe": report.queues_safe if report else None,
        "MembersWorking": report.working if report else None,
    }
    unknown = _NOT_TRIED if view.problem else _STARTING
    conditions = []
    for kind, condition in said.items():
        conditions.append(
            _condition(
                kind=kind,
                said=_said(condition) if condition else unknown,
                generation=view.generation,
                last=before.get(kind),
                now=now,
            )
        )
    return conditions


def _condition(
    *, kind: str, said: tuple[str, str, str], generation: int, last: Mapping[str, Any] | None, now: float
) -> dict[str, Any]:
    state, reason, message = said
    return {
        "type": kind,
        "status": state,
        "observedGeneration": generation,
        "lastTransitionTime": last["lastTransitionTime"] if last and last["status"] == state else timestamp(now),
        "reason": reason,
        "message": message[:_CAPACITY],
    }


def _said(condition: Condition) -> tuple[str, str, str]:
    return str(condition.ok) if condition.known else "Unknown", condition.reason, condition.message
