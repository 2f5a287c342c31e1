"""What people and kubelets do reaches the router; what the router says is seen by people."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from partymq.core.report import Condition, MemberReport, MemberState, Notice
from partymq.kube import strays
from support.api_server import Kubectl, Start
from support.conditions import eventually
from support.fake_kubernetes import report


async def sooner_or_later(condition: Callable[[], bool], otherwise: str, deadline: float = 30.0) -> float:
    """Wait for what `kubectl` shows."""
    return await eventually(lambda: asyncio.to_thread(condition), otherwise, deadline)


async def test_a_group_is_taken_up_and_carries_the_finalizer_and_no_notes(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    watching = await watch()
    group = kubectl.group(partitions=8)
    await watching.configured(group)
    assert watching.router.configs[group].spec.partitions == 8
    assert watching.router.configs[group].broker.password == "password"
    await sooner_or_later(lambda: bool(kubectl.status()), "a status")
    meta = kubectl.get("pgrp", "orders")["metadata"]
    assert meta["finalizers"] == ["partymq.io/finalizer"]
    assert set(meta["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
    assert kubectl.condition("Ready")["status"] == "Unknown"


async def test_groups_and_pods_that_were_there_before_are_taken_up(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    kubectl.pod("a", ready=True)
    watching = await watch(namespaces=())
    await watching.sees(group, a="Ready")


async def test_pods_are_followed_through_their_lives_and_never_written_to(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    kubectl.pod("a", "b")
    kubectl.pod("c", group="others")
    await watching.sees(group, a="Starting", b="Starting")
    kubectl.pod_status("a", "Running", ready=True)
    await watching.sees(group, a="Ready", b="Starting")
    kubectl.pod_status("b", "Failed", ready=False)
    await watching.sees(group, a="Ready")
    kubectl("annotate", "pod", "c", "partymq.io/group=orders", "--overwrite")
    await watching.sees(group, a="Ready", c="Starting")
    kubectl("annotate", "pod", "c", "partymq.io/group-")
    await watching.sees(group, a="Ready")
    before = kubectl.get("pod", "a")
    assert before["metadata"].get("finalizers") is None
    assert set(before["metadata"]["annotations"]) == {
        "partymq.io/group",
        "kubectl.kubernetes.io/last-applied-configuration",
    }
    # A finalizer of someone else keeps it terminating for a while.
    kubectl("patch", "pod", "a", "--type=merge", "-p", '{"metadata": {"finalizers": ["example.org/wait"]}}')
    kubectl("delete", "pod", "a", "--wait=false", "--grace-period=0", "--force")
    await watching.sees(group, a="Terminating")
    kubectl("patch", "pod", "a", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    await watching.sees(group)


async def test_from_a_pods_change_to_the_router_it_is_a_fraction_of_a_second(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    kubectl.pod("a")
    await watching.sees(group, a="Starting")
    took = []
    for ready in (True, False, True):
        patch = asyncio.to_thread(kubectl.pod_status, "a", "Running", ready=ready)
        seen = watching.sees(group, a="Ready" if ready else "Starting")
        took.append((await asyncio.gather(patch, seen))[1])
    assert min(took) < 1.0, took  # kubectl's own start included


async def test_a_report_is_visible_within_two_seconds(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    member = MemberReport(name="a", state=MemberState.ACTIVE, partitions=tuple(range(64)), ready=3, since=0.0)
    for epoch in (2, 3):
        watching.thread.report(group, report(epoch=epoch, members=(member,), source_ready=5))
        wanted = epoch
        took = await sooner_or_later(lambda wanted=wanted: kubectl.status().get("epoch") == wanted, "the epoch")  # type: ignore[misc]
        assert took < 2.0
    status = kubectl.status()
    assert status["router"] == "operator-a"
    assert status["members"] == [
        {
            "name": "a", "state": "Active", "partitions": "0-63", "ready": 3, "backlog": 0,
            "since": "1970-01-01T00:00:00Z",
        }
    ]  # fmt: skip
    assert status["messages"] == {"source": 5, "backlog": 0}
    assert kubectl("get", "pgrp", "orders").splitlines()[1].split()[:6] == ["orders", "orders", "64", "1", "0", "True"]


async def test_the_router_stopping_is_the_last_word(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    watching.thread.report(group, report())
    await watching.thread.quiesce()
    stopped = Condition(ok=False, reason="Stopped", message="the operator has stopped")
    watching.thread.report(group, report(routing=False, ready=stopped))
    await watching.thread.stop()
    assert kubectl.condition("Ready")["reason"] == "OperatorStopped"
    assert "router" not in kubectl.status()


async def test_a_notice_is_an_event_that_describe_shows(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    notice = Notice(warning=True, reason="SourceShared", message="2 other consumers take messages out of the order.")
    watching.thread.notice(group, notice)
    watching.thread.notice(group, notice)

    def events() -> list[dict[str, Any]]:
        listed = json.loads(kubectl("get", "events", "-o", "json"))["items"]
        return [event for event in listed if event["reason"] == "SourceShared"]

    await sooner_or_later(lambda: [event["count"] for event in events()] == [2], "one Event, counted twice")
    described = kubectl("describe", "pgrp", "orders")
    assert "SourceShared" in described
    assert "2 other consumers take messages" in described


async def test_a_pod_that_names_no_group_is_told_so_where_people_look(
    kubectl: Kubectl, watch: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "PATIENCE", 1.0)
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    kubectl.pod("a", group="ordres")
    kubectl.pod("b", group="orders,payments")
    kubectl.pod("c")
    await watching.sees(group, c="Starting")
    await sooner_or_later(lambda: "no PartitionGroup 'ordres'" in kubectl("describe", "pod", "a"), "an Event on a")
    await sooner_or_later(lambda: "NoSuchGroup" in kubectl("describe", "pod", "b"), "an Event on b")
    assert "NoSuchGroup" not in kubectl("describe", "pod", "c")


async def test_a_missing_secret_is_told_and_mended_without_a_restart(kubectl: Kubectl, watch: Start) -> None:
    group = kubectl.group()
    watching = await watch()
    await sooner_or_later(lambda: kubectl.condition("Ready").get("reason") == "InvalidSecret", "the problem")
    assert f"kubectl -n {kubectl.namespace} create secret generic rabbitmq" in kubectl.condition("Ready")["message"]
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rabbitmq"}, "stringData": {"colour": "blue"}}
    )
    await sooner_or_later(
        lambda: "does not exist" not in kubectl.condition("Ready")["message"], "another problem", 20.0
    )
    assert kubectl.condition("Ready")["reason"] == "InvalidSecret"
    kubectl.secret()
    await eventually(lambda: group in watching.router.configs, "the group is configured", 20.0)
    await sooner_or_later(lambda: "Accepted" in kubectl.events(), "an Event")


async def test_a_changed_spec_is_handed_on(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch()
    await watching.configured(group)
    kubectl.group(paused=True, inbox={"window": 9})
    await eventually(lambda: watching.router.configs[group].spec.paused, "paused")
    assert watching.router.configs[group].spec.inbox_window == 9
    await sooner_or_later(lambda: kubectl.status()["observedGeneration"] == 2, "observed")


async def test_an_operator_without_namespaces_serves_all_of_them(kubectl: Kubectl, watch: Start) -> None:
    watching = await watch(namespaces=())
    kubectl.secret()
    group = kubectl.group("everywhere")
    await watching.configured(group)
    kubectl.pod("a", group="everywhere", ready=True)
    await watching.sees(group, a="Ready")


async def test_hundreds_of_pods_come_in_pages(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    names = [f"p-{number}" for number in range(300)]
    await asyncio.to_thread(kubectl.pod, *names)
    watching = await watch()
    await eventually(lambda: len(watching.states(group)) == 300, lambda: f"{len(watching.states(group))} pods", 20.0)


async def test_two_replicas_share_one_group(kubectl: Kubectl, watch: Start) -> None:
    kubectl.secret()
    group = kubectl.group()
    routing = await watch("operator-a")
    standing = await watch("operator-b")
    await routing.configured(group)
    await standing.configured(group)
    standby = Condition(ok=False, reason="Standby", message="another router")
    routing.thread.report(group, report(epoch=3))
    await sooner_or_later(lambda: kubectl.status().get("router") == "operator-a", "the router")
    standing.thread.report(group, report(routing=False, ready=standby))
    kubectl.group(paused=True)
    await eventually(lambda: standing.router.configs[group].spec.paused, "both see every change")
    await eventually(lambda: routing.router.configs[group].spec.paused, "both see every change")
    standing.thread.report(group, report(epoch=4))
    await sooner_or_later(lambda: kubectl.status().get("router") == "operator-b", "the new router")
    routing.thread.report(group, report(routing=False, ready=standby))
    await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=30s")
    assert "remove DeleteEmpty" in standing.router.calls
    assert "remove DeleteEmpty" not in routing.router.calls
