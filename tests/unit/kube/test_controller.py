"""The router's picture follows the API server's, whatever events say or keep to themselves."""

import asyncio
from collections.abc import Mapping

import pytest

from partymq.core.membership import PodState
from partymq.core.report import Condition
from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.controller import DEBOUNCE, RELIST
from support.fake_kubernetes import ORDERS, FakeApi, World, group_body, in_virtual_time, pod_body, report

AWAY = ApiError("list", 0, "the API server cannot be reached")


def states(world: World, group: GroupId = ORDERS) -> dict[str, PodState]:
    return {pod.name: pod.state for pod in world.router.pods.get(group, ())}


@in_virtual_time
async def test_a_group_reaches_the_router_with_its_pods() -> None:
    world = World()
    world.api.add(group_body(partitions=8), pod_body("a"), pod_body("b", ready=False), pod_body("c", group="others"))
    async with world.running():
        await world.settle()
        config = world.router.configs[ORDERS]
        assert (config.spec.partitions, config.broker.host, config.broker.password) == (8, "broker", "old")
        assert states(world) == {"a": PodState.READY, "b": PodState.STARTING}
        assert world.router.calls == ["configure", "set_pods"]


@in_virtual_time
async def test_a_pod_that_comes_or_goes_is_known_after_the_debounce() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        world.api.add(pod_body("b"))
        world.controller.pod_changed("shop", "b", "orders")
        await asyncio.sleep(DEBOUNCE + 0.01)
        assert set(states(world)) == {"a", "b"}
        del world.api.pods["shop", "a"]
        world.controller.pod_changed("shop", "a", "orders")
        await asyncio.sleep(DEBOUNCE + 0.01)
        assert set(states(world)) == {"b"}


@in_virtual_time
async def test_a_pod_that_loses_its_annotation_is_noticed() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        world.api.add(pod_body("a", group=None))
        world.controller.pod_changed("shop", "a", None)
        await asyncio.sleep(DEBOUNCE + 0.01)
        assert states(world) == {}


@in_virtual_time
async def test_events_of_pods_that_concern_no_group_list_nothing() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle(1.0)
        lists = world.api.lists
        world.controller.pod_changed("shop", "x", None)
        world.controller.pod_changed("shop", "x", "others")
        world.controller.pod_changed("elsewhere", "a", "orders")
        await asyncio.sleep(1.0)
        assert world.api.lists == lists


@in_virtual_time
async def test_a_thousand_events_are_a_few_lists() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        lists = world.api.lists
        for _ in range(1_000):
            world.controller.pod_changed("shop", "a", "orders")
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)
        assert world.api.lists - lists <= 12


@in_virtual_time
async def test_what_no_event_told_is_found_by_the_next_list() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.api.add(pod_body("a"), group_body("late"))
        await asyncio.sleep(RELIST + 1.0)
        assert set(states(world)) == {"a"}
        assert GroupId(namespace="shop", name="late") in world.router.configs


@in_virtual_time
async def test_nothing_is_taken_back_while_the_api_server_is_away_and_everything_is_caught_up_with_after() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        before = list(world.router.calls)
        world.api.failure = AWAY
        world.api.pods.clear()
        world.api.add(pod_body("b"))
        world.controller.pod_changed("shop", "b", "orders")
        await asyncio.sleep(600.0)
        assert world.router.calls == before
        assert world.controller.failing
        world.api.failure = None
        await asyncio.sleep(6.0)
        assert set(states(world)) == {"b"}
        assert not world.controller.failing


@in_virtual_time
async def test_a_namespace_that_may_not_be_read_does_not_keep_the_others_waiting() -> None:
    world = World(namespaces=("closed", "shop"))
    world.api.failing_namespaces["closed"] = ApiError("list", 403, "forbidden")
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await asyncio.sleep(3.0)
        assert set(states(world)) == {"a"}
        assert not world.controller.synced.is_set()
        assert "forbidden" in world.controller.failing


@in_virtual_time
async def test_a_changed_spec_is_handed_on_and_said_to_be_observed() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(epoch=5))
        body = world.api.groups[ORDERS]
        body["spec"]["paused"] = True
        body["metadata"]["generation"] = 2
        await world.settle()
        assert world.router.configs[ORDERS].spec.paused
        assert world.api.status()["observedGeneration"] == 2


@in_virtual_time
async def test_every_replica_learns_the_epoch_that_was_reached() -> None:
    """One that stands by would take an empty journal for a new group's otherwise."""
    world = World()
    world.api.add({**group_body(), "status": {"epoch": 4}})
    async with world.running():
        await world.settle()
        assert world.router.configs[ORDERS].known_epoch == 4
        for epoch in range(5, 9):
            world.controller.report(ORDERS, report(epoch=epoch))
            await world.settle()
            assert world.router.configs[ORDERS].known_epoch == epoch


