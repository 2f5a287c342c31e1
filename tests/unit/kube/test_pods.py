"""Pods in every state become clients, or do not."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from partymq.core.membership import Generation, Pod, PodState
from partymq.core.spec import GroupId
from partymq.kube.pods import pods_of as pods_at
from partymq.kube.resource import Body
from support.fake_kubernetes import ORDERS, pod_body

DELETED = "2026-01-01T00:00:00Z"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


def pods_of(group: GroupId, pods: Iterable[Body]) -> tuple[tuple[Pod, ...], tuple[str, ...]]:
    return pods_at(group, pods, now=NOON)


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        (pod_body("a"), PodState.READY),
        (pod_body("a", ready=False), PodState.STARTING),
        (pod_body("a", phase="Pending", ready=False), PodState.STARTING),
        (pod_body("a", phase="Pending"), PodState.STARTING),
        (pod_body("a", phase="Unknown"), PodState.STARTING),
        (pod_body("a", deletionTimestamp=DELETED), PodState.TERMINATING),
        (pod_body("a", ready=False, deletionTimestamp=DELETED), PodState.TERMINATING),
        (pod_body("a", phase="Succeeded"), None),
        (pod_body("a", phase="Failed", deletionTimestamp=DELETED), None),
        (pod_body("a", group="others"), None),
        (pod_body("a", group=None), None),
        ({"metadata": {"name": "a", "annotations": {"partymq.io/group": "orders"}}}, PodState.STARTING),
        ({"metadata": {"name": "a"}}, None),
    ],
)
def test_a_pods_state(pod: dict[str, object], state: PodState | None) -> None:
    listed, refused = pods_of(ORDERS, [pod])
    assert [found.state for found in listed] == ([] if state is None else [state])
    assert not refused


def test_only_a_statefulsets_pod_returns_under_its_name() -> None:
    bodies = [pod_body("a", owner="StatefulSet"), pod_body("b", owner="ReplicaSet"), pod_body("c", owner="")]
    listed, _ = pods_of(ORDERS, bodies)
    assert [pod.returns for pod in listed] == [True, False, False]


def test_an_owner_that_does_not_control_the_pod_does_not_count() -> None:
    pod = pod_body("a", owner="StatefulSet")
    pod["metadata"]["ownerReferences"][0]["controller"] = False
    pod["metadata"]["labels"] = {"controller-revision-hash": "owner-1"}
    assert pods_of(ORDERS, [pod])[0] == (Pod(name="a", state=PodState.READY),)


def test_the_order_of_the_list_does_not_matter() -> None:
    assert pods_of(ORDERS, [pod_body("b"), pod_body("a")]) == pods_of(ORDERS, [pod_body("a"), pod_body("b")])


def test_a_pod_whose_inbox_no_broker_could_take_is_named_and_the_others_are_listed() -> None:
    listed, refused = pods_of(ORDERS, [pod_body("x" * 250), pod_body("a")])
    assert [pod.name for pod in listed] == ["a"]
    assert len(refused) == 1
    assert "a queue's name has at most 255" in refused[0]


def of_deployment(name: str, generation: str = "7f9c", **meta: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    pod = pod_body(name, labels={"pod-template-hash": generation}, uid=f"uid-{name}", **meta)
    pod["metadata"]["ownerReferences"][0]["name"] = f"orders-{generation}"
    return pod


@pytest.mark.parametrize(
    ("kind", "owner", "labels", "generation"),
    [
        (
            "ReplicaSet",
            "orders-7f9c",
            {"pod-template-hash": "7f9c"},
            Generation(owner="Deployment orders", name="7f9c"),
        ),
        (
            "ReplicaSet",
            "orders-7f9c",
            {"rollouts-pod-template-hash": "7f9c"},
            Generation(owner="Rollout orders", name="7f9c"),
        ),
        (
            "StatefulSet",
            "web",
            {"controller-revision-hash": "web-5d4"},
            Generation(owner="StatefulSet web", name="5d4"),
        ),
        ("DaemonSet", "agent", {"controller-revision-hash": "5d4"}, Generation(owner="DaemonSet agent", name="5d4")),
        ("ReplicaSet", "bare", {}, None),
        ("Job", "once", {"controller-revision-hash": "x", "pod-template-hash": "y"}, None),
        ("", "", {"pod-template-hash": "7f9c"}, None),
    ],
)
def test_a_pods_generation(kind: str, owner: str, labels: dict[str, str], generation: Generation | None) -> None:
    pod = pod_body("a", owner=kind, labels=labels)
    for reference in pod["metadata"]["ownerReferences"]:
        reference["name"] = owner
    assert pods_of(ORDERS, [pod])[0][0].generation == generation


def test_when_a_pod_was_made_and_when_anything_happened_to_it_last() -> None:
    pod = of_deployment("a", creationTimestamp="2026-01-01T11:00:00Z")
    pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T11:00:07Z"
    ((listed,), _) = pods_of(ORDERS, [pod])
    assert (listed.created - NOON, listed.changed - NOON) == (-3600, -3593)
    pod["metadata"] |= {"deletionTimestamp": "2026-01-01T11:30:30Z", "deletionGracePeriodSeconds": 30}
    ((listed,), _) = pods_of(ORDERS, [pod])
    assert listed.changed - NOON == -1800, "when it was told, not when it has to be gone"


def ready_for(pod: dict[str, Any], minutes: int, *, node: str = "a") -> dict[str, Any]:
    since = datetime.fromtimestamp(NOON - 60 * minutes, UTC).isoformat().replace("+00:00", "Z")
    pod["status"]["conditions"][0]["lastTransitionTime"] = since
    pod["spec"] = {"nodeName": node}
    return pod


def last_to_leave(*pods: dict[str, Any]) -> list[str]:
    listed, _ = pods_of(ORDERS, pods)
    return [pod.name for pod in sorted(listed, key=lambda pod: pod.tenure, reverse=True)]


def test_pods_are_put_into_the_order_in_which_a_replica_set_takes_them_away() -> None:
    """Those that became ready last go first, but ages count in powers of two; then the uid decides."""
    a, b, c = (ready_for(of_deployment(name), minutes) for name, minutes in (("a", 61), ("b", 60), ("c", 5)))
    assert last_to_leave(a, b, c) == ["b", "a", "c"]


def test_pods_that_crowd_a_node_go_first_and_costly_ones_last() -> None:
    a, b, c = (ready_for(of_deployment(name), 60, node=node) for name, node in (("a", "n1"), ("b", "n2"), ("c", "n2")))
    assert last_to_leave(a, b, c) == ["a", "c", "b"]
    b["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] = "10"
    assert last_to_leave(a, b, c) == ["b", "a", "c"]
    b["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] = "much"
    assert last_to_leave(a, b, c) == ["a", "c", "b"]
