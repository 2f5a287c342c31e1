"""Who asks where a key is has a customer on the telephone: the answer names the pod, the reason and the next step."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from partymq import cli
from partymq.core.keys import partition_of
from partymq.core.report import Condition, HandoffReport, MemberReport, MemberState
from partymq.errors import InvalidSpecError
from partymq.kube.client import ApiError, Client
from partymq.kube.status import View, render, stopped
from partymq.where import explain, read
from support.fake_kubernetes import ORDERS, FakeApi, group_body, in_virtual_time, report

KEY = "customer-17"
PARTITION = partition_of(KEY.encode(), 64)
OWNER = MemberReport(
    name="orders-7f9c-x2", state=MemberState.ACTIVE, partitions=(PARTITION,), ready=3, since=61.0, backlog=0
)


def body(*members: MemberReport, **changes: object) -> dict[str, Any]:
    shown = report(members=members, **changes)
    return group_body() | {"status": render(View(identity="o", generation=1, report=shown, problem=None), {}, 0)}


def answer(*members: MemberReport, **changes: object) -> str:
    return "\n".join(explain(body(*members, **changes), KEY))


def test_a_key_that_is_handed_on() -> None:
    said = answer(OWNER)
    assert f"partition  {PARTITION} of 64" in said
    assert "owner      orders-7f9c-x2, Active since 1970-01-01T00:01:01Z" in said
    assert "3 messages ready in the owner's inbox" in said
    assert "what to do nothing" in said


def test_a_key_whose_pod_hangs() -> None:
    said = answer(replace(OWNER, state=MemberState.STUCK, ready=256, backlog=300, waiting_for="its client"))
    assert "Stuck since 1970-01-01T00:01:01Z, waits for its client" in said
    assert "256 messages ready in the owner's inbox, 300 in the backlogs" in said
    assert "kubectl delete pod -n shop orders-7f9c-x2" in said


def test_a_key_that_is_changing_hands() -> None:
    handoff = HandoffReport(
        handoff_id="1.1",
        donor="orders-7f9c-x2",
        phase="drain",
        partitions=(PARTITION,),
        since=5.0,
        waiting_for="5 messages",
    )
    said = answer(replace(OWNER, state=MemberState.LEAVING), handoffs=(handoff,))
    assert "a handoff: orders-7f9c-x2 gives it away since 1970-01-01T00:00:05Z, waiting for 5 messages" in said
    assert "what to do nothing: its partitions move" in said
    said = answer(OWNER, handoffs=(handoff,))
    assert "what to do mostly nothing; if it takes minutes, look whether orders-7f9c-x2 acknowledges" in said


def test_a_key_that_nobody_has() -> None:
    nobody = Condition(ok=False, reason="NoMembers", message="no pod is ready")
    said = answer(ready=nobody, source_ready=7)
    assert "owner      nobody" in said
    assert "7 messages of all keys in the source" in said
    assert "the group is not ready (NoMembers): no pod is ready" in said


def test_a_group_whose_operator_was_uninstalled() -> None:
    group = body(OWNER)
    said = "\n".join(explain(group | {"status": stopped(group["status"], group["status"], 0)}, KEY))
    assert "before it  nothing is known" in said, "numbers would be those of long ago"
    assert "the group is not ready (OperatorStopped): The operator has stopped" in said


def test_a_group_that_no_operator_has_seen() -> None:
    assert "no operator has taken the group up" in explain(group_body(), KEY)[-1]


def test_what_is_no_key_is_said_to_be_none() -> None:
    with pytest.raises(InvalidSpecError, match="counts as missing"):
        explain(body(OWNER), "")


@pytest.mark.parametrize(("group", "text"), [("orders", "NAMESPACE/NAME"), ("shop/a.b", "cannot be part of queue")])
def test_a_group_that_cannot_be_is_bad_input(group: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["where", group, KEY]) == 2
    assert text in capsys.readouterr().err


def test_kubectl_finds_the_command() -> None:
    """`kubectl partymq where ...` runs a program of that name."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["kubectl-partymq"] == project["scripts"]["partymq"]


@in_virtual_time
async def test_a_group_that_is_not_there_is_told_from_a_kind_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = FakeApi()
    with pytest.raises(InvalidSpecError, match="There is no PartitionGroup orders in namespace shop"):
        await read(cast(Client, api), ORDERS)

    async def refused(_namespace: str | None) -> list[dict[str, Any]]:
        raise ApiError("list PartitionGroups", status, "as it may be")

    monkeypatch.setattr(api, "list_groups", refused)
    status = 404
    with pytest.raises(ApiError, match="list PartitionGroups"):
        await read(cast(Client, api), ORDERS)
    status = 403
    with pytest.raises(InvalidSpecError, match="There is no PartitionGroup orders"):
        await read(cast(Client, api), ORDERS)
