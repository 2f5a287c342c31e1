"""A pod that means to join a group and joins none is told so once, and not while its group may only be late."""

import asyncio
from typing import Any

import pytest

from partymq.kube.strays import PATIENCE
from support.fake_kubernetes import World, group_body, in_virtual_time, pod_body


def told(world: World) -> list[tuple[str, str]]:
    """Pods, and what their Events say."""
    return [
        (event["involvedObject"]["name"], event["message"])
        for event in world.api.events.values()
        if event["reason"] == "NoSuchGroup"
    ]


def comes(world: World, pod: dict[str, Any], claim: str) -> None:
    """A pod is created, and its event comes."""
    world.api.add(pod)
    world.controller.pod_changed(pod["metadata"]["namespace"], pod["metadata"]["name"], claim)


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        ("ordres", "there is no PartitionGroup 'ordres' in the namespace shop. "),
        ("stock", "no PartitionGroup 'stock' in the namespace shop, only one in mall, and"),
        ("orders,payments", "'orders,payments', 2 names, and a pod joins one group"),
        ("orders payments", "2 names"),
        ("", "is empty"),
        ("  ", "is empty"),
        (" orders", "' orders', with blanks around the name"),
    ],
)
def test_what_the_annotation_says_is_named_with_what_to_do(claim: str, sentence: str) -> None:
    @in_virtual_time
    async def play() -> None:
        world = World()
        world.api.add(group_body(), group_body("payments"), group_body("stock", "mall"))
        async with world.running():
            await world.settle()
            comes(world, pod_body("p-1", group=claim), claim)
            await asyncio.sleep(PATIENCE + 1.0)
            ((pod, message),) = told(world)
            assert pod == "p-1"
            assert sentence in message
            assert "namespace shop, one of orders, payments" in message
            await asyncio.sleep(600.0)
            world.controller.pod_changed("shop", "p-1", claim)
            await asyncio.sleep(600.0)
            assert [event["count"] for event in world.api.events.values()].count(1) == len(world.api.events)

    play()


@pytest.mark.parametrize("where", ["annotations", "labels"])
def test_an_annotation_of_another_name_or_a_label_is_none(where: str) -> None:
    @in_virtual_time
    async def play() -> None:
        world = World()
        pod = pod_body("p-1", group=None)
        pod["metadata"][where] = {"partymq.io/grup": "orders", "app": "x"}
        world.api.add(group_body())
        async with world.running():
            await world.settle()
            comes(world, pod, "partymq.io/grup")
            await asyncio.sleep(PATIENCE + 1.0)
            ((_, message),) = told(world)
            assert "annotation or label partymq.io/grup" in message

    play()


@in_virtual_time
async def test_an_event_is_about_the_pod() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        comes(world, pod_body("p-1", group="ordres", uid="uid-p-1"), "ordres")
        await asyncio.sleep(PATIENCE + 1.0)
        (event,) = [event for event in world.api.events.values() if event["reason"] == "NoSuchGroup"]
        assert event["type"] == "Warning"
        assert event["involvedObject"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "shop",
            "name": "p-1",
            "uid": "uid-p-1",
        }


@in_virtual_time
async def test_a_group_that_comes_a_moment_later_is_no_news() -> None:
    world = World()
    async with world.running():
        await world.settle()
        comes(world, pod_body("p-1"), "orders")
        await asyncio.sleep(PATIENCE - 1.0)
        world.api.add(group_body())
        world.controller.wake("shop")
        await asyncio.sleep(600.0)
        assert told(world) == []


@in_virtual_time
async def test_a_namespace_without_any_group_is_looked_at_for_them() -> None:
    world = World()
    async with world.running():
        await world.settle()
        comes(world, pod_body("p-1"), "orders")
        await asyncio.sleep(PATIENCE + 1.0)
        ((_, message),) = told(world)
        assert "one that has yet to be created" in message


@in_virtual_time
async def test_a_pod_that_is_gone_or_mended_in_time_is_not_told() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        comes(world, pod_body("p-1", group="ordres"), "ordres")
        comes(world, pod_body("p-2", group="ordres"), "ordres")
        comes(world, pod_body("p-3", group="ordres", deletionTimestamp="2026-01-01T00:00:00Z"), "ordres")
        comes(world, pod_body("p-4", group="ordres", phase="Failed"), "ordres")
        await asyncio.sleep(1.0)
        del world.api.pods["shop", "p-1"]
        comes(world, pod_body("p-2"), "orders")
        await asyncio.sleep(600.0)
        assert told(world) == []


@in_virtual_time
async def test_one_replica_tells() -> None:
    one = World(identity="operator-a")
    one.api.replicas["operator-b"] = ""
    two = World(identity="operator-b", api=one.api)
    one.api.add(group_body())
    async with one.running(), two.running():
        await one.settle()
        comes(one, pod_body("p-1", group="ordres"), "ordres")
        two.controller.pod_changed("shop", "p-1", "ordres")
        await asyncio.sleep(PATIENCE + 1.0)
        assert len(told(one)) == 1
        assert [event["count"] for event in one.api.events.values() if event["reason"] == "NoSuchGroup"] == [1]
