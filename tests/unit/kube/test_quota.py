"""No namespace takes what others need: there are only so many groups and partitions, and the oldest have them."""

from typing import Any

import pytest

from partymq.core.spec import GroupId
from partymq.kube.quota import surplus
from partymq.kube.resource import Resource, resource
from partymq.limits import Limits
from support.fake_kubernetes import World, group_body, in_virtual_time


def body(name: str, *, namespace: str = "shop", partitions: object = 64, day: int = 1) -> dict[str, Any]:
    made = group_body(name, source={"queue": name}, partitions=partitions)
    made["metadata"] |= {"namespace": namespace, "creationTimestamp": f"2026-01-{day:02}T00:00:00Z", "uid": name}
    return made


def group(name: str, **more: Any) -> Resource:  # noqa: ANN401 - as `body`
    return resource(body(name, **more))


def refused(limits: Limits, *resources: Resource, routed: tuple[str, ...] = ()) -> list[str]:
    known = {GroupId(namespace="shop", name=name) for name in routed}
    found = surplus(resources, limits, routed=known)
    assert all(why.isprintable() and "docs/limits.md" in why for why in found.values())
    return sorted(one.name for one in found)


def test_the_oldest_groups_of_a_namespace_are_routed() -> None:
    limits = Limits(groups_in_namespace=2)
    three = group("c", day=3), group("a", day=1), group("b", day=2)
    assert refused(limits, *three) == ["c"]
    assert refused(limits, *three, group("d", namespace="mall", day=9)) == ["c"]


def test_one_that_is_routed_is_not_sent_away() -> None:
    limits = Limits(groups_in_namespace=1)
    assert refused(limits, group("young", day=3), group("old", day=1), routed=("young",)) == ["old"]


def test_partitions_are_counted_and_a_group_that_does_not_fit_leaves_room_for_a_smaller_one() -> None:
    limits = Limits(partitions_in_namespace=5000)
    assert refused(
        limits,
        group("a", partitions=4096, day=1),
        group("b", partitions=4096, day=2),
        group("c", partitions=64, day=3),
    ) == ["b"]


def test_the_process_has_limits_of_its_own() -> None:
    three = [group(name, namespace=name, partitions=4096, day=day) for day, name in enumerate("abc", 1)]
    assert refused(Limits(groups=2), *three) == ["c"]
    assert refused(Limits(partitions=8192), *three) == ["c"]


@pytest.mark.parametrize("partitions", [None, "x", -5, 0, 10**12, 1.5, True, []])
def test_a_number_that_is_none_counts_for_nothing(partitions: object) -> None:
    assert refused(Limits(partitions=64), group("a", partitions=partitions, day=1), group("b", day=2)) == []


def test_one_that_is_being_deleted_does_not_count() -> None:
    going = body("a", day=1)
    going["metadata"]["deletionTimestamp"] = "2026-02-01T00:00:00Z"
    assert refused(Limits(groups=1), resource(going), group("b", day=2)) == []


@in_virtual_time
async def test_a_group_too_many_is_told_so_and_starts_when_another_is_gone() -> None:
    world = World(limits=Limits(groups_in_namespace=1))
    first, second = GroupId(namespace="shop", name="first"), GroupId(namespace="shop", name="second")
    world.api.add(body("second", day=2), body("first", day=1))
    async with world.running():
        await world.settle()
        assert set(world.router.configs) == {first}
        ready = world.api.condition("Ready", second)
        assert (ready["status"], ready["reason"]) == ("False", "TooManyGroups")
        assert "groups-in-namespace" in ready["message"]
        del world.api.groups[first]
        await world.settle(10.0)
        assert set(world.router.configs) == {second}
