"""What a report looks like on the resource."""

from dataclasses import replace
from typing import Any

from partymq.core.report import (
    NOT_SEEN,
    QUEUES_NOT_SEEN,
    Condition,
    GroupReport,
    HandoffReport,
    MemberReport,
    MemberState,
    RolloutReport,
)
from partymq.kube.status import View, patch, render, steady, stopped
from support.fake_kubernetes import report

A = MemberReport(name="a", state=MemberState.ACTIVE, partitions=(0, 1, 2, 3, 7), ready=5, since=0.0, backlog=8)
B = MemberReport(
    name="b", state=MemberState.JOINING, partitions=(), ready=0, since=1.0, waiting_for="its pod to be ready"
)
KINDS = ("Ready", "BrokerConnected", "Balanced", "ConsumersSafe", "QueuesSafe", "MembersWorking")
GOOD = report()
BAD = Condition(ok=False, reason="InvalidSecret", message="Fix it.")


def view(*, generation: int = 3, report: GroupReport | None = GOOD, problem: Condition | None = None) -> View:
    return View(identity="operator-a", generation=generation, report=report, problem=problem)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_a_report_is_shown_whole() -> None:
    handoff = HandoffReport(
        handoff_id="4.1", donor="a", phase="drain", partitions=(1, 2), since=61.0, waiting_for="5 messages"
    )
    shown = render(view(report=report(epoch=4, members=(A, B), handoffs=(handoff,), backlog=9, source_ready=2)), {}, 0)
    assert shown == {
        "observedGeneration": 3,
        "epoch": 4,
        "router": "operator-a",
        "memberCount": 1,
        "partitions": {"total": 64, "assigned": 64, "held": 0},
        "messages": {"source": 2, "backlog": 9},
        "members": [
            {
                "name": "a",
                "state": "Active",
                "partitions": "0-3,7",
                "ready": 5,
                "backlog": 8,
                "since": "1970-01-01T00:00:00Z",
            },
            {
                "name": "b",
                "state": "Joining",
                "partitions": "",
                "ready": 0,
                "backlog": 0,
                "since": "1970-01-01T00:00:01Z",
                "waitingFor": "its pod to be ready",
            },
        ],
        "handoffs": [
            {
                "id": "4.1",
                "donor": "a",
                "phase": "drain",
                "partitions": "1-2",
                "since": "1970-01-01T00:01:01Z",
                "waitingFor": "5 messages",
            }
        ],
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "observedGeneration": 3,
                "lastTransitionTime": "1970-01-01T00:00:00Z",
                "reason": "Routing",
                "message": "messages are routed",
            }
            for kind in KINDS
        ],
    }


def test_the_rollout_that_was_begun_last_is_shown() -> None:
    first = RolloutReport(owner="Deployment a", generation="1", pods=1, of=2, moved=3, handoffs=1, since=1.0)
    last = RolloutReport(owner="Deployment orders", generation="7f9c", pods=3, of=8, moved=24, handoffs=3, since=61.0)
    shown = render(view(report=report(rollouts=(last, first))), {}, 0)
    assert shown["rollout"] == {
        "owner": "Deployment orders",
        "generation": "7f9c",
        "pods": "3/8",
        "moved": 24,
        "handoffs": 3,
        "since": "1970-01-01T00:01:01Z",
        "stalled": False,
        "message": "rollout of orders to 7f9c: 3 of 8 pods, 24 partitions moved",
    }
    assert patch(shown, render(view(), shown, 0))["rollout"] is None


def test_before_the_first_report_nothing_is_claimed() -> None:
    shown = render(view(report=None), {}, 0)
    assert conditions(shown) == dict.fromkeys(KINDS, ("Unknown", "Starting"))
    assert "router" not in shown


