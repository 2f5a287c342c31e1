"""A graceful stop gives back nothing that a handoff holds; a transfer that is refused stops nobody else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from partymq.amqp.frames import plain_header
from partymq.amqp.rewrite import passable
from partymq.amqp.stamp import Stamper, read_fence
from partymq.amqp.topology import QueueState
from partymq.core.ledger import Handoff, Ledger, Partition, Phase, empty
from partymq.core.names import Names
from partymq.core.spec import GroupId
from partymq.errors import LimitReachedError
from partymq.router import handoff, insist
from partymq.router.handoff import Handoffs
from partymq.router.lanes import Lane, Member
from partymq.router.outlet import Sink
from partymq.router.points import Point
from partymq.router.troubles import Troubles
from support.conditions import eventually


class Inbox:
    """The donor's inbox, and the channel of its takeover; fences come back once no client holds anything."""

    number = 1

    def __init__(self, messages: Iterable[bytes]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held: dict[int, bytes] = {}
        self.returned: list[bytes] = []
        self.attached = False
        self.quiet = False
        """True when no client holds anything."""
        self._messages = list(messages)
        self._tag = 0
        self._deliver: Callable[[int, bytes, bytes, bytes], None] = lambda *_: None
        self._confirm: Callable[[int, bool], None] = lambda *_: None

    def confirm(self, on_confirm: Callable[[int, bool], None], _on_nack: object) -> None:
        self._confirm = on_confirm

    async def consume(self, _queue: str, deliver: Callable[[int, bytes, bytes, bytes], None], **_: object) -> None:
        self._deliver = deliver
        self.attached = True
        for header in self._messages:
            self._give(header)

    def _give(self, header: bytes) -> None:
        self._tag += 1
        self.held[self._tag] = header
        self._deliver(self._tag, b"", header, b"")

    def publish(self, _frame: bytes, header: bytes, _body: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._confirm, 0, False)
        if self.quiet:
            loop.call_soon(self._give, header)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        for one in [one for one in self.held if one == tag or (multiple and one < tag)]:
            del self.held[one]

    async def close(self) -> None:
        self.returned = [header for header in self.held.values() if read_fence(header) is None]
        self.closed.set_result(None)


class Stage:
    """A handoff of `a`, which owns the only partition, to `b`."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        self.inbox = Inbox(messages)
        self.refusals = 0
        self.settled = asyncio.Event()
        """Set when no client that was lost with its node holds anything."""
        """How often the broker refuses the transfer from now on."""
        self.points: list[Point] = []
        self.copied: list[bytes] = []
        owned = replace(empty(1), partitions=(Partition(owner="a"),), members=frozenset({"a", "b"}), epoch=1)
        self.journal = SimpleNamespace(ledger=owned, write=self._write, new_id=lambda: "1.1")
        self.donor = _member("a")
        self.inboxes = SimpleNamespace(members={"a": self.donor}, wake=lambda _: None)
        self.link = SimpleNamespace(
            makes_zombies=False,
            channel_in_turn=self._channel,
            cancelled=lambda _: None,
            after_chunk=lambda hook: hook(),
        )
        lost_nodes = SimpleNamespace(quiet=self.settled.wait)
        self.handoffs = Handoffs(
            link=cast(Any, self.link),
            topology=cast(
                Any,
                SimpleNamespace(poll=_poll, declare_quorum=self._declare, purge=_done, lost_nodes=lost_nodes),
            ),
            publisher=cast(Any, SimpleNamespace(settled=_done, sink=self._sink)),
            journal=cast(Any, self.journal),
            names=Names(GroupId(namespace="shop", name="orders")),
            inboxes=cast(Any, self.inboxes),
            releaser=cast(Any, SimpleNamespace(hold=_done, holding=_holding)),
            troubles=Troubles(on_notice=lambda _: None, on_change=lambda: None),
            lanes={0: Lane(0, 1, lambda _: None)},
            present=lambda _: True,
            on_commit=lambda *_: None,
            on_end=lambda _: None,
            checkpoint=self._reached,
        )

    def _reached(self, point: Point) -> None:
        self.points.append(point)
        if point is Point.EXTRACTED:
            self.inbox.quiet = False  # the broker takes its time to prove the acknowledgements

    async def _declare(self, _: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise LimitReachedError("queue limit in vhost '/' (9) is reached")

    async def _channel(self) -> Inbox:
        return self.inbox

    def _sink(self, _queue: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(publish=lambda header, _body: self.copied.append(header))

    async def _write(self, change: Callable[[Ledger], Ledger]) -> Ledger:
        self.journal.ledger = after = change(self.journal.ledger)
        return after

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The handoff, at the moment when it waits for the donor's client."""
        task = asyncio.create_task(self.handoffs.run())
        self.handoffs.start("a", {0: "b"})
        await eventually(lambda: self.inbox.attached, "the inbox is not taken over", every=0)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


def _member(name: str) -> Member:
    return Member(name, Sink(cast(Any, None), b"", 10), 10)


async def _poll(_queue: str) -> QueueState:
    return QueueState(ready=0, consumers=1)


async def _done(*_: object) -> None:
    """Done at once."""


@asynccontextmanager
async def _holding(_lanes: object) -> AsyncIterator[None]:
    yield


HEADERS = [Stamper(0, 1).stamp(plain_header(5), seq, b"\0\0") for seq in (1, 2)]


async def _stops(stage: Stage) -> None:
    """A stop that begins before anything else happens."""
    stopping = asyncio.create_task(stage.handoffs.stop())
    await asyncio.sleep(0)
    stage.inbox.quiet = True
    await eventually(lambda: stopping.done() or Point.EXTRACTED in stage.points, "it is not extracted", every=0)
    stage.inbox.quiet = True
    await stopping


async def test_a_takeover_of_rabbitmq_4_3_waits_until_no_lost_client_holds_anything() -> None:
    stage = Stage(HEADERS)
    stage.link.makes_zombies = True
    task = asyncio.create_task(stage.handoffs.run())
    stage.handoffs.start("a", {0: "b"})
    await eventually(lambda: Point.DRAIN in stage.points, "it does not begin", every=0)
    with pytest.raises(AssertionError):
        await eventually(lambda: stage.inbox.attached, "", 0.1, every=0)
    stage.settled.set()
    await eventually(lambda: stage.inbox.attached, "the inbox is not taken over", every=0)
    task.cancel()
    await asyncio.wait({task})


async def test_a_stop_lets_a_handoff_commit_that_holds_the_inboxs_messages() -> None:
    """A client that is given them and leaves puts them behind what is newer."""
    stage = Stage(HEADERS)
    async with stage.running():
        await _stops(stage)
    assert stage.inbox.returned == []
    assert stage.copied == HEADERS
    assert stage.journal.ledger.partitions[0].owner == "b"
    assert not stage.journal.ledger.handoffs


async def test_a_stop_lets_a_handoff_commit_that_has_extracted() -> None:
    stage = Stage(HEADERS)
    async with stage.running():
        stage.inbox.quiet = True
        await eventually(lambda: Point.EXTRACTED in stage.points, "it is not extracted", every=0)
        await _stops(stage)
    assert stage.journal.ledger.partitions[0].owner == "b"
    assert not stage.journal.ledger.handoffs


async def test_a_stop_does_not_wait_for_a_donor_that_has_everything() -> None:
    stage = Stage([])
    async with stage.running():
        await asyncio.wait_for(stage.handoffs.stop(), 1.0)
    assert stage.inbox.closed.done()
    assert stage.journal.ledger.partitions[0].owner == "a"
    assert list(stage.journal.ledger.handoffs) == ["1.1"], "the next session goes on with it"


async def test_what_somebody_else_put_into_an_inbox_after_a_crash_is_not_acknowledged_with_the_copies() -> None:
    stray = plain_header(5)
    stage = Stage([*HEADERS, stray])
    handoff = Handoff(id="1.1", donor="a", targets={0: "b"}, phase=Phase.EXTRACTED, found=frozenset({0}))
    stage.journal.ledger = replace(stage.journal.ledger, handoffs={"1.1": handoff})
    stage.inbox.quiet = True
    task = asyncio.create_task(stage.handoffs.run())
    stage.handoffs.resume(handoff)
    await eventually(lambda: Point.COMMITTED in stage.points, "it does not end", every=0)
    assert stage.copied == [passable(stray)], "to `dead`, and nothing else"
    task.cancel()
    await asyncio.wait({task})


async def test_a_transfer_that_is_refused_is_tried_again_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insist, "FIRST", 0.05)
    stage = Stage(HEADERS)
    stage.refusals = 2
    async with stage.running():
        stage.inbox.quiet = True
        (progress,) = stage.handoffs.running.values()
        await eventually(lambda: "queue limit" in progress.waiting_for, "it is not named", every=0)
        await eventually(lambda: Point.EXTRACTED in stage.points, "it does not go on", every=0)
        stage.inbox.quiet = True
        await eventually(lambda: not stage.handoffs.running, "it does not end", every=0)
    assert stage.copied == HEADERS
    assert stage.journal.ledger.partitions[0].owner == "b"


