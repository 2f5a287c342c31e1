"""Whom a queue counts although his node is lost: nobody, until the broker shows it, or where nobody can tell."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import pytest

from partymq.amqp import lost_nodes as module
from partymq.amqp.lost_nodes import LostNodes, Sight
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError
from support.conditions import eventually

OUTLETS = "partymq.shop.orders.outlets"
LOST = frozenset({"rabbit@one"})
SETTLED = 0.2
PATIENCE = 0.6


class _Broker:
    """What its API shows, and a session that looks."""

    def __init__(self) -> None:
        self.shows: Sight | BrokerError = Sight()
        self.asked: list[Collection[str]] = []
        self.nodes = LostNodes(BrokerAddress(host="localhost"))

    async def sight(
        self, _management: object, _address: BrokerAddress, *, journal: str, session: str, queues: Collection[str]
    ) -> Sight:
        assert (journal, session) == ("journal", "session")
        self.asked.append(set(queues))
        if isinstance(self.shows, BrokerError):
            raise self.shows
        return self.shows

    def lost(self, consumers: int = 3, *, own: int = 1, bare: bool = True) -> int:
        return self.nodes.among(OUTLETS, consumers, own=own, bare=bare)

    async def comes_to(self, condition: Callable[[], bool | Awaitable[bool]]) -> float:
        return await eventually(condition, "it does not come to that", 5.0, every=0.01)


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Broker]:
    for name, value in {
        "SETTLED": SETTLED,
        "AT_FIRST": 0.02,
        "ASK_EVERY": 0.02,
        "ASK_RARELY": 0.1,
        "PATIENCE": PATIENCE,
    }.items():
        monkeypatch.setattr(module, name, value)
    made = _Broker()
    monkeypatch.setattr(module, "sight", made.sight)
    task = asyncio.create_task(made.nodes.run(journal="journal", session="session"))
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_count_that_is_right_asks_nobody(broker: _Broker) -> None:
    for _ in range(10):
        assert broker.lost(1) == 0
        await asyncio.sleep(0.01)
    assert not broker.asked


async def test_who_stood_on_a_lost_node_is_lost_after_a_while(broker: _Broker) -> None:
    broker.shows = Sight(lost=LOST, living={OUTLETS: 1})
    assert await broker.comes_to(lambda: broker.lost() == 2) > SETTLED
    assert {OUTLETS} in broker.asked


async def test_whom_the_broker_shows_is_not_lost(broker: _Broker) -> None:
    broker.shows = Sight(lost=LOST, living={OUTLETS: 2})
    await broker.comes_to(lambda: not broker.lost() and len(broker.asked) > 10)
    assert broker.lost() == 0
    assert broker.nodes.trouble is None


async def test_nobody_is_lost_while_all_nodes_run(broker: _Broker) -> None:
    await broker.comes_to(lambda: not broker.lost() and len(broker.asked) > 10)
    assert broker.lost() == 0


async def test_a_count_that_changes_is_looked_at_anew(broker: _Broker) -> None:
    broker.shows = Sight(lost=LOST, living={OUTLETS: 1})
    await broker.comes_to(lambda: broker.lost() == 2)
    assert broker.lost(4) == 0
    assert await broker.comes_to(lambda: broker.lost(4) == 3) > SETTLED / 2


async def test_what_has_messages_waits_for_the_node_and_says_so(broker: _Broker) -> None:
    broker.shows = Sight(lost=LOST, living={OUTLETS: 1})
    await broker.comes_to(lambda: not broker.lost(bare=False) and broker.nodes.trouble is not None)
    assert "rabbit@one" in str(broker.nodes.trouble)
    assert await broker.comes_to(lambda: broker.lost(bare=True) == 2) > 0.0
    assert broker.lost(bare=False) == 0


async def test_where_nobody_can_tell_a_queue_without_messages_is_waited_for_no_longer_than_that(
    broker: _Broker,
) -> None:
    broker.shows = BrokerError("there is no such API.")
    assert broker.lost() == 0
    assert await broker.comes_to(lambda: broker.lost() == 2) > PATIENCE * 0.9
    assert "no such API" in str(broker.nodes.trouble)
    assert broker.lost(bare=False) == 0


async def test_nobody_is_lost_by_the_clock_while_the_broker_reads_nothing(broker: _Broker) -> None:
    broker.shows = BrokerError("there is no such API.")
    broker.nodes.report_to(lambda _: None, paused=lambda: True)
    with pytest.raises(AssertionError):
        await eventually(lambda: broker.lost() == 2, "", 2 * PATIENCE, every=0.01)


async def test_a_takeover_waits_for_what_was_just_lost(broker: _Broker) -> None:
    broker.shows = Sight(lost=LOST)
    began = asyncio.get_running_loop().time()
    await broker.nodes.quiet()
    assert asyncio.get_running_loop().time() - began > SETTLED


async def test_a_takeover_does_not_wait_where_all_nodes_run(broker: _Broker) -> None:
    began = asyncio.get_running_loop().time()
    await broker.nodes.quiet()
    assert asyncio.get_running_loop().time() - began < SETTLED


async def test_a_takeover_waits_for_what_was_lost_since_the_last_answer(broker: _Broker) -> None:
    await broker.nodes.quiet()
    broker.shows = Sight(lost=LOST)
    began = asyncio.get_running_loop().time()
    await broker.nodes.quiet()
    assert asyncio.get_running_loop().time() - began > SETTLED


async def test_a_takeover_does_not_wait_where_nobody_can_tell(broker: _Broker) -> None:
    broker.shows = BrokerError("there is no such API.")
    began = asyncio.get_running_loop().time()
    await broker.nodes.quiet()
    assert asyncio.get_running_loop().time() - began < SETTLED


async def test_a_takeover_waits_for_a_node_that_is_lost_once_more(
    broker: _Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNWATCHED", 0.1)
    broker.shows = Sight(lost=LOST)
    await broker.nodes.quiet()
    await asyncio.sleep(0.2)  # it was back, and nobody has asked
    began = asyncio.get_running_loop().time()
    await broker.nodes.quiet()
    assert asyncio.get_running_loop().time() - began > SETTLED


async def test_nobody_is_lost_by_an_old_answer(broker: _Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is counted since it was asked for is not in it."""
    broker.shows = Sight(lost=LOST, living={OUTLETS: 1})
    await broker.comes_to(lambda: broker.lost() == 2)

    async def hangs(*_: object, **__: object) -> Sight:
        await asyncio.Event().wait()
        return Sight()

    monkeypatch.setattr(module, "sight", hangs)
    with pytest.raises(AssertionError):
        await eventually(lambda: broker.lost(4) == 3, "", 3 * SETTLED, every=0.01)


async def test_what_is_over_is_taken_back(broker: _Broker) -> None:
    told: list[object] = []
    broker.nodes.report_to(told.append, paused=lambda: False)
    broker.shows = Sight(lost=LOST, living={OUTLETS: 1})
    await broker.comes_to(lambda: not broker.lost() and broker.nodes.trouble is not None)
    broker.nodes.report()
    broker.lost(1)
    broker.nodes.report()
    broker.nodes.report()
    assert [trouble is not None for trouble in told] == [True, False]
