"""Queues that say nothing: RabbitMQ then counts no messages and no consumers, and nobody must believe that."""

import asyncio
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from partymq.amqp.channel import MAX_PREFETCH
from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueState, Silence, Topology
from partymq.core.report import MemberState
from partymq.core.spec import DeletionPolicy
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.settling import await_unread, is_consumed
from partymq.router.maintenance.queue_removal import remove_group
from partymq.router.publish.publisher import Publisher
from support.broker import QUORUM, amqp_url, unique
from support.conditions import eventually, stays
from support.group import Group, address, group
from support.suspend import suspended


async def test_a_queue_that_does_not_answer_is_silent_and_not_empty() -> None:
    queue = unique("q")
    topology = await Topology.open(address(), name="test")
    try:
        await topology.declare_quorum(queue)
        assert await topology.poll(queue) is Silence.ZERO, "zeros prove nothing, although it is empty"
        await _publish(queue, 3)
        await eventually(lambda: _seen(topology, queue, QueueState(3, 0)), "the messages are not counted")
        async with suspended(queue):
            assert await topology.poll(queue) is Silence.LATE
            assert await topology.poll_all([queue]) == [Silence.LATE]
        await eventually(lambda: _seen(topology, queue, QueueState(3, 0)), "it does not answer again")
    finally:
        await topology.delete(queue)
        await topology.close()


async def test_the_leader_of_an_inbox_is_asked_and_nothing_changes() -> None:
    queue = unique("q")
    topology = await Topology.open(address(), name="test")
    try:
        await topology.declare_quorum(queue, single_active=True)
        assert not await is_consumed(topology, queue)
        async with suspended(queue):
            asked = asyncio.create_task(topology.answered(queue))
            await stays(lambda: not asked.done(), "the leader does nothing, and is said to have answered", 1.0)
        await asked
        async with await aio_pika.connect(amqp_url()) as connection:
            channel = await connection.channel()
            await channel.set_qos(1)
            got: list[bytes] = []

            async def take(message: AbstractIncomingMessage) -> None:
                got.append(message.body)

            await (await channel.get_queue(queue)).consume(take)
            assert await is_consumed(topology, queue)
            await _publish(queue, 1)
            await eventually(lambda: len(got) == 1, "the consumer is not served")
            await topology.answered(queue)
            assert await topology.poll(queue) == QueueState(0, 1)
    finally:
        await topology.delete(queue)
        await topology.close()


async def test_a_segment_with_a_reader_is_not_quiet_while_it_is_silent() -> None:
    """Case: waiting for a queue whose consumer holds ten messages ended while the queue was busy."""
    queue, outlets = unique("q"), unique("q")
    topology = await Topology.open(address(), name="test")
    connection = await Connection.open(address(), name="test")
    reading = await Connection.open(address(), name="test")
    try:
        await asyncio.gather(topology.declare_segment(queue), topology.declare_quorum(outlets))
        await _publish(queue, 10)
        publisher = Publisher(DataConnection(connection), await connection.channel())
        await publisher.open(outlets)
        held: list[int] = []
        reader = await reading.channel()
        await reader.consume(queue, lambda tag, *_: held.append(tag), prefetch=MAX_PREFETCH)
        await eventually(lambda: len(held) == 10, "the messages are not delivered")
        quiet = asyncio.create_task(await_unread(topology, [queue], mark=publisher.mark))
        async with suspended(queue):
            await stays(lambda: not quiet.done(), "it is said that nobody reads it", 1.5)
        await stays(lambda: not quiet.done(), "it is said that nobody reads it", 1.0)
        reading.abort()
        await asyncio.wait_for(quiet, 10)
        state = await topology.poll(queue)
        assert isinstance(state, QueueState)
        assert state.ready >= 10
    finally:
        for each in (connection, reading):
            each.abort()
        await asyncio.gather(topology.delete(queue), topology.delete(outlets))
        await topology.close()


