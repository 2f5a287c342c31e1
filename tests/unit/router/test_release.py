"""What a handoff may interrupt: a release that is about to read a segment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.topology import QueueState, Silence
from partymq.core.ledger import empty
from partymq.errors import BrokerError
from partymq.router.flow import release
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Lane, Mode
from partymq.router.flow.segments import Segment
from support.conditions import eventually
from unit.router.doubles import (
    FakeChannel,
    FakeJournal,
    FakeLink,
    FakePublisher,
    FakeTopology,
    context,
    make_member,
    make_releaser,
)

T = TypeVar("T")
BACKLOG = Segment(queue="backlog", partitions={0}, prefetch=1)


class SlowChannel(FakeChannel):
    """A channel whose consume takes its time, and whose fences never come back."""

    def __init__(self, link: FakeLink, number: int, may_consume: asyncio.Event) -> None:
        super().__init__(link, number)
        self.consuming = False
        self._may_consume = may_consume

    async def consumed(self) -> None:
        self.consuming = True
        await self._may_consume.wait()

    async def close(self) -> None:
        self.consuming = False


class Link(FakeLink):
    """Keeps the channels that it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: list[SlowChannel] = []
        self.may_consume = asyncio.Event()

    async def channel(self) -> SlowChannel:
        self.channels.append(SlowChannel(self, len(self.channels) + 1, self.may_consume))
        return self.channels[-1]


class Topology(FakeTopology):
    """Every queue has so many consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.consumers = 0
        self.polls = 0
        self.silent = False

    async def poll(self, queue: str) -> QueueState | Silence:
        self.polls += 1
        if self.silent:
            return Silence.LATE
        return QueueState(ready=0, consumers=self.consumers)


class Stage:
    """A releaser of one partition, which has a transfer."""

    def __init__(self, topology: FakeTopology | None = None) -> None:
        self.link = Link()
        self.channels, self.may_consume = self.link.channels, self.link.may_consume
        self.topology = Topology()
        self.requested: list[Lane] = []
        self.table = LaneTable(1)
        self.table.waits.connect(self.requested.append)
        self.table.inboxes["a"] = make_member("a")
        partition = replace(empty(1).partitions[0], owner="a", transfers=("1.1",))
        self.journal = FakeJournal(replace(empty(1), partitions=(partition,)))
        self.publisher = FakePublisher()
        self.table.follow(self.journal.ledger)
        self.lane = self.table.lanes[0]
        self.releaser = make_releaser(
            context(
                link=self.link,
                topology=topology or self.topology,
                publisher=self.publisher,
                journal=self.journal,
            ),
            self.table,
        )
        self.readers = self.releaser.readers

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
        await eventually(lambda: any(channel.published for channel in stage.channels), "no fence is sent")
        assert [channel.number for channel in stage.channels if channel.consuming] == [1]


async def test_a_segment_is_not_read_again_while_its_last_reader_may_hold_messages() -> None:
    stage = Stage()
    stage.may_consume.set()
    await stage.readers.close(await stage.readers.get(BACKLOG))
    stage.topology.polls = 0
    stage.topology.consumers = 1  # the broker has said that the channel is closed, the queue has not heard of it yet
    again = asyncio.create_task(stage.readers.get(BACKLOG))
    await eventually(lambda: stage.topology.polls > 1, "nobody looks whether the last reader has gone")
    assert len(stage.channels) == 1
    stage.topology.consumers = 0
    await again
    assert [channel.consuming for channel in stage.channels] == [False, True]


async def test_a_release_stopped_while_it_waits_for_the_last_reader_of_a_segment_can_go_on() -> None:
    stage = Stage()
    stage.may_consume.set()
    await stage.readers.close(await stage.readers.get(BACKLOG))
    stage.topology.polls = 0
    stage.topology.consumers = 1
    stopped = asyncio.create_task(stage.readers.get(BACKLOG))
    await eventually(lambda: stage.topology.polls > 0, "nobody looks whether the last reader has gone")
    stopped.cancel()
    await asyncio.wait({stopped})
    polls, again = stage.topology.polls, asyncio.create_task(stage.readers.get(BACKLOG))
    await eventually(lambda: stage.topology.polls > polls, "the next release does not wait for it")
    stage.topology.consumers = 0
    await again
    assert [channel.consuming for channel in stage.channels] == [False, True]


async def test_a_segment_is_not_read_while_its_leader_does_not_answer() -> None:
    """RabbitMQ would end the connection over it, and with that the session."""
    stage = Stage()
    stage.may_consume.set()
    stage.topology.silent = True
    reading = asyncio.create_task(stage.readers.get(BACKLOG))
    await eventually(lambda: stage.topology.polls > 1, "nobody asks whether it answers")
    assert stage.publisher.marked == ["backlog"], "a fence that its leader has confirmed has it counted"
    assert not stage.channels
    stage.topology.silent = False
    await reading
    assert [channel.consuming for channel in stage.channels] == [True]


async def test_a_session_that_stops_does_not_wait_for_a_leader_that_does_not_answer() -> None:
    stage = Stage()
    stage.topology.silent = True
    reading = asyncio.create_task(stage.readers.get(BACKLOG))
    await eventually(lambda: stage.topology.polls > 1, "nobody asks whether it answers")
    reading.cancel()
    await stage.readers.all_open()
    assert not stage.channels


async def test_a_release_that_ends_as_its_owner_becomes_a_donor_lets_arrivals_wait() -> None:
    stage = Stage()
    stage.lane.park(1, b"", b"")
    assert stage.lane.owner is not None
    stage.table.begin_drain(stage.lane.owner)
    stage.requested.clear()
    stage.table.go_direct(stage.lane)
    assert stage.lane.mode is Mode.WAITING
    assert stage.requested == [stage.lane]


async def test_what_a_held_partition_has_parked_goes_to_its_backlog() -> None:
    stage = Stage()
    stage.table.switch(stage.lane)
    stage.lane.park(1, b"", b"")
    await stage.releaser.hold([stage.lane])
    assert stage.requested == [stage.lane]


async def test_a_transfer_that_cannot_be_deleted_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ answers 541 while the node of its leader is frozen: the session is not concerned."""
    monkeypatch.setattr(release, "TIDY_EVERY", 0.01)
    asked: list[str] = []

    class Frozen(FakeTopology):
        async def errand(self, thing: str, work: Callable[[Channel], Awaitable[T]], *, tries: int | None = None) -> T:
            asked.append(thing)
            if "1.2" in thing and len(asked) < 4:
                raise BrokerError(f"The broker fails over {thing}: 541, in {tries} try.")
            return await work(FakeChannel())

    stage = Stage(Frozen())
    stage.journal.ledger = replace(empty(1), garbage=frozenset({"1.1", "1.2"}))
    async with stage.running():
        await eventually(lambda: not stage.journal.ledger.garbage, "a transfer is left")
    assert [thing.count("1.2") for thing in asked] == [0, 1, 1, 1]
