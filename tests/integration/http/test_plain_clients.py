"""Clients with queues of their own, which know the first version of the API and nothing else."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from functools import partial

import aio_pika
import aiohttp
import pytest

from partymq.router.flow.source_reader import STUCK_AFTER
from support.broker import QUORUM
from support.conditions import eventually
from support.serve import Served, disorder, free_port, owners, serving


async def test_three_clients_join_while_messages_flow_and_leave() -> None:
    rng = random.Random(5)
    keys = [f"k{n}" for n in range(25_000)]
    async with serving() as s:
        await s.publish(rng.choice(keys) for _ in range(100_000))
        for name in ("one", "two", "three"):
            await s.join(name)
            await asyncio.sleep(5)  # the scenario's own pace, not a wait for something
        new = [f"new{n}" for n in range(6_000)]
        await s.publish(new)
        await s.drained()
        for name in s.queues:
            await s.post(f"/clients/{name}/unbind")
        assert (await s.call("GET", "/clients")) == (200, {"clients": []})
        received = await s.received()
        assert await s.stop() == 0
    numbers = sorted(number for messages in received.values() for number, _ in messages)
    assert numbers == list(range(1, 106_001)), "a message is lost or repeated"
    assert disorder(received) == 0
    of = owners(received)
    assert all(len(clients) == 1 for clients in of.values()), "a key is in two queues"
    spread = Counter(next(iter(of[key])) for key in new)
    assert all(abs(spread[name] - 2_000) <= 200 for name in ("one", "two", "three")), spread


async def test_each_queue_has_the_order_of_the_source() -> None:
    """Not only each key: nothing overtakes a key's first message, which waits for its place."""
    rng = random.Random(7)
    async with serving() as s:
        await s.join("one")
        await s.publish(f"k{rng.randrange(n // 4 + 1)}" for n in range(10_000))
        await s.join("two")
        await s.publish(f"k{rng.randrange(n // 4 + 1)}" for n in range(10_000, 20_000))
        await s.drained()
        received = await s.received()
    for messages in received.values():
        numbers = [number for number, _ in messages]
        assert numbers == sorted(numbers)
    assert sum(map(len, received.values())) == 20_000


async def test_a_server_that_is_killed_under_load_moves_no_key() -> None:
    rng = random.Random(6)
    async with serving() as s:
        await s.join("one")
        await s.join("two")
        for _ in range(3):
            async with asyncio.TaskGroup() as load:
                load.create_task(s.publish(f"k{rng.randrange(3_000)}" for _ in range(8_000)))
                before = await s.total()
                await eventually(partial(_more, s, before + 500), "nothing is routed", 30.0, every=0.02)
                await s.kill()
                await s.start()
        await s.drained()
        received = await s.received()
    assert {number for messages in received.values() for number, _ in messages} == set(range(1, 24_001)), "lost"
    assert all(len(clients) == 1 for clients in owners(received).values()), "a key has moved"
    assert disorder(received) == 0


async def _more(served: Served, than: int) -> bool:
    return await served.total() >= than


async def test_who_leaves_gives_its_keys_up_and_what_it_has_stays_in_its_queue() -> None:
    async with serving() as s:
        await s.join("one")
        await s.publish(f"k{n}" for n in range(1_000))
        await s.drained()
        await s.join("two")
        await s.post("/clients/one/unbind")
        await s.publish(f"k{n}" for n in range(1_000))
        await s.drained()
        received = await s.received()
    assert [len(received[name]) for name in ("one", "two")] == [1_000, 1_000]


async def test_conflicts_and_what_is_accepted() -> None:
    async with serving() as s:
        assert "call bind first" in (await s.post("/clients/a/ready", 409))["detail"]
        binding = await s.post("/clients/a/bind")
        assert binding == {"routingKey": f"partymq.partition-{s.group}.a", "exchange": "partymq.ex.write"}
        assert "pending already" in (await s.post("/clients/a/bind", 409))["detail"]
        await s.post("/clients/a/ready")
        assert "ready already" in (await s.post("/clients/a/ready", 409))["detail"]
        assert await s.post("/clients/a/heartbeat") is None
        assert (await s.post("/clients/b/heartbeat"))["bound"] is False
        assert await s.post("/clients/b/unbind") is None
        assert (await s.call("DELETE", "/clients/b"))[0] == 404
        assert (await s.call("DELETE", "/clients/a"))[0] == 204
        assert (await s.call("GET", "/clients/a"))[0] == 404
        for bad in ("a%2Fb", "a-", "a" * 201, "a%20b"):
            assert (await s.call("POST", f"/clients/{bad}/bind"))[0] == 422, bad
        assert (await s.call("POST", "/clients/a/bind", data=b"{"))[0] == 400
        assert (await s.call("POST", "/clients/a/bind", data=b"[1]"))[0] == 422
        assert (await s.call("POST", "/clients/a/bind", data=b" " * 100_000))[0] == 413
        assert (await s.call("GET", "/nothing"))[0] == 404
        assert (await s.call("GET", "/groups/nobody/clients"))[0] == 404
        assert (await s.call("GET", f"/groups/{s.group}/clients"))[0] == 200


async def test_who_is_not_heard_of_is_dropped_ready_or_not() -> None:
    async with serving(PARTYMQ_HEARTBEAT_EXPIRES_AFTER="1500ms", PARTYMQ_HEARTBEAT_CHECK_INTERVAL="100ms") as s:
        await s.join("silent")
        await s.join("lively")
        await s.post("/clients/pending/bind")

        async def lively_is_left() -> bool:
            await s.post("/clients/lively/heartbeat")
            bound = (await s.call("GET", "/clients"))[1]["clients"]
            return [client["hostname"] for client in bound] == ["lively"]

        assert await eventually(lively_is_left, "nobody expires") > 1.0
        await s.publish(f"k{n}" for n in range(200))

        async def lively_has_all() -> bool:
            await s.post("/clients/lively/heartbeat")
            return await s.total() >= 200

        await eventually(lively_has_all, "nothing is routed", 30.0)
        assert len((await s.received())["lively"]) == 200


