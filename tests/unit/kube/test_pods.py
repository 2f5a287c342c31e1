"""Pods in every state become clients, or do not."""

import pytest

from partymq.core.membership import Pod, PodState
from partymq.kube.membership import pods_of
from support.fake_kubernetes import ORDERS, pod_body

DELETED = "2026-01-01T00:00:00Z"


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
    assert pods_of(ORDERS, [pod])[0] == (Pod(name="a", state=PodState.READY),)


def test_the_order_of_the_list_does_not_matter() -> None:
    assert pods_of(ORDERS, [pod_body("b"), pod_body("a")]) == pods_of(ORDERS, [pod_body("a"), pod_body("b")])


def test_a_pod_whose_inbox_no_broker_could_take_is_named_and_the_others_are_listed() -> None:
    listed, refused = pods_of(ORDERS, [pod_body("x" * 250), pod_body("a")])
    assert [pod.name for pod in listed] == ["a"]
    assert len(refused) == 1
    assert "a queue's name has at most 255" in refused[0]
