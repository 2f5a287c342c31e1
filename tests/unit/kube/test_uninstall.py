"""Around an operator's removal: the last word is true, and no group is lost to somebody else's uninstall."""

import asyncio
from typing import Any

import pytest

from partymq.core.report import Condition, MemberReport, MemberState
from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.status import View, render
from partymq.kube.uninstall import StillThereError, delete_groups, say_last_word
from support.fake_kubernetes import ORDERS, FakeApi, group_body, in_virtual_time, pod_body, report

OTHER = GroupId(namespace="elsewhere", name="other")
LABELS = {"app": "partymq"}
A = MemberReport(name="a", state=MemberState.ACTIVE, partitions=(0, 1), ready=5, since=0.0)


def routed(group: GroupId = ORDERS, *, router: str = "the-pod", **changes: object) -> dict[str, Any]:
    shown = View(identity=router, generation=1, report=report(epoch=7, members=(A,), **changes), problem=None)
    return group_body(group.name, group.namespace) | {"status": render(shown, {}, 0)}


def operator(api: FakeApi, name: str, *, running: bool) -> None:
    api.replicas[name] = ""
    if running:
        api.add(pod_body(name, namespace="ops", labels=LABELS))


async def uninstalled(api: FakeApi, *namespaces: str, within: float = 60.0) -> None:
    await say_last_word(api, home="ops", selector=LABELS, namespaces=namespaces, within=within)


@in_virtual_time
async def test_the_last_word_is_said_when_the_operators_pods_are_gone_and_not_before() -> None:
    api = FakeApi()
    operator(api, "the-pod", running=True)
    api.add(routed())
    hook = asyncio.create_task(uninstalled(api))
    await asyncio.sleep(20.0)
    assert api.condition("Ready")["reason"] == "Routing"
    del api.pods["ops", "the-pod"], api.replicas["the-pod"]
    await hook
    ready, working = api.condition("Ready"), api.condition("MembersWorking")
    assert (ready["status"], ready["reason"]) == ("False", "OperatorStopped")
    assert (working["status"], working["reason"]) == ("Unknown", "OperatorStopped")
    assert "router" not in api.status()
    assert (api.status()["epoch"], api.status()["members"][0]["partitions"]) == (7, "0-1")
    assert api.leases == {}, "nobody else sweeps them up"


@in_virtual_time
async def test_a_group_that_another_operator_routes_is_left_alone() -> None:
    api = FakeApi()
    operator(api, "the-pod", running=False)
    operator(api, "of-another-release", running=True)
    del api.pods["ops", "of-another-release"]["metadata"]["labels"]
    api.add(routed(router="of-another-release"), routed(OTHER, router="of-another-namespace"))
    before = api.status(), api.status(OTHER)
    await uninstalled(api)
    assert (api.status(), api.status(OTHER)) == before
    assert list(api.leases) == ["lease-of-another-release"]


@in_virtual_time
async def test_a_group_that_nobody_could_route_does_not_go_on_saying_that_it_is_tried_again() -> None:
    api = FakeApi()
    lost = Condition(ok=False, reason="BrokerUnreachable", message="away; it is tried again")
    api.add(routed(routing=False, ready=lost, broker_connected=lost))
    await uninstalled(api)
    assert api.condition("BrokerConnected")["reason"] == "OperatorStopped"


@in_virtual_time
async def test_groups_of_namespaces_that_it_did_not_serve_are_not_spoken_of() -> None:
    api = FakeApi()
    operator(api, "the-pod", running=False)
    api.add(routed(), routed(OTHER))
    await uninstalled(api, "elsewhere")
    assert api.condition("Ready", OTHER)["reason"] == "OperatorStopped"
    assert api.condition("Ready")["reason"] == "Routing"


@in_virtual_time
async def test_a_status_that_was_changed_meanwhile_is_read_again() -> None:
    api = FakeApi()
    operator(api, "the-pod", running=False)
    api.add(routed())
    listing = api.list_groups

    async def then_changed(namespace: str | None) -> list[dict[str, Any]]:
        found = await listing(namespace)
        api.groups[ORDERS]["metadata"]["resourceVersion"] = "later"
        return found

    api.list_groups = then_changed  # type: ignore[method-assign]
    await uninstalled(api)
    assert api.condition("Ready")["reason"] == "OperatorStopped"


@in_virtual_time
async def test_pods_that_do_not_go_and_a_kind_that_is_gone() -> None:
    api = FakeApi()
    operator(api, "the-pod", running=True)
    api.add(routed())
    with pytest.raises(StillThereError, match="still there after 60 s"):
        await uninstalled(api)
    assert api.condition("Ready")["reason"] == "Routing"
    api.pods.clear()
    api.failing_namespaces["shop"] = ApiError("list", 404, "not found")
    await uninstalled(api, "shop")


@in_virtual_time
async def test_groups_are_deleted_while_the_operator_is_there_to_take_their_queues() -> None:
    api = FakeApi()
    api.add(group_body(), group_body("other"))
    api.groups[ORDERS]["metadata"]["finalizers"] = ["partymq.io/finalizer"]
    hook = asyncio.create_task(delete_groups(api, namespaces=("shop",), within=60.0))
    await asyncio.sleep(10.0)
    assert not hook.done()
    assert "deletionTimestamp" in api.groups[ORDERS]["metadata"]
    del api.groups[ORDERS]  # its queues are gone
    await hook


@in_virtual_time
async def test_a_group_that_does_not_go_ends_the_uninstall_and_says_why() -> None:
    api = FakeApi()
    blocked = Condition(ok=False, reason="DeletionBlocked", message="The broker cannot be reached.")
    api.add(routed(ready=blocked))
    api.groups[ORDERS]["metadata"]["finalizers"] = ["partymq.io/finalizer"]
    with pytest.raises(
        StillThereError, match=r"shop/orders could not be deleted .* The broker cannot be reached\. Fix that"
    ):
        await delete_groups(api, namespaces=(), within=60.0)


@in_virtual_time
async def test_groups_of_another_operator_are_not_deleted_with_this_ones() -> None:
    api = FakeApi()
    api.add(group_body(), group_body("other", "elsewhere"))
    with pytest.raises(StillThereError, match="elsewhere/other would be lost"):
        await delete_groups(api, namespaces=("shop",), within=60.0)
    assert set(api.groups) == {ORDERS, OTHER}
