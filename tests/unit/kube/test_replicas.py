"""Of several replicas one speaks for a group; the others are silent until it is gone."""

import asyncio

from partymq.core.report import Condition, Notice
from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.controller import RELIST
from partymq.kube.replicas import FORGOTTEN, LEASE, RENEW, SETTLED, Replicas
from support.fake_kubernetes import ORDERS, FakeApi, World, group_body, in_virtual_time, report

AWAY = Condition(ok=False, reason="BrokerUnreachable", message="no connection")
STANDBY = Condition(ok=False, reason="Standby", message="another router")


def replicas(api: FakeApi, identity: str, *namespaces: str) -> Replicas:
    return Replicas(api, identity=identity, namespaces=namespaces, on_change=lambda: None)


async def settled(*those: Replicas, seconds: float = 2 * RENEW) -> None:
    tasks = [asyncio.create_task(one.run()) for one in those]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@in_virtual_time
async def test_replicas_choose_alike_and_share_the_groups() -> None:
    api = FakeApi()
    a, b, c = (replicas(api, name) for name in "abc")
    await settled(a, b, c)
    groups = [GroupId(namespace="shop", name=f"g{number}") for number in range(300)]
    chosen = [a.speaker(group) for group in groups]
    assert chosen == [b.speaker(group) for group in groups] == [c.speaker(group) for group in groups]
    assert all(chosen.count(name) > 60 for name in "abc")


@in_virtual_time
async def test_one_that_goes_changes_the_speaker_of_its_own_groups_only() -> None:
    api = FakeApi()
    a, b, c = (replicas(api, name) for name in "abc")
    await settled(a, b, c)
    groups = [GroupId(namespace="shop", name=f"g{number}") for number in range(100)]
    before = {group: a.speaker(group) for group in groups}
    await c.leave()
    await settled(a, b)
    assert a.alive("c") is False
    assert all(a.speaker(group) == was for group, was in before.items() if was != "c")


@in_virtual_time
async def test_one_that_is_killed_is_gone_when_its_lease_is_over() -> None:
    api = FakeApi()
    a, b = replicas(api, "a"), replicas(api, "b")
    await settled(a, b)
    assert a.alive("b")
    await settled(a, seconds=LEASE + 2 * RENEW)
    assert a.alive("b") is False
    await settled(a, seconds=FORGOTTEN + 2 * RENEW)
    assert len(api.leases) == 1


@in_virtual_time
async def test_one_that_came_after_the_last_look_is_not_called_gone() -> None:
    api = FakeApi()
    a, b = replicas(api, "a"), replicas(api, "b")
    looking = asyncio.create_task(a.run())
    await asyncio.sleep(RENEW * 1.5)
    await settled(b, seconds=0.1)
    assert a.alive("b") is None
    assert a.alive("c") is None
    await asyncio.sleep(1.0)
    assert a.alive("b") is True
    assert a.alive("c") is False
    looking.cancel()
    await asyncio.wait({looking})


@in_virtual_time
async def test_groups_are_spread_over_replicas_that_have_been_there_for_a_while() -> None:
    world = World(identity="operator-a")
    world.api.replicas["operator-b"] = ""
    names = [f"g{number}" for number in range(20)]
    world.api.add(*(group_body(name) for name in names))
    async with world.running():
        await asyncio.sleep(SETTLED / 2)
        assert set(world.router.preferred.values()) <= {None}
        await asyncio.sleep(SETTLED + 2 * RELIST)
        chosen = list(world.router.preferred.values())
        assert (len(chosen), set(chosen)) == (20, {"operator-a", "operator-b"})
        del world.api.replicas["operator-b"]
        await asyncio.sleep(LEASE + 2 * RELIST)
        assert set(world.router.preferred.values()) == {"operator-a"}


@in_virtual_time
async def test_replicas_that_serve_other_namespaces_do_not_speak_for_a_group() -> None:
    api = FakeApi()
    shop, bank, everywhere = replicas(api, "shop", "shop"), replicas(api, "bank", "bank"), replicas(api, "all")
    await settled(shop, bank, everywhere)
    for number in range(50):
        group = GroupId(namespace="shop", name=f"g{number}")
        assert shop.speaker(group) == everywhere.speaker(group) != "bank"


@in_virtual_time
async def test_an_api_server_that_was_away_makes_nobody_dead() -> None:
    api = FakeApi()
    a, b = replicas(api, "a"), replicas(api, "b")
    await settled(a, b)
    api.failure = ApiError("list", 0, "away")
    await settled(a, b, seconds=10 * LEASE)
    assert a.alive("b")
    api.failure = None
    await settled(a, seconds=RENEW / 2)
    assert a.alive("b")


@in_virtual_time
async def test_where_leases_may_not_be_read_nothing_is_known() -> None:
    api = FakeApi()
    a = replicas(api, "a")
    api.leases_refused = ApiError("list", 403, "forbidden")
    await settled(a)
    assert a.alive("b") is None
    assert a.alive("a") is True
    assert a.speaker(ORDERS) == "a"


@in_virtual_time
async def test_two_replicas_that_both_cannot_route_do_not_fight_over_the_status() -> None:
    """Without a router, each would show its own reason, once a second, for ever."""
    one = World(identity="operator-a")
    other = World(identity="operator-b", api=one.api)
    one.api.add(group_body())
    async with one.running(), other.running():
        await one.settle(2 * RENEW)
        writes = len(one.api.status_writes)
        refused = Condition(ok=False, reason="AccessRefused", message="user is refused")
        one.controller.report(ORDERS, report(routing=False, ready=AWAY, broker_connected=AWAY))
        other.controller.report(ORDERS, report(routing=False, ready=refused, broker_connected=refused))
        for _ in range(60):
            one.controller.wake("shop")
            other.controller.wake("shop")
            await asyncio.sleep(1.0)
        assert len(one.api.status_writes) - writes <= 1


@in_virtual_time
async def test_what_both_notice_is_told_once() -> None:
    one = World(identity="operator-a")
    other = World(identity="operator-b", api=one.api)
    one.api.add(group_body())
    async with one.running(), other.running():
        await one.settle(2 * RENEW)
        notice = Notice(warning=True, reason="BrokerUnreachable", message="no connection")
        for world in (one, other):
            world.controller.notice(ORDERS, notice)
        await asyncio.sleep(1.0)
        assert [event["count"] for event in one.api.events.values()] == [1]


@in_virtual_time
async def test_a_router_that_was_frozen_does_not_write_over_its_successor() -> None:
    world = World(identity="frozen")
    world.api.replicas["successor"] = ""
    world.api.add(group_body())
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(epoch=4))
        await asyncio.sleep(2.0)
        later = {"router": "successor", "epoch": 5}
        world.api.groups[ORDERS]["status"] = later
        world.api.groups[ORDERS]["metadata"]["resourceVersion"] = "later"
        world.controller.report(ORDERS, report(epoch=4, partitions_held=3))
        await asyncio.sleep(60.0)
        assert world.api.status() == later


@in_virtual_time
async def test_a_second_router_is_shown_when_no_replica_of_ours_routes() -> None:
    """Another PartyMQ, of another cluster perhaps, holds the journal: somebody has to say so."""
    world = World(identity="ours")
    world.api.add({**group_body(), "status": {"router": "killed", "epoch": 4}})
    async with world.running():
        await world.settle()
        world.controller.report(ORDERS, report(routing=False, ready=STANDBY))
        await asyncio.sleep(LEASE + 2 * RENEW)
        assert world.api.condition("Ready")["reason"] == "Standby"
        assert "router" not in world.api.status()
