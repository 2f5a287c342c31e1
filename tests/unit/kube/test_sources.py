"""Two groups on one source: one of them routes it, and the other is told which."""

import asyncio
from typing import Any

from partymq.core.spec import GroupId
from support.fake_kubernetes import ORDERS, World, group_body, in_virtual_time, report

LATER = GroupId(namespace="shop", name="later")


def later_body(*, paused: bool = False) -> dict[str, Any]:
    body = group_body("later", source={"queue": "orders"}, paused=paused)
    body["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    return body


@in_virtual_time
async def test_the_later_group_is_refused_with_the_name_of_the_other_and_starts_when_that_is_gone() -> None:
    world = World()
    world.api.add(later_body(), group_body())
    async with world.running():
        await world.settle()
        assert set(world.router.configs) == {ORDERS}
        assert world.api.condition("Ready", LATER)["reason"] == "SourceTaken"
        assert "shop/orders" in world.api.condition("Ready", LATER)["message"]
        assert "SourceTaken" in world.api.reasons()
        del world.api.groups[ORDERS]
        await world.settle(10.0)
        assert set(world.router.configs) == {LATER}
        assert world.api.condition("Ready", LATER)["reason"] == "Starting"


@in_virtual_time
async def test_a_group_that_comes_to_a_source_by_a_change_comes_last_however_old_it_is() -> None:
    world = World()
    world.api.add(group_body(source={"queue": "others"}), later_body())
    async with world.running():
        await world.settle()
        for group in (ORDERS, LATER):
            world.controller.report(group, report())
        await asyncio.sleep(2.0)
        body = world.api.groups[ORDERS]
        body["spec"]["source"] = {"queue": "orders"}
        body["metadata"]["generation"] = 2
        await world.settle(40.0)
        assert world.api.condition("Ready")["reason"] == "SourceTaken"
        assert "Routing goes on with the settings from before" in world.api.condition("Ready")["message"]
        assert world.router.configs[ORDERS].spec.source_queue == "others"
        assert world.api.condition("Ready", LATER)["reason"] == "Routing"
    # Nor does a restart of the operator change that.
    again = World(api=world.api)
    async with again.running():
        await again.settle(10.0)
        assert set(again.router.configs) == {LATER}


@in_virtual_time
async def test_a_change_of_the_group_that_has_the_source_does_not_give_it_away() -> None:
    world = World()
    world.api.add(group_body(), later_body())
    async with world.running():
        await world.settle()
        body = world.api.groups[ORDERS]
        body["spec"]["paused"] = True
        body["metadata"]["generation"] = 2
        await world.settle(10.0)
        assert set(world.router.configs) == {ORDERS}
        assert "release" not in world.router.calls


@in_virtual_time
async def test_the_same_queue_of_another_broker_is_another_source() -> None:
    world = World()
    world.api.secrets["bank", "rabbitmq"] = {"uri": "amqp://user:old@elsewhere:5672/"}
    world.api.secrets["mall", "rabbitmq"] = {"uri": "amqp://other:user@broker:5672/"}
    world.api.add(group_body(), group_body(namespace="bank"), group_body(namespace="mall", uid="uid-zz"))
    async with world.running():
        await world.settle(10.0)
        assert GroupId(namespace="bank", name="orders") in world.router.configs
        mall = GroupId(namespace="mall", name="orders")
        taken = [group for group in (ORDERS, mall) if world.api.condition("Ready", group)["reason"] == "SourceTaken"]
        assert taken == [mall]
        assert mall not in world.router.configs
