"""What is read through a source's connection and not confirmed is bounded, whatever messages weigh."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pamqp.heartbeat import Heartbeat

from partymq.amqp.connection import Connection
from partymq.errors import ConnectionLostError
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.holdings import Holding
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.source_connection import SourceConnection
from support.conditions import eventually
from support.fake_broker import ADDRESS, FakeBroker
from unit.router.doubles import FakeChannel, FakeConnection


def _source_connection(total: int) -> tuple[FakeConnection, SourceConnection]:
    connection, budget = FakeConnection(), Budget(total)
    whole = Holding(budget.wholes, "", lambda _: None).part()
    return connection, SourceConnection(connection, FakeChannel(), budget, whole)


async def test_bytes_are_under_way_until_all_messages_of_their_chunk_are_confirmed() -> None:
    connection, source_connection = _source_connection(200)
    connection.received = 90
    source_connection.account(2, 1, idle=False)
    connection.received = 150
    source_connection.account(5, 1, idle=False)
    assert connection.held
    source_connection.account(5, 3, idle=False)  # 1 and 2
    assert not connection.held
    connection.received = 191
    source_connection.account(5, 3, idle=False)  # a part of the sixth, which comes with the chunk that ends it
    assert connection.held
    source_connection.account(5, 5, idle=False)
    assert connection.held
    source_connection.account(5, 6, idle=True)
    assert not connection.held


async def test_a_message_of_many_chunks_is_read_to_its_end() -> None:
    connection, source_connection = _source_connection(100)
    for received in range(0, 1000, 50):
        connection.received = received
        source_connection.account(0, 1, idle=True)
        assert not connection.held
    connection.received = 1000
    source_connection.account(1, 1, idle=False)
    assert connection.held
    source_connection.account(1, 2, idle=True)
    assert not connection.held


async def test_nothing_is_read_while_the_data_connection_takes_no_more() -> None:
    connection, source_connection = _source_connection(100)
    source_connection.congested(True)
    assert connection.held
    connection.received = 60
    source_connection.account(1, 1, idle=False)
    source_connection.congested(False)
    assert connection.held, "it is over its part, too"
    source_connection.account(1, 2, idle=True)
    assert not connection.held


async def test_what_still_comes_when_it_was_given_up_is_read() -> None:
    connection, source_connection = _source_connection(100)
    connection.received = 60
    source_connection.account(1, 1, idle=False)
    source_connection.congested(True)
    source_connection.let_go()
    assert not connection.held
    connection.received = 1000
    source_connection.account(1, 1, idle=False)
    source_connection.congested(True)
    assert not connection.held


class _Ends:
    """A link whose connections all end at brokers without a network."""

    def __init__(self) -> None:
        self.brokers: list[FakeBroker] = []

    async def dial(self, _what: str = "") -> Connection:
        broker = FakeBroker()
        broker.tune.heartbeat = 0
        self.brokers.append(broker)
        with broker.listening():
            return await Connection.open(ADDRESS, name="test", heartbeat=0)


@pytest.fixture
async def ends() -> AsyncIterator[_Ends]:
    made = _Ends()
    yield made
    for broker in made.brokers:
        broker.lose()
    await asyncio.sleep(0)


async def _link(ends: _Ends) -> DataConnection:
    return DataConnection(await ends.dial(), dial=ends.dial, budget=Budget(100))


async def test_a_lost_source_connection_ends_the_session(ends: _Ends) -> None:
    link = await _link(ends)
    await link.source_connection()
    ends.brokers[1].lose(OSError("cut"))
    with pytest.raises(ConnectionLostError, match="cut"):
        await link.watch()
    assert ends.brokers[0].aborted


async def test_a_lost_data_connection_ends_the_source_s(ends: _Ends) -> None:
    link = await _link(ends)
    await link.source_connection()
    ends.brokers[0].lose(OSError("cut"))
    with pytest.raises(ConnectionLostError, match="cut"):
        await link.watch()
    await eventually(lambda: ends.brokers[1].aborted, "the source is still read")


async def test_a_failure_drops_both_at_once(ends: _Ends) -> None:
    link = await _link(ends)
    await link.source_connection()
    link.fail(ConnectionLostError("enough"))
    assert [broker.aborted for broker in ends.brokers] == [True, True]


async def test_what_a_chunk_of_the_source_s_causes_leaves_at_its_end_in_one_write(ends: _Ends) -> None:
    link = await _link(ends)
    publishing = await link.channel()
    source_connection = await link.source_connection()
    data, source = ends.brokers

    def forward() -> None:
        for _ in range(3):
            publishing.ack(1)
        assert data.writes == before

    source_connection.connection.add_chunk_hook(forward)
    before = data.writes
    source.give((0, Heartbeat()))
    assert data.writes == before + 1


async def test_a_source_that_is_closed_leaves_the_session_alone(ends: _Ends) -> None:
    link = await _link(ends)
    for _ in range(2):
        await link.source_connection()
        await link.shut_source_connection()
    await asyncio.sleep(0)
    assert link.failure is None
    assert not ends.brokers[0].aborted


async def test_what_waits_to_be_written_stops_the_source(ends: _Ends) -> None:
    link = await _link(ends)
    seen: list[Any] = []
    link.on_arrivals(lambda: seen.append(None))
    source_connection = await link.source_connection()
    data: Any = ends.brokers[0]._protocol
    data.pause_writing()
    assert not ends.brokers[1].reading
    data.resume_writing()
    assert ends.brokers[1].reading
    await source_connection.channel.close()
    assert seen, "a chunk of the source's is told"
