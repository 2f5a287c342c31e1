"""However many groups there are, a virtual host is looked at once at a time, and rarely while nobody answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import pytest

from partymq.core.consumers import OUR_TAG, Consumer, Consumers
from partymq.core.report import Notice
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.errors import ConnectionLostError
from partymq.router import census
from partymq.router.census import Census
from partymq.router.scrutiny import Scrutiny
from support.conditions import eventually

BROKER = BrokerAddress(host="h")
CONFIG = GroupConfig(
    group=GroupId(namespace="shop", name="orders"), spec=GroupSpec(source_queue="orders"), broker=BROKER
)
INBOX = "partymq.shop.orders.inbox.a"
GOOD = Consumer(connection="c", client="h:1", tag="t", active=True, acknowledges=True, prefetch=5)


class _Management:
    """The API, as the test has it."""

    looks: list[BrokerAddress]
    answer: Consumers | Exception

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def all_consumers(self) -> Consumers:
        type(self).looks.append(self._address)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def management(monkeypatch: pytest.MonkeyPatch) -> type[_Management]:
    _Management.looks = []
    _Management.answer = {}
    monkeypatch.setattr(census, "Management", _Management)
    monkeypatch.setattr(census, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(census, "NEW_HOSTS_EVERY", 0.005)
    return _Management


@asynccontextmanager
async def running(*brokers: BrokerAddress) -> AsyncIterator[tuple[Census, list[BrokerAddress]]]:
    wanted = list(brokers)
    looking = Census(lambda: wanted, on_news=lambda _broker: None)
    task = asyncio.create_task(looking.run())
    yield looking, wanted
    task.cancel()
    await asyncio.wait({task})


async def test_groups_of_one_virtual_host_share_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "LOOK_EVERY", 60.0)
    other = replace(BROKER, vhost="other")
    async with running(*[replace(BROKER) for _ in range(200)], other) as (looking, _):
        await eventually(lambda: None not in (looking.latest(BROKER), looking.latest(other)), "not looked at")
        assert sorted(address.vhost for address in _Management.looks) == ["/", "other"]


async def test_a_virtual_host_that_no_group_uses_any_more_is_left_alone() -> None:
    async with running(BROKER) as (looking, wanted):
        await eventually(lambda: looking.latest(BROKER) is not None, "not looked at")
        wanted.clear()
        await eventually(lambda: looking.latest(BROKER) is None, "still looked at")
        wanted.append(BROKER)
        await eventually(lambda: looking.latest(BROKER) is not None, "not looked at again")


@pytest.mark.parametrize("failure", [ConnectionLostError("nobody there"), KeyError("queue")])
async def test_an_api_that_fails_ends_nothing_and_is_asked_less(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "LOOK_EVERY_MAX", 0.1)
    _Management.answer = failure
    async with running(BROKER) as (looking, _):
        await eventually(lambda: len(_Management.looks) >= 3, "not asked again")
        sighting = looking.latest(BROKER)
        assert sighting is not None
        assert sighting.error is not None
        condition = Scrutiny(looking, lambda _: None).condition(CONFIG)
        assert (condition.known, condition.reason) == (False, "ManagementUnreachable")
        _Management.answer = {INBOX: (GOOD,)}
        await eventually(lambda: getattr(looking.latest(BROKER), "error", 1) is None, "does not recover")


async def test_a_consumer_that_is_gone_is_remembered() -> None:
    ours = replace(GOOD, tag=OUR_TAG)
    _Management.answer = {INBOX: (GOOD, ours)}
    async with running(BROKER) as (looking, _):
        await eventually(lambda: looking.remembered(BROKER, INBOX) == (GOOD,), "not seen")
        _Management.answer = {INBOX: (ours,)}
        looks = len(_Management.looks)
        await eventually(lambda: len(_Management.looks) > looks + 1, "not looked at again")
        assert looking.remembered(BROKER, INBOX) == (GOOD,)


async def test_one_that_waits_for_a_takeover_is_remembered_as_the_one_that_was_active() -> None:
    _Management.answer = {INBOX: (GOOD,)}
    async with running(BROKER) as (looking, _):
        await eventually(lambda: looking.remembered(BROKER, INBOX) == (GOOD,), "not seen")
        _Management.answer = {INBOX: (replace(GOOD, active=False), replace(GOOD, tag=OUR_TAG))}
        looks = len(_Management.looks)
        await eventually(lambda: len(_Management.looks) > looks + 1, "not looked at again")
        assert looking.remembered(BROKER, INBOX) == (GOOD,)


async def test_each_weakness_is_told_once_and_its_end_is_too() -> None:
    told: list[Notice] = []
    bad = replace(GOOD, acknowledges=False)
    _Management.answer = {INBOX: (bad,)}
    async with running(BROKER) as (looking, _):
        scrutiny = Scrutiny(looking, told.append)
        assert scrutiny.condition(CONFIG).reason == "NotSeen"
        await eventually(lambda: scrutiny.condition(CONFIG).reason == "UnsafeConsumer", "not named")
        looks = len(_Management.looks)
        await eventually(lambda: len(_Management.looks) > looks + 2, "not looked at again")
        assert not scrutiny.condition(CONFIG).ok
        assert [notice.reason for notice in told] == ["UnsafeConsumer"]
        _Management.answer = {INBOX: (GOOD,)}
        await eventually(lambda: scrutiny.condition(CONFIG).ok, "not safe")
        assert [notice.reason for notice in told] == ["UnsafeConsumer", "ConsumersSafe"]