async def test_a_transfer_that_is_refused_and_not_needed_holds_nothing_up() -> None:
    stage = Stage([])
    stage.refusals = 1_000_000
    async with stage.running():
        stage.inbox.quiet = True
        await eventually(lambda: not stage.handoffs.running, "it waits for the transfer", every=0)
    assert stage.journal.ledger.partitions[0].owner == "b"


async def test_a_stop_does_not_wait_for_a_transfer_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insist, "FIRST", 0.05)
    monkeypatch.setattr(handoff, "COMMITS_WITHIN", 0.1)
    stage = Stage(HEADERS)
    stage.refusals = 1_000_000
    async with stage.running():
        stage.inbox.quiet = True
        (progress,) = stage.handoffs.running.values()
        await eventually(lambda: "queue limit" in progress.waiting_for, "it is not named", every=0)
        await asyncio.wait_for(stage.handoffs.stop(), 5.0)
    assert len(stage.inbox.returned) == len(HEADERS), "what it held goes back to the inbox"
    assert list(stage.journal.ledger.handoffs) == ["1.1"], "the next session goes on with it"


async def test_a_donor_without_an_inbox_waits_for_it() -> None:
    stage = Stage([])
    mended = asyncio.Event()
    donor = stage.donor
    donor.barred = True

    async def usable(_: Member) -> None:
        await mended.wait()

    stage.inboxes.usable = usable
    task = asyncio.create_task(stage.handoffs.run())
    stage.handoffs.start("a", {0: "b"})
    (progress,) = stage.handoffs.running.values()
    await eventually(lambda: "the inbox of a" in progress.waiting_for, "it is not named", every=0)
    assert not stage.journal.ledger.handoffs
    mended.set()
    stage.inbox.quiet = True
    await eventually(lambda: not stage.handoffs.running, "it does not go on", every=0)
    task.cancel()
    await asyncio.wait({task})
    assert stage.journal.ledger.partitions[0].owner == "b"
