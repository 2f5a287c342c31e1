"""Statuses: soon, not too often, and never over another replica's."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

from partymq.core.report import Condition, MemberReport, MemberState
from partymq.kube.client import ApiError
from partymq.kube.writer import FOREIGN, NUMBERS, PAUSE
from support.fake_kubernetes import ORDERS, World, group_body, in_virtual_time, report

A = MemberReport(name="a", state=MemberState.ACTIVE, partitions=(0,), ready=5, since=0.0)
LOST = Condition(ok=False, reason="BrokerUnreachable", message="away")
STANDBY = Condition(ok=False, reason="Standby", message="another router")


@in_virtual_time
async def test_a_change_is_visible_within_two_seconds_however_many_there_are() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        loop = asyncio.get_running_loop()
        for epoch in range(2, 200):
            world.controller.report(ORDERS, report(epoch=epoch))
            await asyncio.sleep(0.05)
        await asyncio.sleep(2.0)
        assert world.api.status()["epoch"] == 199
        times = [at for at, _ in world.api.status_writes]
        assert min(b - a for a, b in pairwise(times)) >= PAUSE
        assert loop.time() - times[-1] < 2.0


@in_virtual_time
async def test_numbers_alone_are_written_rarely() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(members=(A,)))
        await asyncio.sleep(2.0)
        writes = len(world.api.status_writes)
        for ready in range(600):
            world.controller.report(ORDERS, report(members=(replace(A, ready=ready),)))
            await asyncio.sleep(0.1)
        assert len(world.api.status_writes) - writes <= 60 / NUMBERS + 1
        await asyncio.sleep(NUMBERS)
        assert world.api.status()["members"][0]["ready"] == 599


@in_virtual_time
async def test_the_same_report_is_written_once() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        for _ in range(20):
            world.controller.report(ORDERS, report())
            await asyncio.sleep(5.0)
        assert len(world.api.status_writes) == 2  # "Starting" before the first report


@in_virtual_time
async def test_what_someone_else_wrote_into_the_status_is_mended() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(epoch=3))
        await asyncio.sleep(2.0)
        world.api.groups[ORDERS]["status"]["epoch"] = 77
        await asyncio.sleep(40.0)
        assert world.api.status()["epoch"] == 3


@in_virtual_time
async def test_a_write_that_failed_is_made_up_for() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.api.failure = ApiError("patch", 500, "etcd is away")
        world.controller.report(ORDERS, report(epoch=8))
        await asyncio.sleep(60.0)
        world.api.failure = None
        await asyncio.sleep(3.0)
        assert world.api.status()["epoch"] == 8


@in_virtual_time
async def test_a_replica_that_stands_by_writes_nothing() -> None:
    world = World(identity="standby")
    world.api.replicas["operator-a"] = ""
    shown = {"router": "operator-a", "epoch": 4, "conditions": []}
    world.api.add({**group_body(), "status": shown})
    async with world.running():
        world.controller.report(ORDERS, report(routing=False, ready=STANDBY))
        await world.settle()
        world.controller.report(ORDERS, report(routing=False, ready=STANDBY))
        await asyncio.sleep(600.0)
        assert world.api.status() == shown


@in_virtual_time
async def test_where_leases_may_not_be_read_a_status_of_an_operator_that_is_gone_is_taken_over_after_a_while() -> None:
    world = World(identity="successor")
    world.api.leases_refused = ApiError("list", 403, "forbidden")
    world.api.add({**group_body(), "status": {"router": "operator-a", "epoch": 4}})
    async with world.running():
        await world.settle(1.0)
        world.controller.report(ORDERS, report(routing=False, epoch=4, ready=LOST, broker_connected=LOST))
        await asyncio.sleep(FOREIGN - 2.0)
        assert world.api.status()["router"] == "operator-a"
        await asyncio.sleep(4.0)
        assert "router" not in world.api.status()
        assert world.api.condition("BrokerConnected")["reason"] == "BrokerUnreachable"


@in_virtual_time
async def test_a_router_that_writes_its_name_again_is_alive_and_left_alone() -> None:
    world = World(identity="cut-off")
    world.api.add({**group_body(), "status": {"router": "operator-a", "epoch": 4}})
    async with world.running():
        await world.settle(1.0)
        world.controller.report(ORDERS, report(routing=False, ready=LOST, broker_connected=LOST))
        await asyncio.sleep(FOREIGN + 2.0)
        world.api.groups[ORDERS]["status"] = {"router": "operator-a", "epoch": 4}
        await asyncio.sleep(600.0)
        assert world.api.status() == {"router": "operator-a", "epoch": 4}


@in_virtual_time
async def test_whoever_routes_writes_at_once_whatever_the_status_says() -> None:
    world = World(identity="successor")
    world.api.add({**group_body(), "status": {"router": "operator-a", "epoch": 4}})
    async with world.running():
        await world.settle(1.0)
        world.controller.report(ORDERS, report(epoch=5))
        await asyncio.sleep(2.0)
        assert (world.api.status()["router"], world.api.status()["epoch"]) == ("successor", 5)


@in_virtual_time
async def test_the_last_word_of_one_that_stops_is_not_written_over_its_successors_first() -> None:
    world = World(identity="stopping")
    world.api.replicas["successor"] = ""
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(epoch=4))
        await asyncio.sleep(2.0)
        successor = world.api.groups[ORDERS]
        successor["metadata"]["resourceVersion"] = "later"
        successor["status"] = {"router": "successor", "epoch": 5}
        await world.controller.conclude()
        assert world.api.status() == {"router": "successor", "epoch": 5}


@in_virtual_time
async def test_the_last_word_waits_for_a_write_that_is_under_way() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        write = world.api.patch_status

        async def slow_write(*arguments: Any, **named: Any) -> dict[str, Any]:  # noqa: ANN401 - as it is called
            await asyncio.sleep(0.5)
            return await write(*arguments, **named)

        world.api.patch_status = slow_write  # type: ignore[method-assign]
        world.controller.report(ORDERS, report(epoch=4))
        await asyncio.sleep(0.1)
        await world.controller.quiesce()
        await world.controller.conclude()
        await asyncio.sleep(60.0)
        assert world.api.condition("Ready")["reason"] == "OperatorStopped"
        assert "router" not in world.api.status()
        assert world.api.status()["epoch"] == 4


@in_virtual_time
async def test_the_last_word_is_said_although_others_have_changed_the_resource() -> None:
    world = World()
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        await world.controller.quiesce()
        world.api.groups[ORDERS]["metadata"] |= {"resourceVersion": "later", "finalizers": ["partymq.io/finalizer"]}
        await world.controller.conclude()
        assert world.api.condition("Ready")["reason"] == "OperatorStopped"


@in_virtual_time
async def test_the_last_word_is_said_of_groups_that_were_in_trouble_too() -> None:
    """Their last condition would go on saying that something is tried again."""
    world = World()
    world.api.add(group_body(), group_body("other", broker={"connectionSecret": {"name": "missing"}}))
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(routing=False, ready=LOST, broker_connected=LOST))
        await world.settle()
        assert world.api.condition("Ready")["reason"] == "BrokerUnreachable"
        await world.controller.quiesce()
        await world.controller.conclude()
        for group in (ORDERS, replace(ORDERS, name="other")):
            ready, connected = (world.api.condition(kind, group) for kind in ("Ready", "BrokerConnected"))
            assert (ready["status"], ready["reason"]) == ("False", "OperatorStopped")
            assert (connected["status"], connected["reason"]) == ("Unknown", "OperatorStopped")


@in_virtual_time
async def test_one_that_stands_by_has_no_last_word() -> None:
    world = World(identity="standby")
    world.api.replicas["operator-a"] = ""
    world.api.add({**group_body(), "status": {"router": "operator-a", "epoch": 4}})
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(routing=False, epoch=4, ready=STANDBY))
        await world.settle()
        await world.controller.conclude()
        assert world.api.status() == {"router": "operator-a", "epoch": 4}
