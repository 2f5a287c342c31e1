"""What consumers reject: where it lands, and `partymq dead` on thousands of messages, also when it is interrupted."""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pika  # type: ignore[import-untyped]
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from pamqp.common import FieldTable

from partymq.amqp.our_queues import CONSUMER_TIMEOUT, DELIVERY_LIMIT
from partymq.amqp.topology import LATE
from partymq.core.keys import partition_of
from partymq.core.membership import PodState
from partymq.core.spec import KeyFrom, KeySpec, OnMissing
from partymq.errors import BrokerError
from partymq.message.dead_letter import DeadMessage
from partymq.message.key_reader import key_reader
from partymq.router.maintenance.dead_queue import DeadQueue
from support.broker import amqp_url
from support.conditions import eventually
from support.group import Group, address, group


@asynccontextmanager
async def channel(prefetch: int = 100) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(amqp_url()) as connection:
        opened = await connection.channel()
        await opened.set_qos(prefetch_count=prefetch)
        yield opened


class Pod:
    """A pod of the group in this process: acknowledges, or rejects what it is told to."""

    def __init__(self) -> None:
        self.seen: list[AbstractIncomingMessage] = []
        self.rejects: Callable[[AbstractIncomingMessage], bool] = lambda _: False

    @property
    def bodies(self) -> list[str]:
        return [message.body.decode() for message in self.seen]

    async def handle(self, message: AbstractIncomingMessage) -> None:
        self.seen.append(message)
        if self.rejects(message):
            await message.reject(requeue=False)
        else:
            await message.ack()


async def join(g: Group, opened: AbstractChannel, name: str = "a") -> Pod:
    pod = Pod()
    g.set_pod(name)
    await eventually(lambda: bool(g.reports) and name in {m.name for m in g.report.members}, "no inbox for the pod")
    await (await opened.get_queue(g.names.inbox(name))).consume(pod.handle)
    await g.owners(name)
    return pod


async def put(opened: AbstractChannel, g: Group, body: str, key: str | None = "k", **properties: object) -> None:
    headers = {} if key is None else {"partitionKey": key}
    message = Message(body.encode(), headers=headers, **properties)  # type: ignore[arg-type]
    await opened.default_exchange.publish(message, routing_key=g.source)


async def depth(opened: AbstractChannel, queue: str) -> int:
    """Ready messages; a zero that takes its time is what RabbitMQ says of a queue that does not answer."""
    now = asyncio.get_running_loop().time
    while True:
        asked = now()
        count = (await opened.declare_queue(queue, passive=True)).declaration_result.message_count or 0
        if count or now() - asked < LATE:
            return count


