"""A deleted group's resource stays until its queues are dealt with, and says for what it waits."""

import asyncio

from partymq.core.report import Condition
from partymq.errors import ConnectionLostError
from partymq.kube.client import ApiError
from partymq.kube.controller import RELIST
from partymq.kube.removal import ATTEMPT, PATIENCE, RETRY
from partymq.kube.replicas import LEASE, RENEW
from support.fake_kubernetes import ORDERS, World, group_body, in_virtual_time, pod_body, report

GONE = ConnectionLostError("The broker at broker:5672 cannot be reached.")


def delete(world: World) -> asyncio.Task[None]:
    """What kopf does for a resource with a deletionTimestamp: it calls the handler and waits for it."""
    world.api.groups[ORDERS]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return asyncio.create_task(world.controller.removed(ORDERS, "uid-orders"))


def force(world: World) -> None:
    world.api.groups[ORDERS]["metadata"]["annotations"] = {"partymq.io/force-delete": "true"}


@in_virtual_time
async def test_the_queues_go_first_and_the_resource_may_follow() -> None:
    world = World()
    world.api.add(group_body(deletionPolicy="Delete"), pod_body("a"))
    async with world.running():
        await world.settle()
        handler = delete(world)
        await handler
        assert world.router.calls[-1] == "remove Delete"
        del world.api.groups[ORDERS]
        await world.settle()
        assert "release" not in world.router.calls


@in_virtual_time
async def test_queues_that_stay_are_named() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.router.removal = tuple(f"partymq.shop.orders.backlog.{n}" for n in range(25))
        await delete(world)
        (event,) = world.api.events.values()
        assert (event["reason"], event["type"]) == ("QueuesKept", "Warning")
        assert "partymq.shop.orders.backlog.19 and 5 more" in event["message"]


@in_virtual_time
async def test_an_unreachable_broker_is_told_with_the_way_out_and_tried_again_until_it_is_back() -> None:
    world = World()
    world.api.add(group_body(), pod_body("a"))
    async with world.running():
        await world.settle()
        world.router.removal = GONE
        handler = delete(world)
        await asyncio.sleep(300.0)
        assert not handler.done()
        assert world.api.reasons() == ["DeletionBlocked"]
        (event,) = world.api.events.values()
        assert "cannot be reached. It is tried again" in event["message"]
        assert "annotate pgrp orders partymq.io/force-delete=true" in event["message"]
        assert world.api.condition("Ready")["reason"] == "DeletionBlocked"
        world.router.removal = ()
        await asyncio.sleep(7.0)
        assert handler.done()
        # After a removal that failed the router does not know the group: it is told again each time.
        assert world.router.calls[-3:] == ["configure", "set_pods", "remove DeleteEmpty"]


@in_virtual_time
async def test_a_removal_that_never_ends_is_called_blocked_and_begun_again_with_the_new_secret() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        refused = Condition(ok=False, reason="AccessRefused", message="user is refused")
        world.controller.report(ORDERS, report(broker_connected=refused, routing=False))
        world.router.removal = None
        handler = delete(world)
        await asyncio.sleep(PATIENCE + 2.0)
        assert world.api.reasons()[-1] == "DeletionBlocked"
        assert "the router says: user is refused" in world.api.condition("Ready")["message"]
        world.api.secrets["shop", "rabbitmq"] = {"uri": "amqp://user:new@broker/"}
        await asyncio.sleep(ATTEMPT + 10.0)
        world.router.removal = ()
        await asyncio.sleep(ATTEMPT + 10.0)
        assert handler.done()


@in_virtual_time
async def test_a_person_can_let_it_go_while_the_broker_hangs() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.router.removal = None
        handler = delete(world)
        await asyncio.sleep(30.0)
        force(world)
        await asyncio.sleep(3.0)
        assert handler.done()
        assert world.api.reasons()[-1] == "QueuesAbandoned"
        assert "partymq.shop.orders." in list(world.api.events.values())[-1]["message"]


