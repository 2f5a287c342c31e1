"""What a handoff may interrupt: a release that is about to read a segment."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from partymq.amqp.lostnodes import LostNodes
from partymq.amqp.topology import QueueState
from partymq.core.ledger import Ledger, empty
from partymq.core.names import SPREAD, Names
from partymq.core.spec import BrokerAddress, GroupId
from partymq.errors import BrokerError
from partymq.router import release
from partymq.router.budget import Budget
from partymq.router.lanes import Lane, Member, Mode
from partymq.router.outlet import Sink
from partymq.router.pace import Pace
from partymq.router.release import Releaser
from partymq.router.routing import Routing
from support.conditions import eventually


class FakeChannel:
    """A channel whose consume takes its time."""

    def __init__(self, number: int, may_consume: asyncio.Event) -> None:
        self.number = number
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.consuming = False
        self.fences = 0
        self._may_consume = may_consume

    def confirm(self, *_: object) -> None: ...

    async def consume(self, *_: object, **__: object) -> None:
        self.consuming = True
        await self._may_consume.wait()

    def publish(self, *_: object) -> None:
        """A fence that never comes back."""
        self.fences += 1

    async def close(self) -> None:
        self.consuming = False


async def _mark(_queue: str) -> None:
    """A fence is there."""


class Stage:
    """A releaser of one partition, which has a transfer."""

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.may_consume = asyncio.Event()
        self.requested: list[Lane] = []
        self.consumers = 0
        self.polls = 0
        self.backlogs = SimpleNamespace(may_hold=lambda _: False, usable=lambda _: True, request=self.requested.append)
        self.lane = Lane(0, 1, lambda _: None)
        self.lane.owner = Member("a", Sink(cast(Any, None), b"", 10), 10)
        partition = replace(empty(1).partitions[0], owner="a", transfers=("1.1",), backlog=True)
        ledger = replace(empty(1), partitions=(partition,))
        self.releaser = Releaser(
            link=cast(
                Any,
                SimpleNamespace(
                    budget=Budget(),
                    channel=self._channel,
                    channel_in_turn=self._channel,
                    channel_max=2047,
                    cancelled=lambda _: None,
                ),
            ),
            topology=cast(Any, SimpleNamespace(poll=self._poll, lost_nodes=LostNodes(BrokerAddress(host="localhost")))),
            publisher=cast(Any, SimpleNamespace(mark=_mark)),
            journal=cast(Any, SimpleNamespace(ledger=ledger, write=_written(ledger))),
            names=Names(GroupId(namespace="shop", name="orders")),
            backlogs=cast(Any, self.backlogs),
            lanes={0: self.lane, SPREAD: Lane(SPREAD, 1, lambda _: None)},
            go_direct=lambda _: None,
            any_sink=lambda: None,
            on_stray=lambda *_: None,
            pace=Pace(cast(Any, None), queues=tuple),
            checkpoint=lambda _: None,
        )

    async def _poll(self, _queue: str) -> QueueState:
        self.polls += 1
        return QueueState(ready=0, consumers=self.consumers)

    async def _channel(self) -> FakeChannel:
        self.channels.append(FakeChannel(len(self.channels) + 1, self.may_consume))
        return self.channels[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The releaser at work."""
        task = asyncio.create_task(self.releaser.run())
        self.releaser.wake()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


def _written(ledger: Ledger) -> Callable[[object], Any]:
    async def write(_: object) -> Ledger:
        return ledger

    return write


async def test_a_release_stopped_while_it_opens_a_segment_leaves_one_reader() -> None:
    stage = Stage()
    async with stage.running():
        await eventually(lambda: bool(stage.channels) and stage.channels[0].consuming, "no segment is opened")
        # Its owner becomes a donor, while another donor's handoff has found messages of the partition.
        held = []
        for _ in range(2):
            held.append(asyncio.create_task(stage.releaser.hold([stage.lane])))
            for _ in range(5):
                await asyncio.sleep(0)
        stage.may_consume.set()
        await asyncio.gather(*held)
        stage.releaser.wake()  # the handoff is over
        await eventually(lambda: 0 in stage.releaser._tasks, "the release is not taken up again")
        await eventually(lambda: any(channel.fences for channel in stage.channels), "no fence is sent")
        assert [channel.number for channel in stage.channels if channel.consuming] == [1]


