"""An inbox that was just deleted is declared so that every node of the broker has a member of it."""

import asyncio
from collections.abc import Mapping
from typing import Self

import pytest

from partymq.amqp.frames import Arguments
from partymq.core.ledger import admit, empty
from partymq.errors import BrokerError, ConnectionLostError
from partymq.router.broker.deletions import Deletions
from partymq.router.flow import inbox_queues
from partymq.router.flow.inbox_queues import InboxQueues
from unit.router.doubles import FakeJournal, FakeTopology, context

INBOX = "partymq.shop.orders.inbox.a"
WHOLE = {"n1": True, "n2": True}
LACKS = {"n1": True, "n2": False}


class Broker(FakeTopology):
    """What happened, with how long after the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = asyncio.get_running_loop().time()
        self.done: list[tuple[str, float]] = []
        self.nodes = WHOLE
        self.looks: list[Mapping[str, bool] | Exception] = []
        """What the management API says of members, each time."""

    def does(self, what: str) -> None:
        self.done.append((what, asyncio.get_running_loop().time() - self._begun))

    async def _declare(self, name: str, arguments: Arguments) -> None:
        self.does("declare")
        await super()._declare(name, arguments)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def members(self, queue: str) -> Mapping[str, bool]:
        if queue != INBOX:
            return self.nodes
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()

    async def delete(_: Deletions, queue: str) -> None:
        assert queue == INBOX
        made.does("delete")

    monkeypatch.setattr(Deletions, "delete", delete)
    monkeypatch.setattr(inbox_queues, "Management", lambda _: made)
    monkeypatch.setattr(inbox_queues, "ENDS_WITHIN", 0.02)
    return made


@pytest.fixture
async def queues(broker: Broker) -> InboxQueues:
    return InboxQueues(context(topology=broker, journal=FakeJournal(admit(empty(1), {"a"}))))


async def _renewed(queues: InboxQueues) -> None:
    await queues.delete("a")
    await queues.declare("a")


async def test_its_members_have_time_to_end(broker: Broker, queues: InboxQueues) -> None:
    broker.looks = [WHOLE]
    await _renewed(queues)
    (_, deleted), (what, declared) = broker.done
    assert what == "declare"
    assert declared >= deleted + 0.02


async def test_one_that_lacks_a_member_is_declared_once_more_after_a_longer_pause(
    broker: Broker, queues: InboxQueues
) -> None:
    broker.looks = [LACKS, WHOLE]
    await _renewed(queues)
    assert [what for what, _ in broker.done] == ["delete", "declare", "delete", "declare"]
    assert broker.done[3][1] >= broker.done[2][1] + 0.04


async def test_it_is_not_tried_for_ever(broker: Broker, queues: InboxQueues) -> None:
    broker.looks = [LACKS] * 10
    await _renewed(queues)
    assert [what for what, _ in broker.done] == ["delete", "declare"] * 4, "and it is there in the end"


@pytest.mark.parametrize("silent", [BrokerError("nobody tells"), ConnectionLostError("nobody answers")])
async def test_where_nobody_tells_there_is_a_pause_all_the_same(
    broker: Broker, queues: InboxQueues, silent: BrokerError
) -> None:
    broker.looks = [silent]
    await _renewed(queues)
    assert broker.done[1][1] >= broker.done[0][1] + 0.02


async def test_a_broker_of_one_node_needs_none(
    broker: Broker, queues: InboxQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_queues, "ENDS_WITHIN", 60.0)
    broker.nodes = {"n1": True}
    await _renewed(queues)
    assert [what for what, _ in broker.done] == ["delete", "declare"]


async def test_one_that_was_not_deleted_is_not_looked_at(broker: Broker, queues: InboxQueues) -> None:
    await queues.declare("a")
    assert [what for what, _ in broker.done] == ["declare"]
