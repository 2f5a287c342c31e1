"""However many groups there are, a virtual host is looked at once at a time, and rarely while nobody answers."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import pytest

from partymq.core.consumers import OUR_TAG, Consumer, Consumers, by_group
from partymq.core.hazards import QueueFacts
from partymq.core.report import Notice
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.errors import ConnectionLostError
from partymq.router.reporting import consumer_check as scrutiny_module
from partymq.router.reporting import consumer_scan
from partymq.router.reporting.consumer_check import ConsumerCheck, Safety
from partymq.router.reporting.consumer_scan import ConsumerScan, Sighting
from support.conditions import eventually

BROKER = BrokerAddress(host="h")
JOURNAL = "partymq.shop.orders.journal"
CONFIG = GroupConfig(
    group=GroupId(namespace="shop", name="orders"), spec=GroupSpec(source_queue="orders"), broker=BROKER
)
INBOX = "partymq.shop.orders.inbox.a"
GOOD = Consumer(connection="c", client="h:1", tag="t", active=True, acknowledges=True, prefetch=5)


OUR = replace(GOOD, tag=OUR_TAG, session="s")
OURS = {JOURNAL: (OUR,)}


def judged(consumer_check: ConsumerCheck, *, session: str = "s", now: float = 0.0, askable: bool = True) -> Safety:
    return consumer_check.look(CONFIG, session=session, now=now, askable=askable)


class _Management:
    """The API, as the test has it."""

    looks: list[BrokerAddress]
    answer: Consumers | Exception
    queues: dict[str, QueueFacts]
    queue_looks: int

    kept = 0

    def __init__(self, address: BrokerAddress, *, keeps: int | None = None) -> None:
        self._address = address
        self.keeps = keeps

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

    async def consumers(self, queue: str) -> list[Consumer]:
        assert not isinstance(self.answer, Exception)
        return list(self.answer.get(queue, ()))

    async def queue(self, name: str) -> QueueFacts | None:
        return self.queues.get(name)

    async def has_policy(self, name: str) -> bool:
        return bool(self.queues[name].policy) if name in self.queues else False

    async def queues_like(self, pattern: str) -> tuple[QueueFacts, ...]:
        type(self).queue_looks += 1
        return tuple(facts for name, facts in self.queues.items() if re.match(pattern, name))


@pytest.fixture(autouse=True)
def management(monkeypatch: pytest.MonkeyPatch) -> type[_Management]:
    _Management.looks = []
    _Management.answer = {}
    _Management.queues = {}
    _Management.queue_looks = 0
    monkeypatch.setattr(consumer_scan, "Management", _Management)
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(consumer_scan, "NEW_HOSTS_EVERY", 0.005)
    return _Management


@asynccontextmanager
async def running(*brokers: BrokerAddress) -> AsyncIterator[tuple[ConsumerScan, list[BrokerAddress]]]:
    wanted = list(brokers)
    looking = ConsumerScan(lambda: wanted, on_news=lambda _broker: None, sources=lambda _broker: ["orders"])
    task = asyncio.create_task(looking.run())
    yield looking, wanted
    task.cancel()
    await asyncio.wait({task})


async def test_groups_of_one_virtual_host_share_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY", 60.0)
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
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY_MAX", 0.1)
    _Management.answer = failure
    async with running(BROKER) as (looking, _):
        await eventually(lambda: len(_Management.looks) >= 3, "not asked again")
        sighting = looking.latest(BROKER)
        assert sighting is not None
        assert sighting.error is not None
        safety = judged(ConsumerCheck(looking, lambda _: None), askable=False)
        for condition in (safety.consumers, safety.queues):
            assert (condition.known, condition.reason) == (False, "ManagementUnreachable")
        assert "may not configure it" in safety.queues.message
        _Management.answer = {INBOX: (GOOD,)}
        await eventually(lambda: getattr(looking.latest(BROKER), "error", 1) is None, "does not recover")


async def test_brokers_share_what_is_kept_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "KEPT", 1000)
    monkeypatch.setattr(consumer_scan, "LEAST_KEPT", 100)
    looking = ConsumerScan(list, on_news=lambda _: None, sources=lambda _: [])
    looking._sizes[BROKER] = 600
    assert looking._room(BROKER) == 500
    assert looking._room(replace(BROKER, vhost="another")) == 200
    looking._sizes[replace(BROKER, vhost="third")] = 400
    assert looking._room(replace(BROKER, vhost="another")) == 100


async def test_thousands_of_weaknesses_are_counted_and_not_told_one_by_one() -> None:
    bad = replace(GOOD, acknowledges=False)
    _Management.answer = {
        **OURS,
        **{f"partymq.shop.orders.inbox.pod-{number}": (bad,) for number in range(3000)},
    }
    notices: list[Notice] = []
    async with running(BROKER) as (looking, _):
        await eventually(lambda: looking.latest(BROKER) is not None, "not looked at")
        consumer_check = ConsumerCheck(looking, notices.append)
        safety = judged(consumer_check)
    assert not safety.consumers.ok
    assert len(notices) == 11
    assert "more of that kind" in notices[-1].message
    assert len(safety.consumers.message) < 4000


async def test_a_consumer_that_is_gone_is_remembered() -> None:
    ours = replace(GOOD, tag=OUR_TAG)
    _Management.answer = {INBOX: (GOOD, ours)}
    async with running(BROKER) as (looking, _):
        await eventually(lambda: looking.remembered(BROKER, INBOX) == (GOOD,), "not seen")
        _Management.answer = {INBOX: (ours,)}
        looks = len(_Management.looks)
        await eventually(lambda: len(_Management.looks) > looks + 1, "not looked at again")
        assert looking.remembered(BROKER, INBOX) == (GOOD,)


async def test_a_consumer_is_remembered_once_its_connection_is_known() -> None:
    unknown = replace(GOOD, connection="", client="")
    _Management.answer = {INBOX: (unknown,)}
    async with running(BROKER) as (looking, _):
        await eventually(lambda: len(_Management.looks) > 1, "not looked at")
        assert looking.remembered(BROKER, INBOX) == ()
        _Management.answer = {INBOX: (GOOD,)}
        await eventually(lambda: looking.remembered(BROKER, INBOX) == (GOOD,), "not seen")
        _Management.answer = {INBOX: (unknown,)}
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
    _Management.answer = {INBOX: (bad,), **OURS}
    async with running(BROKER) as (looking, _):
        consumer_check = ConsumerCheck(looking, told.append)
        assert judged(consumer_check).consumers.reason == "NotSeen"
        await eventually(lambda: judged(consumer_check).consumers.reason == "UnsafeConsumer", "not named")
        looks = len(_Management.looks)
        await eventually(lambda: len(_Management.looks) > looks + 2, "not looked at again")
        assert not judged(consumer_check).consumers.ok
        assert [notice.reason for notice in told] == ["UnsafeConsumer"]
        _Management.answer = {INBOX: (GOOD,), **OURS}
        await eventually(lambda: judged(consumer_check).consumers.ok, "not safe")
        assert [notice.reason for notice in told] == ["UnsafeConsumer", "ConsumersSafe"]


async def test_two_consumers_of_an_inbox_are_told_when_they_stay() -> None:
    told: list[Notice] = []
    two = GOOD, replace(GOOD, client="h:2", active=False)
    async with running(BROKER) as (looking, _):
        consumer_check = ConsumerCheck(looking, told.append)
        _Management.answer = {INBOX: two, **OURS}
        await eventually(lambda: judged(consumer_check).consumers.reason == "UnsafeConsumer", "not named")
        assert "h:1, h:2" in told[0].message


async def test_two_consumers_of_an_inbox_for_a_moment_are_not_told() -> None:
    told: list[Notice] = []
    two = GOOD, replace(GOOD, client="h:2", active=False)
    async with running(BROKER) as (looking, _):
        consumer_check = ConsumerCheck(looking, told.append)
        for consumers in ((GOOD,), two, (GOOD,), two, (GOOD,)):
            seen: Consumers = {INBOX: consumers, **OURS}
            looking._latest[BROKER] = Sighting(consumers=seen, groups=by_group(seen))
            assert judged(consumer_check).consumers.ok
    assert not told


async def test_nothing_is_said_of_a_broker_that_does_not_show_our_own_consumer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scrutiny_module, "SHOWN_AFTER", 0.1)
    _Management.answer = {INBOX: (replace(GOOD, acknowledges=False),), JOURNAL: (replace(OUR, session="another"),)}
    told: list[Notice] = []
    async with running(BROKER) as (looking, _):
        consumer_check = ConsumerCheck(looking, told.append)
        await eventually(lambda: judged(consumer_check, now=0.0).consumers.reason == "OtherBroker", "not noticed")
        safety = judged(consumer_check)
        assert not safety.consumers.known
        assert not safety.queues.known
        assert JOURNAL in safety.queues.message
        assert "management-uri" in safety.consumers.message
        assert not told
        _Management.answer = {INBOX: (GOOD,), **OURS}
        await eventually(
            lambda: judged(consumer_check).consumers.ok and judged(consumer_check).queues.ok, "not believed"
        )


async def test_until_the_api_can_show_our_consumer_what_was_said_before_stands() -> None:
    _Management.answer = {INBOX: (GOOD,), **OURS}
    async with running(BROKER) as (looking, _):
        consumer_check = ConsumerCheck(looking, lambda _: None)
        await eventually(lambda: judged(consumer_check).consumers.ok, "not safe")
        looks = len(_Management.looks)
        now = time.monotonic()
        judged(consumer_check, session="the next", now=now)
        await eventually(lambda: len(_Management.looks) > looks + 2, "not looked at again")
        assert judged(consumer_check, session="the next", now=now).consumers.ok


async def test_queues_are_looked_at_less_often_and_a_policy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Notice] = []
    monkeypatch.setattr(consumer_scan, "QUEUES_SHARE", 0)
    _Management.answer = OURS
    _Management.queues = {INBOX: QueueFacts(name=INBOX, kind="quorum", policy="all", definition={"message-ttl": 7})}
    async with running(BROKER) as (looking, _):
        consumer_check = ConsumerCheck(looking, told.append)
        await eventually(lambda: judged(consumer_check).queues.reason == "UnsafeQueue", "not named")
        for word in (INBOX, "policy 'all'", "message-ttl 7", "set_policy"):
            assert word in told[0].message
        looks = len(_Management.looks)
        await eventually(lambda: len(_Management.looks) > looks + 5, "not looked at again")
        assert _Management.queue_looks == 1
        assert [notice.reason for notice in told] == ["UnsafeQueue"]
        monkeypatch.setattr(consumer_scan, "QUEUES_EVERY", 0.0)
    _Management.queues = {}
    async with running(BROKER) as (looking, _):
        consumer_check._scan = looking
        await eventually(lambda: judged(consumer_check).queues.ok, "not safe")
        assert [notice.reason for notice in told] == ["UnsafeQueue", "QueuesSafe"]


@pytest.mark.parametrize(("again", "told"), [(60.0, frozenset()), (0.0, frozenset({"n2"}))])
async def test_a_queue_that_lacks_a_member_is_told_when_it_is_seen_twice(
    monkeypatch: pytest.MonkeyPatch, again: float, told: frozenset[str]
) -> None:
    """A node that starts has the members of some queues before those of others."""
    monkeypatch.setattr(consumer_scan, "QUEUES_EVERY", 60.0)
    monkeypatch.setattr(consumer_scan, "SECOND_LOOK", again)
    nodes = frozenset({"n1", "n2"})
    _Management.queues = {
        JOURNAL: QueueFacts(name=JOURNAL, members=nodes, online=nodes),
        INBOX: QueueFacts(name=INBOX, members=nodes, online=frozenset({"n1"})),
    }
    async with running(BROKER) as (looking, _):

        def absent() -> frozenset[str]:
            seen = looking.latest(BROKER)
            return seen.queues.queues[INBOX].absent if seen is not None else frozenset({"nothing is seen"})

        await eventually(lambda: absent() == told, lambda: f"{absent()}", every=0.01)
        assert (_Management.queue_looks > 1) == bool(told)


async def test_what_a_source_is_held_against_it_only_by_its_own_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "ASK_EVERY", 0.001)
    expires = QueueFacts(name="orders", policy="all", definition={"expires": 60_000})

    async def asked() -> QueueFacts | None:
        return await ConsumerScan(list, on_news=lambda _: None).queue(BROKER, "orders", journal=JOURNAL, session="s")

    assert await asked() is None
    _Management.queues = {"orders": expires}
    assert await asked() is None  # of another broker
    _Management.answer = OURS
    assert await asked() == expires
    _Management.queues = fine = {"orders": QueueFacts(name="orders")}
    _Management.answer = {}
    assert await asked() == fine["orders"]


async def test_a_policy_that_is_known_by_its_name_only_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "ASK_EVERY", 0.001)
    expires = QueueFacts(name="orders", policy="all", definition={"expires": 60_000})
    answers = [QueueFacts(name="orders", settled=False), QueueFacts(name="orders"), expires]

    async def named(self: _Management, name: str) -> bool:
        return True

    async def queue(self: _Management, name: str) -> QueueFacts | None:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(_Management, "has_policy", named)
    monkeypatch.setattr(_Management, "queue", queue)
    _Management.answer = OURS
    looking = ConsumerScan(list, on_news=lambda _: None)
    assert await looking.queue(BROKER, "orders", journal=JOURNAL, session="s") == expires