@in_virtual_time
async def test_a_rotated_password_reconfigures_without_a_restart() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(epoch=6))
        world.api.secrets["shop", "rabbitmq"] = {"uri": "amqp://user:new@broker:5672/"}
        await asyncio.sleep(RELIST * 2 + 2)
        assert world.router.configs[ORDERS].broker.password == "new"
        assert world.router.configs[ORDERS].known_epoch == 6


@in_virtual_time
async def test_a_refused_password_is_looked_for_within_seconds() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        refused = Condition(ok=False, reason="AccessRefused", message="refused")
        world.controller.report(ORDERS, report(routing=False, broker_connected=refused, ready=refused))
        world.api.secrets["shop", "rabbitmq"] = {"uri": "amqp://user:new@broker:5672/"}
        await asyncio.sleep(11.0)
        assert world.router.configs[ORDERS].broker.password == "new"


@in_virtual_time
async def test_a_missing_secret_is_shown_and_mended_without_a_restart() -> None:
    world = World()
    secret = world.api.secrets.pop(("shop", "rabbitmq"))
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        assert world.router.calls == []
        ready = world.api.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "InvalidSecret")
        assert "create secret generic rabbitmq" in ready["message"]
        world.api.secrets["shop", "rabbitmq"] = secret
        await asyncio.sleep(7.0)
        assert set(states(world)) == {"a"}
        assert world.api.reasons() == ["InvalidSecret", "Accepted"]
        assert world.api.condition("Ready")["status"] == "Unknown"


@in_virtual_time
async def test_a_secret_that_goes_away_is_shown_while_routing_goes_on_and_pods_are_followed() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report())
        del world.api.secrets["shop", "rabbitmq"]
        await asyncio.sleep(RELIST * 2 + 2)
        assert world.api.condition("Ready")["reason"] == "InvalidSecret"
        assert "Routing goes on" in world.api.condition("Ready")["message"]
        world.api.add(pod_body("b"))
        await world.settle()
        assert set(states(world)) == {"a", "b"}
        assert "release" not in world.router.calls


@in_virtual_time
async def test_a_spec_that_passed_an_older_schema_is_shown_as_a_problem() -> None:
    world = World()
    world.api.add(group_body(key={"from": "header"}))
    async with world.running():
        await world.settle()
        ready = world.api.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
        assert "spec.key.name is missing" in ready["message"]
        assert world.router.calls == []


@in_virtual_time
async def test_a_pod_with_an_impossible_name_is_told_once() -> None:
    world = World()
    world.api.add(group_body(), pod_body("x" * 250))
    async with world.running():
        for _ in range(3):
            await world.settle()
        assert world.api.reasons() == ["PodRefused"]


@in_virtual_time
async def test_a_group_that_vanishes_is_released_and_its_namesake_starts_afresh() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        del world.api.groups[ORDERS]
        await world.settle()
        assert world.router.calls[-1] == "release"
        world.api.add(group_body(uid="second"))
        await world.settle()
        assert ORDERS in world.router.configs


@in_virtual_time
async def test_a_namesake_that_came_between_two_lists_is_another_group() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.api.add(group_body(uid="second"))
        await world.settle()
        assert world.router.calls == ["configure", "set_pods", "release", "configure", "set_pods"]


@in_virtual_time
async def test_a_defect_in_one_group_is_shown_there_and_leaves_the_others_alone() -> None:
    class Broken(FakeApi):
        async def read_secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
            if name == "broken":
                raise ZeroDivisionError
            return await super().read_secret(namespace, name)

    world = World(api=Broken())
    other = GroupId(namespace="shop", name="other")
    world.api.add(group_body(), group_body("other", broker={"connectionSecret": {"name": "broken"}}), pod_body("a"))
    async with world.running():
        await world.settle()
        assert set(states(world)) == {"a"}
        assert world.api.condition("Ready", other)["reason"] == "InternalError"


@in_virtual_time
async def test_after_quiesce_nothing_is_handed_on_but_reports_are_still_shown() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        await world.controller.quiesce()
        calls = list(world.router.calls)
        world.api.add(pod_body("a"))
        world.controller.report(ORDERS, report(epoch=9))
        await world.settle(RELIST * 2)
        assert world.router.calls == calls
        assert world.api.status()["epoch"] == 9
        await world.controller.conclude()
        assert world.api.condition("Ready")["reason"] == "OperatorStopped"


@in_virtual_time
async def test_a_refused_login_is_the_end_of_this_controller_because_only_a_new_login_helps() -> None:
    world = World()
    world.api.failure = ApiError("list", 401, "Unauthorized")
    with pytest.raises(ExceptionGroup) as ended:
        await world.controller.run()
    assert ended.group_contains(ApiError, match="Unauthorized")


@in_virtual_time
async def test_a_group_that_went_while_nobody_watched_is_released() -> None:
    gone = GroupId(namespace="shop", name="gone")
    world = World(inherited=frozenset({ORDERS, gone}))
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        assert world.router.released == [gone]
        assert ORDERS in world.router.configs