async def dead(action: str, g: Group, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the command; what it wrote to standard output, and what it said."""
    command = (sys.executable, "-m", "partymq", "dead", action, f"test/{g.config.group.name}", "--uri", amqp_url())
    process = await asyncio.create_subprocess_exec(*command, *arguments, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        out, said = await process.communicate()
    assert process.returncode == code, said.decode()
    assert "Traceback" not in said.decode()
    told = said.decode()
    if action != "list" and code == 0:
        where, told = told.split("\n", 1)
        assert where == f"test/{g.config.group.name} on {address().host}:{address().port}, virtual host '/'"
    return out.decode(), told


async def rejected(g: Group, opened: AbstractChannel, pod: Pod, count: int) -> None:
    """So many messages m0, m1, ... of ten keys stand in the dead queue."""
    before = await depth(opened, g.names.dead)
    pod.rejects = lambda message: message.body.startswith(b"m")
    await asyncio.gather(*(put(opened, g, f"m{number}", f"k{number % 10}") for number in range(count)))

    async def there() -> bool:
        return await depth(opened, g.names.dead) == before + count

    await eventually(there, "the rejected messages are not in the dead queue", 60)


async def test_a_rejected_message_lands_in_dead_with_where_it_came_from_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel(1) as opened:
        await g.route()
        pod = await join(g, opened)
        pod.rejects = lambda message: message.body == b"3"
        for number in range(8):
            await put(opened, g, str(number), correlation_id="c")
        await eventually(lambda: len(pod.seen) == 8, "the rest does not go on")
        assert pod.bodies == [str(number) for number in range(8)]
        found = await (await opened.get_queue(g.names.dead)).get(timeout=10)
        assert found is not None
        assert found.body == b"3"
        assert found.correlation_id == "c"
        assert found.headers["x-partymq-partition"] == partition_of(b"k", 16)
        assert found.headers["x-partymq-routing-key"] == g.source
        death = found.headers["x-death"]
        assert isinstance(death, list)
        assert isinstance(death[0], dict)
        assert death[0]["queue"] == g.names.inbox("a")
        assert death[0]["reason"] == "rejected"
        await found.ack()


async def test_the_list_says_what_there_is_and_changes_nothing(tmp_path: Path) -> None:
    async with group(tmp_path, key=KeySpec(on_missing=OnMissing.DEAD_LETTER)) as g, channel() as opened:
        await g.route()
        pod = await join(g, opened)
        pod.rejects = lambda _: True
        await put(opened, g, "one", "ключ")
        await put(opened, g, "three", None)

        async def both() -> bool:
            return await depth(opened, g.names.dead) == 2

        await eventually(both, "the messages are not in the dead queue")
        for _ in range(2):
            out, said = await dead("list", g, "--json")
            assert said == "2 of 2 messages\n"
            found = sorted((json.loads(line) for line in out.splitlines()), key=lambda one: one["bytes"])
            first, second = found
            partition = partition_of("ключ".encode(), 16)
            assert first.pop("id").startswith(f"{partition}:")
            assert first.pop("died").startswith("20")
            assert first == {
                "partition": partition,
                "key": "ключ",
                "reason": "rejected",
                "pod": "a",
                "exchange": "",
                "routingKey": g.source,
                "bytes": 3,
                "why": None,
            }
            assert (second["reason"], second["partition"], second["key"], second["pod"]) == ("no-key", -1, None, None)
        out, _ = await dead("list", g)
        assert out.splitlines()[0].split()[:4] == ["ID", "KEY", "REASON", "POD"]
        assert "ключ" in out
        out, said = await dead("list", g, "--reason", "no-key", "--json")
        assert len(out.splitlines()) == 1


async def test_replayed_messages_come_in_order_to_the_owner_of_now(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel() as opened:
        await g.route()
        pod = await join(g, opened)
        await rejected(g, opened, pod, 3000)
        g.set_pod("a", PodState.TERMINATING)
        other = await join(g, opened, "b")
        _, said = await dead("replay", g, "--source", g.source)
        assert said == "replayed 3000 messages of 3000\n"
        await eventually(lambda: len(other.seen) == 3000, "the replayed messages do not arrive", 30)
        for key in range(10):
            mine = [body for body in other.bodies if int(body[1:]) % 10 == key]
            assert mine == [f"m{number}" for number in range(key, 3000, 10)]
        assert all("x-death" not in message.headers for message in other.seen)
        assert await depth(opened, g.names.dead) == 0
        await _no_way_is_left(g)


async def test_a_replay_keeps_the_routing_key_which_may_be_the_key(tmp_path: Path) -> None:
    async with group(tmp_path, key=KeySpec(source=KeyFrom.ROUTING_KEY, name="")) as g, channel() as opened:
        exchange = await opened.declare_exchange(f"{g.source}-topic", "topic", auto_delete=True)
        await (await opened.get_queue(g.source)).bind(exchange, "#")
        await g.route()
        pod = await join(g, opened)
        pod.rejects = lambda message: not message.headers.get("x-replayed-exchange")
        message = Message(b"body", priority=7, user_id="guest", expiration=600, headers={"CC": ["other"], "a": 1})
        await exchange.publish(message, routing_key="orders.eu")

        async def there() -> bool:
            return await depth(opened, g.names.dead) == 1

        await eventually(there, "the message is not in the dead queue")
        out, _ = await dead("list", g, "--key-from", "routingKey", "--json")
        assert json.loads(out)["key"] == "orders.eu"
        await dead("replay", g, "--source", g.source)
        await eventually(lambda: len(pod.seen) == 2, "the replayed message does not arrive")
        before, after = (dict(message.headers) for message in pod.seen)
        assert after["x-partymq-partition"] == before["x-partymq-partition"] == partition_of(b"orders.eu", 16)
        assert after["x-partymq-routing-key"] == "orders.eu"
        assert after["x-replayed-exchange"] == f"{g.source}-topic"
        assert after["a"] == 1
        for kept in ("x-partymq-priority", "x-partymq-user-id"):
            assert after[kept] == before[kept]
        assert before.keys() - after.keys() == {"x-partymq-expiration", "x-partymq-cc"}


async def test_what_dies_again_is_replayed_once(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel() as opened:
        await g.route()
        pod = await join(g, opened)
        await rejected(g, opened, pod, 200)
        _, said = await dead("replay", g, "--source", g.source)
        assert said == "replayed 200 messages of 200\n"
        await eventually(lambda: len(pod.seen) == 400, "they do not come again")

        async def again() -> bool:
            # The fence that proved the acknowledgements has expired, but the broker may count it until it looks again.
            return await depth(opened, g.names.dead) in (200, 201)

        await eventually(again, "they are not dead again", 30)


async def test_only_what_is_chosen_is_replayed_or_dropped(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel() as opened:
        await g.route()
        pod = await join(g, opened)
        await rejected(g, opened, pod, 50)
        pod.rejects = lambda _: False
        out, _ = await dead("list", g, "--json", "--limit", "0")
        listed = [json.loads(line) for line in out.splitlines()]
        _, said = await dead("replay", g, "--source", g.source, "--key", "k3")
        assert said == "replayed 5 messages of 50\n"
        await eventually(lambda: len(pod.seen) == 55, "they do not come again")
        assert pod.bodies[50:] == ["m3", "m13", "m23", "m33", "m43"]
        chosen = [one["id"] for one in listed if one["key"] == "k7"][:2]
        _, said = await dead("drop", g, "--id", chosen[0], "--id", chosen[1])
        assert said in ("dropped 2 messages of 45\n", "dropped 2 messages of 46\n")  # see `again` above
        _, said = await dead("drop", g, "--id", chosen[0], code=1)
        assert "not in the dead queue" in said
        _, said = await dead("drop", g, "--limit", "3")
        assert said in ("dropped 3 messages of 43\n", "dropped 3 messages of 44\n")
        out, _ = await dead("list", g, "--json", "--limit", "0")
        left = [json.loads(line)["id"] for line in out.splitlines()]
        gone = {one["id"] for one in listed if one["key"] == "k3"} | set(chosen)
        assert left == [one["id"] for one in listed if one["id"] not in gone][3:]
        _, said = await dead("drop", g, code=2)
        assert "--yes" in said
        assert await depth(opened, g.names.dead) == 40
        await dead("drop", g, "--yes")
        assert await depth(opened, g.names.dead) == 0


async def test_a_killed_replay_loses_nothing(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel() as opened:
        await g.route()
        pod = await join(g, opened)
        await rejected(g, opened, pod, 3000)
        pod.rejects = lambda _: False
        pod.seen.clear()
        name = f"test/{g.config.group.name}"
        for _ in range(3):
            command = (sys.executable, "-m", "partymq", "dead", "replay", name, "--uri", amqp_url())
            process = await asyncio.create_subprocess_exec(*command, "--source", g.source, stderr=PIPE)
            seen = len(pod.seen)
            await eventually(lambda seen=seen: len(pod.seen) > seen + 50, "nothing comes", every=0.001)  # type: ignore[misc]
            process.kill()
            await process.communicate()

        async def settled() -> bool:
            return (await opened.declare_queue(g.names.dead, passive=True)).declaration_result.consumer_count == 0

        await eventually(settled, "the killed replay still consumes")
        await dead("replay", g, "--source", g.source)
        assert await depth(opened, g.names.dead) == 0
        await eventually(lambda: len(set(pod.bodies)) == 3000, "messages are lost", 30)
        await _no_way_is_left(g)


async def test_a_replay_without_its_source_stops_and_keeps_all(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel() as opened:
        await g.route()
        pod = await join(g, opened)
        await rejected(g, opened, pod, 20)
        _, said = await dead("replay", g, "--source", "nobody-has-this", code=1)
        assert "'nobody-has-this' does not exist" in said
        _, said = await dead("replay", g, code=2)
        assert "--source" in said
        assert await depth(opened, g.names.dead) == 20


async def test_what_the_source_does_not_take_stays_dead(tmp_path: Path) -> None:
    full: dict[str, object] = {"x-max-length": 100, "x-overflow": "reject-publish"}
    async with group(tmp_path, source_arguments=full) as g, channel() as opened:
        await declare_dead(g, opened, 300)
        _, said = await dead("replay", g, "--source", g.source, code=1)
        assert "basic.nack" in said
        in_source = await bodies(opened, g.source)
        assert len(in_source) == 100
        assert in_source | await bodies(opened, g.names.dead) == {f"m{number}" for number in range(300)}


async def test_what_comes_back_stays_dead_although_the_broker_confirms_it(tmp_path: Path) -> None:
    async with group(tmp_path) as g, channel() as opened:
        await declare_dead(g, opened, 20)

        def unbind(_message: DeadMessage) -> bool:
            with contextlib.closing(pika.BlockingConnection(pika.URLParameters(amqp_url()))) as connection:
                connection.channel().queue_unbind(g.source, g.names.replay, "")
            return True

        with pytest.raises(ExceptionGroup) as caught:
            async with DeadQueue.open(address(), g.config.group, key_reader(KeySpec())) as queue:
                await queue.replay(unbind, source=g.source, limit=None)
        assert caught.group_contains(BrokerError, match="does not get to the source queue")
        assert await bodies(opened, g.source) == set()
        assert await bodies(opened, g.names.dead) == {f"m{number}" for number in range(20)}


async def declare_dead(g: Group, opened: AbstractChannel, count: int) -> None:
    """A dead queue with m0, m1, ... in it, although nothing was ever routed."""
    arguments: FieldTable = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    arguments["x-consumer-timeout"] = CONSUMER_TIMEOUT
    await opened.declare_queue(g.names.dead, durable=True, arguments=arguments)
    messages = (Message(f"m{number}".encode()) for number in range(count))
    await asyncio.gather(*(opened.default_exchange.publish(m, routing_key=g.names.dead) for m in messages))


async def bodies(opened: AbstractChannel, name: str) -> set[str]:
    """All that is in a queue, which is empty afterwards."""
    queue = await opened.get_queue(name)
    found = set()
    while (message := await queue.get(fail=False)) is not None:
        found.add(message.body.decode())
        await message.ack()
    return found


async def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        _, said = await dead("list", g, code=1)
        assert g.names.dead in said
        assert "ever routed" in said


async def _no_way_is_left(g: Group) -> None:
    async with await aio_pika.connect(amqp_url()) as connection:
        opened = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await opened.get_exchange(g.names.replay, ensure=True)