@in_virtual_time
async def test_after_a_restart_the_router_learns_of_the_group_only_to_remove_it() -> None:
    world = World()
    world.api.add({**group_body(), "status": {"epoch": 7}}, pod_body("a"))
    async with world.running():
        handler = delete(world)
        await handler
        assert world.router.calls == ["configure", "set_pods", "remove DeleteEmpty"]


@in_virtual_time
async def test_without_its_secret_a_deletion_waits_for_it_and_is_mended() -> None:
    world = World()
    secret = world.api.secrets.pop(("shop", "rabbitmq"))
    world.api.add(group_body())
    async with world.running():
        handler = delete(world)
        await asyncio.sleep(60.0)
        assert not handler.done()
        assert "Secret shop/rabbitmq does not exist" in world.api.condition("Ready")["message"]
        world.api.secrets["shop", "rabbitmq"] = secret
        await asyncio.sleep(15.0)
        assert handler.done()
        assert world.router.calls[-1] == "remove DeleteEmpty"


@in_virtual_time
async def test_a_namespace_that_is_deleted_with_its_secret_does_not_wait_for_ever() -> None:
    world = World()
    world.api.secrets.clear()
    world.api.terminating.add("shop")
    world.api.add(group_body())
    async with world.running():
        await asyncio.wait_for(delete(world), 10.0)
        assert world.api.reasons() == ["QueuesAbandoned"]


@in_virtual_time
async def test_a_secret_that_went_first_does_not_keep_a_known_group_from_being_removed() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.api.secrets.clear()
        await asyncio.sleep(RELIST * 2)
        await asyncio.wait_for(delete(world), 10.0)
        assert world.router.calls[-1] == "remove DeleteEmpty"


@in_virtual_time
async def test_an_unusable_spec_can_be_let_go() -> None:
    world = World()
    world.api.add(group_body(key={"from": "header"}))
    async with world.running():
        handler = delete(world)
        await asyncio.sleep(30.0)
        assert not handler.done()
        force(world)
        await asyncio.sleep(7.0)
        assert handler.done()
        assert "release" not in world.router.calls


@in_virtual_time
async def test_the_replica_that_routes_deletes_and_the_other_lets_go_of_the_group() -> None:
    world = World(identity="standby")
    world.api.replicas["operator-a"] = ""
    world.api.add({**group_body(), "status": {"router": "operator-a"}})
    async with world.running():
        await world.settle()
        handler = delete(world)
        await asyncio.sleep(300.0)
        assert world.router.calls[-1] == "release"
        assert world.api.reasons() == []
        del world.api.groups[ORDERS]
        world.controller.wake("shop")
        await asyncio.wait_for(handler, 1.0)
        assert not any(call.startswith("remove") for call in world.router.calls)


@in_virtual_time
async def test_the_other_replica_deletes_when_the_one_that_routed_is_gone() -> None:
    world = World(identity="standby")
    world.api.replicas["operator-a"] = ""
    world.api.add({**group_body(), "status": {"router": "operator-a"}})
    async with world.running():
        await world.settle()
        handler = delete(world)
        await asyncio.sleep(10.0)
        del world.api.replicas["operator-a"]
        await asyncio.wait_for(handler, LEASE + 2 * RENEW + RETRY)
        assert world.router.calls[-1] == "remove DeleteEmpty"


@in_virtual_time
async def test_a_handler_that_comes_after_its_group_is_gone_returns() -> None:
    world = World()
    async with world.running():
        await world.settle()
        await asyncio.wait_for(world.controller.removed(ORDERS, "uid-long-gone"), 1.0)


@in_virtual_time
async def test_the_broker_being_away_does_not_keep_a_restarted_operator_from_saying_so() -> None:
    world = World()
    world.api.add(group_body())
    world.api.secrets["shop", "rabbitmq"] = ApiError("read", 0, "away")
    async with world.running():
        handler = delete(world)
        await asyncio.sleep(20.0)
        assert not handler.done()
        assert world.api.condition("Ready")["reason"] == "DeletionBlocked"