async def test_a_backlog_that_is_silent_is_not_deleted_as_empty(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=16, partitions=2, deletion_policy=DeletionPolicy.DELETE_EMPTY) as g:
        backlog = await _with_a_backlog(g)
        async with suspended(backlog):
            left = await remove_group(
                g.config, title="test removal", members=g.ever, policy=DeletionPolicy.DELETE_EMPTY
            )
        assert backlog in left
        topology = await Topology.open(address(), name="test")
        state = await topology.poll(backlog)
        await topology.close()
        assert isinstance(state, QueueState)
        assert state.ready > 100


async def test_a_source_that_somebody_reads_stays_refused_while_it_is_silent(tmp_path: Path) -> None:
    async with group(tmp_path, source_arguments=QUORUM) as g:
        producer = await g.clients.producer(g.source, count=40, keys=4)
        await producer.ended()
        async with await aio_pika.connect(amqp_url()) as connection:
            channel = await connection.channel()
            await channel.set_qos(10)
            await (await channel.get_queue(g.source)).consume(_hold)
            async with suspended(g.source):
                await g.route()
                await g.join("a")
                await eventually(lambda: bool(g.active()), "nobody owns anything", 20)
                await stays(lambda: not g.spool.acked_by("a"), "it is read", 3.0)
            await eventually(lambda: g.ready == "SourceShared", lambda: f"it is {g.ready}", 20)
            assert not g.spool.acked_by("a")
        await eventually(lambda: g.ready == "Routing", lambda: f"it is {g.ready}", 20)
        await g.audited()


async def test_a_member_whose_inbox_is_silent_is_not_absent(tmp_path: Path) -> None:
    async with group(tmp_path, rejoin_seconds=1.0) as g:
        await g.route()
        await g.join("a")
        await g.join("b")
        await g.owners("a", "b")
        async with suspended(g.names.inbox("a")):
            await stays(lambda: g.active() == {"a", "b"}, lambda: f"it is given up: {g.report.members}", 4.0)
        assert not g.seen("MemberAbsent")
        assert not g.report.handoffs


async def test_a_member_that_is_gone_and_idle_is_absent_all_the_same(tmp_path: Path) -> None:
    """Its inbox is empty and has no consumer, so zeros are all that it says: its leader is asked."""
    async with group(tmp_path, rejoin_seconds=1.0) as g:
        await g.route()
        leaver = await g.join("a")
        await g.join("b")
        await g.owners("a", "b")
        await leaver.kill()
        await g.notice("MemberAbsent", "a is absent", deadline=10)
        await eventually(lambda: g.active() == {"b"}, "its partitions do not move", 20)
        assert all(member.state is not MemberState.ACTIVE for member in g.report.members if member.name == "a")


async def _with_a_backlog(g: Group) -> str:
    """A group whose router has stopped, with more than a hundred messages in a backlog."""
    await g.route()
    client = await g.join("a", prefetch=1, hold_after=0)
    await g.owners("a")
    producer = await (await g.clients.producer(g.source, rate=500, keys=64)).started()
    await eventually(lambda: g.report.backlog > 300, "there is no backlog", 30)
    await producer.stop()
    await eventually(lambda: g.report.source_ready == 0, "the source is not read", 20)
    await g.stop()
    await client.kill()
    topology = await Topology.open(address(), name="test")
    states = {p: await topology.poll(g.names.backlog(p)) for p in range(2)}
    await topology.close()
    return g.names.backlog(max(states, key=lambda p: s.ready if isinstance(s := states[p], QueueState) else 0))


async def _hold(_message: AbstractIncomingMessage) -> None:
    """Not acknowledged."""


async def _publish(queue: str, count: int) -> None:
    async with await aio_pika.connect(amqp_url()) as connection:
        channel = await connection.channel()
        for number in range(count):
            message = aio_pika.Message(str(number).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, routing_key=queue)


async def _seen(topology: Topology, queue: str, state: QueueState) -> bool:
    return await topology.poll(queue) == state