def test_a_problem_of_the_resource_decides_whether_the_group_is_ready() -> None:
    assert conditions(render(view(problem=BAD), {}, 0))["Ready"] == ("False", "InvalidSecret")
    untried = conditions(render(view(problem=BAD, report=None), {}, 0))
    assert untried["BrokerConnected"] == ("Unknown", "NotTried")


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = render(view(), {}, 100)
    same = render(view(generation=4), first, 200)
    assert {c["lastTransitionTime"] for c in same["conditions"]} == {"1970-01-01T00:01:40Z"}
    other = render(view(problem=BAD), same, 300)
    assert [c["lastTransitionTime"] for c in other["conditions"]] == [
        "1970-01-01T00:05:00Z",
        "1970-01-01T00:01:40Z",
        "1970-01-01T00:01:40Z",
        "1970-01-01T00:01:40Z",
        "1970-01-01T00:01:40Z",
        "1970-01-01T00:01:40Z",
    ]


def test_what_nobody_knows_is_shown_as_unknown() -> None:
    assert conditions(render(view(report=report(consumers_safe=NOT_SEEN)), {}, 0))["ConsumersSafe"] == (
        "Unknown",
        "NotSeen",
    )
    assert conditions(render(view(report=report(queues_safe=QUEUES_NOT_SEEN)), {}, 0))["QueuesSafe"] == (
        "Unknown",
        "NotSeen",
    )


def test_the_epoch_outlives_the_time_in_which_the_router_is_silent() -> None:
    assert render(view(report=None), {"epoch": 7}, 0)["epoch"] == 7


def test_a_member_that_owns_partitions_counts_whatever_its_state() -> None:
    absent = replace(A, name="c", state=MemberState.ABSENT)
    idle = replace(B, name="d", state=MemberState.IDLE)
    leaving = replace(B, name="e", state=MemberState.LEAVING)
    waiting = replace(B, name="f", state=MemberState.WAITING)
    members = (A, B, absent, idle, leaving, waiting)
    assert render(view(report=report(members=members)), {}, 0)["memberCount"] == 4


def test_numbers_are_no_change_but_everything_else_is() -> None:
    base = render(view(report=report(members=(A,))), {}, 0)
    numbers = render(
        view(report=report(members=(replace(A, ready=99, backlog=5),), backlog=5, source_ready=7)), base, 9
    )
    owner = render(view(report=report(members=(replace(A, partitions=(1,)),))), base, 9)
    assert steady(numbers) == steady(base)
    assert steady(owner) != steady(base)


def test_a_patch_takes_back_what_is_no_longer_said() -> None:
    before = render(view(report=report(source_ready=3)), {}, 0)
    after = render(view(report=report(routing=False, source_ready=None)), before, 0)
    changes = patch(before, after)
    assert changes["router"] is None
    assert changes["messages"] == {"backlog": 0, "source": None}
    assert "members" not in changes


def test_a_message_is_cut_to_what_the_schema_takes() -> None:
    long = Condition(ok=False, reason="Long", message="x" * 40_000)
    assert len(render(view(problem=long), {}, 0)["conditions"][0]["message"]) == 32_768


def test_the_last_word_keeps_who_owns_what_and_nothing_that_grows_old() -> None:
    handoff = HandoffReport(
        handoff_id="4.1", donor="a", phase="drain", partitions=(1, 2), since=61.0, waiting_for="5 messages"
    )
    before = render(view(report=report(epoch=4, members=(A, B), handoffs=(handoff,), backlog=9, source_ready=2)), {}, 0)
    last = stopped(before, before, 100.0)
    assert last.keys() == before.keys() - {"router", "messages"}
    assert (last["epoch"], last["handoffs"]) == (4, [])
    assert last["members"][0] == {
        "name": "a",
        "state": "Active",
        "partitions": "0-3,7",
        "since": "1970-01-01T00:00:00Z",
    }
    assert conditions(last) == {kind: ("False" if kind == "Ready" else "Unknown", "OperatorStopped") for kind in KINDS}
    assert {c["lastTransitionTime"] for c in last["conditions"]} == {"1970-01-01T00:01:40Z"}
    assert stopped(last, last, 200.0) == last
