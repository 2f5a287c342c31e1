"""Who has just become the journal's active consumer finds the newest ledger, whatever stands before it."""

import asyncio

import orjson
import pytest

from partymq.amqp.connection import body_payload
from partymq.amqp.frames import body_frames
from partymq.core import codec
from partymq.core.ledger import Ledger, empty, succeed
from partymq.errors import BrokerError, TooMuchAtOnceError
from partymq.router import journal as journal_module
from partymq.router.broker.holdings import Holding, Holdings, Part
from partymq.router.journal import Journal, Standing
from partymq.router.publish.outlet import Outlet
from support.conditions import eventually
from unit.router.doubles import FakeChannel


def whole(most: int = 1 << 28) -> Part:
    return Holding(Holdings(most), "", lambda _: None).part()


class Queue:
    """The journal as one session sees it: what it publishes is kept until it is delivered."""

    def __init__(self) -> None:
        self._tag = 0
        self._channel = FakeChannel()
        self.journal = Journal(outlet=Outlet(self._channel), queue="journal", whole=whole())

    @property
    def published(self) -> list[bytes]:
        return [body_payload(body) for body in self._channel.bodies]

    def deliver(self, payload: bytes) -> None:
        self._tag += 1
        self.journal._on_delivery(self._tag, b"", b"", body_frames(payload))


def _ledger(epoch: int) -> Ledger:
    ledger = empty(2)
    for _ in range(epoch):
        ledger = succeed(ledger, writer="another")
    return ledger


async def _winning(queue: Queue) -> "asyncio.Task[Ledger | None]":
    winning = asyncio.create_task(queue.journal.win(on_standby=lambda: None))
    await eventually(lambda: bool(queue.published), "no mark is published", every=0)
    return winning


async def test_a_mark_from_the_time_of_standing_by_hides_no_newer_ledger() -> None:
    queue = Queue()
    winning = await _winning(queue)
    # The router before us wrote behind our mark, acted on it and died.
    queue.deliver(codec.encode(_ledger(3)))
    queue.deliver(queue.published[0])
    queue.deliver(codec.encode(_ledger(4)))
    await eventually(lambda: winning.done() or len(queue.published) > 1, "no mark is published once active", every=0)
    queue.deliver(queue.published[-1])
    assert await winning == _ledger(4)


async def test_a_mark_that_is_delivered_first_hides_no_ledger() -> None:
    queue = Queue()
    winning = await _winning(queue)
    queue.deliver(queue.published[0])
    queue.deliver(codec.encode(_ledger(4)))
    await eventually(lambda: winning.done() or len(queue.published) > 1, "no mark is published once active", every=0)
    queue.deliver(queue.published[-1])
    assert await winning == _ledger(4), "it is taken for a group that was never routed"


async def test_the_newest_ledger_is_not_the_one_delivered_last() -> None:
    queue = Queue()
    winning = await _winning(queue)
    # After a cancel the successor may see the newer first.
    queue.deliver(codec.encode(_ledger(4)))
    queue.deliver(codec.encode(_ledger(3)))
    queue.deliver(orjson.dumps({"mark": "0", "by": "somebody", "wants": ""}))
    await eventually(lambda: winning.done() or len(queue.published) > 1, "no mark is published once active", every=0)
    queue.deliver(queue.published[-1])
    assert await winning == _ledger(4)


async def test_a_mark_of_another_clusters_group_is_noticed_and_no_other_is() -> None:
    rivals: list[str] = []
    journal = Journal(
        outlet=Outlet(FakeChannel()),
        queue="journal",
        whole=whole(),
        standing=Standing(uid="uid-1", on_rival=rivals.append),
    )
    journal._ledger = _ledger(1)
    marks = [
        {"mark": "0", "by": "w", "wants": ""},  # an older version's
        {"mark": "1", "by": "w", "who": "operator-b", "of": "uid-1", "wants": ""},
        {"mark": "2", "by": "x", "who": "operator-c", "of": "uid-2", "wants": ""},
        {"mark": "3", "by": "y", "who": "serve", "of": "", "wants": ""},
    ]
    for tag, mark in enumerate(marks, 1):
        journal._on_delivery(tag, b"", b"", body_frames(orjson.dumps(mark)))
    assert rivals == ["operator-c", "serve"]


async def test_rubbish_in_the_journal_of_a_router_is_no_defect() -> None:
    queue = Queue()
    winning = await _winning(queue)
    ledger = _ledger(1)
    queue.deliver(queue.published[0])
    await eventually(lambda: len(queue.published) == 2, "no second mark", every=0)
    queue.deliver(codec.encode(ledger))
    queue.deliver(queue.published[1])
    assert await winning == ledger
    queue.journal._ledger = ledger
    for rubbish in (
        b'{"mark"',
        b'{"mark":1,"wants":{"a":[]},"of":5,"who":[]}',
        b'{"mark"' + b"[" * 5000,
        b"\xff" * 100,
    ):
        queue.deliver(rubbish)


async def test_a_journal_that_does_not_end_ends_the_session() -> None:
    queue = Queue()
    winning = await _winning(queue)
    for _ in range(journal_module.MOST_WAITING):
        queue.deliver(b'{"mark":"x"}')
        if queue.journal._received.qsize() > 100:
            await asyncio.sleep(0)
    with pytest.raises(BrokerError, match="no router has written"):
        queue.deliver(b'{"mark":"x"}')
    winning.cancel()
    await asyncio.gather(winning, return_exceptions=True)


async def test_a_journal_that_is_flooded_ends_the_session() -> None:
    queue = Queue()
    for _ in range(journal_module.MOST_WAITING):
        queue.deliver(b"x")
    with pytest.raises(BrokerError, match="no router has written"):
        queue.deliver(b"x")


async def test_a_journal_of_large_messages_counts_as_what_has_to_be_in_memory() -> None:
    failed: list[Exception] = []
    queue = Queue()
    queue.journal._whole = Holding(Holdings(1_000_000), "", failed.append).part()
    for _ in range(9):
        queue.deliver(bytes(100_000))
    assert not failed
    queue.deliver(bytes(100_000))
    assert isinstance(failed[0], TooMuchAtOnceError)
