"""The API server goes away and comes back: nothing is taken back meanwhile, everything is caught up with after."""

from partymq.core.spec import GroupId
from support.api_server import Kubectl, Line, Start, Watching
from support.conditions import eventually
from support.fake_kubernetes import report


async def settled(kubectl: Kubectl, watching: Watching) -> GroupId:
    kubectl.secret()
    group = kubectl.group()
    kubectl.pod("a", ready=True)
    await watching.sees(group, a="Ready")
    return group


async def missed_and_caught_up(kubectl: Kubectl, watching: Watching, group: GroupId) -> None:
    """Changes that nobody could see are found within seconds, and what was reported meanwhile is shown."""
    await watching.sees(group, b="Ready")
    late = GroupId(namespace=kubectl.namespace, name="late")
    await watching.configured(late)
    await eventually(lambda: kubectl.status().get("epoch") == 7, "what was reported meanwhile")


def change(kubectl: Kubectl) -> None:
    kubectl("delete", "pod", "a", "--grace-period=0", "--force")
    kubectl.pod("b", ready=True)
    kubectl.group("late")


async def test_refused_connections(kubectl: Kubectl, watch: Start, line: tuple[Line, str]) -> None:
    path, kubeconfig = line
    watching = await watch(kubeconfig=kubeconfig)
    group = await settled(kubectl, watching)
    calls = list(watching.router.calls)
    await path.cut()
    change(kubectl)
    watching.thread.report(group, report(epoch=7))
    await eventually(watching.away, "the outage is noticed", 40.0)
    assert watching.router.calls == calls
    assert watching.thread.stuck() == ""
    assert watching.thread.unready() == ""
    await path.connect()
    await missed_and_caught_up(kubectl, watching, group)


async def test_a_server_that_does_not_answer(kubectl: Kubectl, watch: Start, line: tuple[Line, str]) -> None:
    path, kubeconfig = line
    watching = await watch(kubeconfig=kubeconfig)
    group = await settled(kubectl, watching)
    calls = list(watching.router.calls)
    path.hold()
    change(kubectl)
    watching.thread.report(group, report(epoch=7))
    await eventually(watching.away, "the outage is noticed", 60.0)
    assert watching.router.calls == calls
    assert watching.thread.stuck() == ""
    path.go_on()
    await missed_and_caught_up(kubectl, watching, group)


async def test_an_operator_that_starts_before_the_api_server_waits_for_it(
    kubectl: Kubectl, watch: Start, line: tuple[Line, str]
) -> None:
    path, kubeconfig = line
    await path.cut()
    kubectl.secret()
    group = kubectl.group()
    starting = await watch(kubeconfig=kubeconfig, ready=False)
    await eventually(lambda: "cannot be reached" in starting.thread.unready(), "it says why it is not ready")
    await path.connect()
    await starting.configured(group)
    await eventually(lambda: starting.thread.unready() == "", "it is ready")