async def test_a_segment_is_not_read_again_while_its_last_reader_may_hold_messages() -> None:
    stage = Stage()
    stage.may_consume.set()
    first = await stage.releaser._reader("backlog", {0}, prefetch=1)
    assert stage.polls == 0, "nobody has read it before"
    await stage.releaser._close(first)
    stage.consumers = 1  # the broker has said that the channel is closed, the queue has not heard of it yet
    again = asyncio.create_task(stage.releaser._reader("backlog", {0}, prefetch=1))
    await eventually(lambda: stage.polls > 1, "nobody looks whether the last reader has gone")
    assert len(stage.channels) == 1
    stage.consumers = 0
    await again
    assert [channel.consuming for channel in stage.channels] == [False, True]


async def test_a_release_stopped_while_it_waits_for_the_last_reader_of_a_segment_can_go_on() -> None:
    stage = Stage()
    stage.may_consume.set()
    await stage.releaser._close(await stage.releaser._reader("backlog", {0}, prefetch=1))
    stage.consumers = 1
    stopped = asyncio.create_task(stage.releaser._reader("backlog", {0}, prefetch=1))
    await eventually(lambda: stage.polls > 0, "nobody looks whether the last reader has gone")
    stopped.cancel()
    await asyncio.wait({stopped})
    polls, again = stage.polls, asyncio.create_task(stage.releaser._reader("backlog", {0}, prefetch=1))
    await eventually(lambda: stage.polls > polls, "the next release does not wait for it")
    stage.consumers = 0
    await again
    assert [channel.consuming for channel in stage.channels] == [False, True]


async def test_a_release_that_ends_as_its_owner_becomes_a_donor_lets_arrivals_wait() -> None:
    stage = Stage()
    stage.lane.park(1, b"", b"")
    assert stage.lane.owner is not None
    stage.lane.owner.closed = True
    Routing._go_direct(cast(Any, SimpleNamespace(backlogs=stage.backlogs)), stage.lane)
    assert stage.lane.mode is Mode.WAITING
    assert stage.requested == [stage.lane]


async def test_what_a_held_partition_has_parked_goes_to_its_backlog() -> None:
    stage = Stage()
    stage.lane.mode = Mode.SWITCHING
    stage.lane.park(1, b"", b"")
    await stage.releaser.hold([stage.lane])
    assert stage.requested == [stage.lane]


async def test_a_transfer_that_cannot_be_deleted_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ answers 541 while the node of its leader is frozen: the session is not concerned."""
    monkeypatch.setattr(release, "TIDY_EVERY", 0.01)
    stage = Stage()
    ledger = replace(empty(1), garbage=frozenset({"1.1", "1.2"}))
    asked: list[str] = []

    async def errand(thing: str, *_: object, tries: int) -> int:
        asked.append(thing)
        if "1.2" in thing and len(asked) < 4:
            raise BrokerError(f"The broker fails over {thing}: 541, in {tries} try.")
        return 0

    async def write(change: Callable[[Ledger], Ledger]) -> Ledger:
        journal.ledger = change(journal.ledger)
        return cast(Ledger, journal.ledger)

    journal: Any = SimpleNamespace(ledger=ledger, write=write)
    stage.releaser._journal = journal
    stage.releaser._topology = cast(Any, SimpleNamespace(errand=errand))
    async with stage.running():
        await eventually(lambda: not journal.ledger.garbage, "a transfer is left")
    assert [thing.count("1.2") for thing in asked] == [0, 1, 1, 1]