@pytest.mark.parametrize("source_arguments", [None, QUORUM], ids=["classic", "quorum"])
async def test_a_client_whose_queue_is_gone_is_dropped_at_once_and_nothing_is_lost(
    source_arguments: dict[str, str] | None,
) -> None:
    async with serving(source_arguments) as s:
        await s.join("one")
        await s.join("two")
        await s.publish(f"k{n}" for n in range(2_000))
        await s.drained()
        held = len((await s.received())["one"])
        await s.channel.queue_delete(s.queues.pop("one"))
        s.sent -= held
        await s.publish(f"k{n}" for n in range(2_000))

        async def dropped() -> bool:
            status, bound = await s.call("GET", "/clients")
            return status == 200 and [client["hostname"] for client in bound["clients"]] == ["two"]

        took = await eventually(dropped, "it is not dropped", 20.0)
        assert took < STUCK_AFTER / 2, "the source waits for what came back"
        await s.drained()
        received = await s.received()
    later = [number for number, _ in received["two"]][2_000 - held :]
    assert len(later) == len(set(later)) == 2_000, "lost or repeated"
    assert disorder(received) == 0


async def test_what_comes_back_out_of_a_segment_is_not_lost() -> None:
    """A plain client without a queue is given the partitions of a managed one, whose messages wait in a transfer."""
    async with serving() as s:
        s.managed.add("managed")
        binding = await s.post("/clients/managed/bind", json={"managed": True})
        channel = await s.connection.channel()
        await channel.set_qos(prefetch_count=5)
        held: list[aio_pika.abc.AbstractIncomingMessage] = []

        async def hold(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            held.append(message)

        await (await channel.get_queue(binding["queue"])).consume(hold)
        await s.publish(f"k{n}" for n in range(200))
        await eventually(lambda: len(held) == 5, "nothing arrives", 30.0)
        await eventually(lambda: _source_is_empty(s), "the source is not drained", 30.0)
        await s.post("/clients/hasty/bind")
        await s.post("/clients/hasty/ready")  # without a queue
        await channel.close()
        await s.post("/clients/managed/unbind")

        async def dropped() -> bool:
            status, bound = await s.call("GET", "/clients")
            return status == 200 and bound["clients"] == []

        await eventually(dropped, "it is not dropped", 20.0)
        await s.join("one")
        await s.drained()
        received = await s.received()
    assert sorted(number for number, _ in received["one"]) == list(range(1, 201)), "lost or repeated"


async def _source_is_empty(s: Served) -> bool:
    return not (await s.channel.declare_queue(s.source, passive=True)).declaration_result.message_count


async def test_two_hundred_clients() -> None:
    async with serving() as s:
        await asyncio.gather(*(s.join(f"c{n}") for n in range(200)))
        await s.publish(f"k{n % 4_000}" for n in range(8_000))
        await s.drained()
        received = await s.received()
    assert all(len(clients) == 1 for clients in owners(received).values())
    assert max(len(messages) for messages in received.values()) <= 2 * 8_000 / 200
    assert disorder(received) == 0


async def test_of_two_servers_one_stands_by_and_goes_on() -> None:
    async with serving() as s:
        await s.join("one")
        other = replace(s, port=free_port(), process=None, others=[])
        s.others.append(other)
        await other.start()

        async def stands_by() -> bool:
            group = (await other.call("GET", "/health"))[1]["groups"].get(s.group, {})
            return bool(group.get("reason") == "Standby")

        await eventually(stands_by, "it does not stand by", deadline=20.0)
        status, problem = await other.call("POST", "/clients/two/bind")
        assert (status, problem["reason"]) == (503, "NotRouting")
        await s.publish(f"k{n}" for n in range(500))
        await s.drained()
        await s.kill()
        await eventually(lambda: _bound(other), "nobody goes on", deadline=20.0)
        s.port = other.port
        await s.join("two")
        await s.publish(f"k{n}" for n in range(500))
        await s.drained()
        received = await s.received()
    assert len(received["one"]) == 1_000, "a key has moved"


async def _bound(served: Served) -> bool:
    status, body = await served.call("GET", "/clients")
    return status == 200 and [client["hostname"] for client in body["clients"]] == ["one"]


async def test_without_a_source_it_waits_and_says_so() -> None:
    async with serving() as s:
        await s.channel.queue_delete(s.source)
        await s.join("one")

        async def says_so() -> bool:
            return bool((await s.call("GET", "/health"))[1]["groups"][s.group]["reason"] == "SourceMissing")

        await eventually(says_so, "it does not say that the source is missing")
        await s.channel.declare_queue(s.source, durable=False, exclusive=False)
        await s.publish(f"k{n}" for n in range(100))
        await s.drained()


async def test_a_token_is_asked_for() -> None:
    async with serving(PARTYMQ_API_TOKEN="secret") as s:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert (await s.call("POST", "/clients/a/bind", headers=headers))[0] == 401
        headers = {"Authorization": "Bearer secret"}
        assert (await s.call("POST", "/clients/a/bind", headers=headers))[0] == 200
        assert (await s.call("GET", "/health"))[0] == 200
        async with aiohttp.ClientSession() as plain, plain.get(f"http://127.0.0.1:{s.port}/openapi.json") as answer:
            assert answer.status == 200
