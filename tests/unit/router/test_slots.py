"""Each plain client's queue has the order of the source, whatever slots wait for their place meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from partymq.core.clients import ClientKind, members_of
from partymq.core.ledger import empty, list_backlogs
from partymq.core.pinning import bind, leave, ready
from partymq.router.clients.slots import Slots
from partymq.router.clients.waiting_line import WaitingLine
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Member
from partymq.router.publish.outlet import UNLIMITED, Sink
from unit.router.doubles import FakeJournal, FakeWay


class Stage:
    """Two plain clients of a group with four partitions; the journal answers when it is told to."""

    def __init__(self) -> None:
        ledger = empty(4)
        for name in ("one", "two"):
            ledger = ready(bind(ledger, name=name, kind=ClientKind.PLAIN), name=name)
        self.journal = FakeJournal(ledger)
        self.answers = self.journal.answers
        self.answers.clear()
        self._ways: dict[str, FakeWay] = {}
        self.waiting_line = WaitingLine()
        self.members: dict[str, Member] = {}
        table = LaneTable(1)
        self.lanes = table.lanes
        self.slots = Slots(table, self.journal, waiting_line=self.waiting_line, client=self.client)

    def client(self, name: str) -> Member:
        if name not in self.members:
            self._ways[name] = FakeWay()
            self.members[name] = Member(name, Sink(self._ways[name], b"", UNLIMITED), UNLIMITED)
            self.waiting_line.cover(self.members[name].sink)
        return self.members[name]

    def arrive(self, slot: int, tag: int) -> None:
        """What the source does."""
        lane = self.slots[slot]
        sink = lane.sink
        if sink is not None and sink.left > 0:
            sink.left -= 1
            sink.outlet.arrival(sink, b"", b"", tag)
        else:
            lane.park(tag, b"", b"")

    def has(self, name: str) -> list[int]:
        return self._ways[self.client(name).name].tags

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.slots.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def _in_order(queues: Iterable[list[int]]) -> bool:
    return all(queue == sorted(queue) for queue in queues)


async def test_nothing_overtakes_what_waits_for_its_place() -> None:
    stage = Stage()
    async with stage.running():
        stage.answers.set()
        for tag, slot in enumerate((0, 1)):
            stage.arrive(slot, tag)
        await _turns()
        stage.answers.clear()
        for tag, slot in enumerate((0, 2, 0, 1, 3, 2, 1), 2):
            stage.arrive(slot, tag)
        await _turns()
        assert len(stage.has("one") + stage.has("two")) == 3, "all that came after the new one waits"
        stage.answers.set()
        await _turns()
        assert sorted(stage.has("one") + stage.has("two")) == list(range(9))
        assert _in_order((stage.has("one"), stage.has("two")))
        assert sum(stage.client(name).sink.unconfirmed for name in ("one", "two")) == 9
        for tag, slot in enumerate((0, 1, 2), 9):
            stage.arrive(slot, tag)
        assert len(stage.has("one") + stage.has("two")) == 12, "nothing waits any more"


async def test_new_ones_that_come_while_others_are_written_do_not_stop_those() -> None:
    stage = Stage()
    async with stage.running():
        stage.arrive(0, 0)
        await _turns()  # it is being written
        stage.arrive(1, 1)
        stage.arrive(0, 2)
        stage.answers.set()
        await _turns()
        assert sorted(stage.has("one") + stage.has("two")) == [0, 1, 2]
        assert _in_order((stage.has("one"), stage.has("two")))


async def test_a_slot_whose_partition_is_somebody_elses_meanwhile_keeps_its_keys_order() -> None:
    stage = Stage()
    async with stage.running():
        stage.arrive(5, 0)
        stage.arrive(0, 1)
        stage.arrive(5, 2)
        stage.journal.ledger = list_backlogs(stage.journal.ledger, [1])
        stage.slots.sync(stage.journal.ledger)
        stage.answers.set()
        await _turns()
        stage.arrive(5, 3)
        assert [tag for tag, _, _ in stage.lanes[1].parked] == [0, 2, 3]
        assert sorted(stage.has("one") + stage.has("two")) == [1]


async def test_what_stands_in_line_for_a_client_that_leaves_is_sent_to_it_first() -> None:
    stage = Stage()
    async with stage.running():
        stage.answers.set()
        stage.arrive(0, 0)
        await _turns()
        (owner,) = (name for name in ("one", "two") if stage.has(name))
        stage.answers.clear()
        stage.arrive(1, 1)
        stage.arrive(0, 2)
        pinned = stage.journal.ledger.pins[owner]
        assert list(members_of(pinned)) == [0]
        stage.slots.take(pinned)
        stage.waiting_line.uncover(stage.client(owner).sink)
        assert stage.has(owner) == [0, 2]
        stage.arrive(0, 3)
        stage.journal.ledger = leave(stage.journal.ledger, [owner])
        stage.slots.give_up(pinned)
        stage.answers.set()
        await _turns()
        (other,) = {"one", "two"} - {owner}
        assert stage.has(other) == [1, 3]


async def test_what_takes_too_long_is_overtaken_by_other_keys_only() -> None:
    stage = Stage()
    async with stage.running():
        stage.answers.set()
        for slot in (0, 1):
            stage.arrive(slot, slot)
        await _turns()
        stage.answers.clear()
        stage.arrive(2, 2)
        stage.arrive(0, 3)
        stage.waiting_line.disperse()
        stage.arrive(2, 4)
        stage.arrive(1, 5)
        assert sorted(stage.has("one") + stage.has("two")) == [0, 1, 3, 5]
        stage.answers.set()
        await _turns()
        queues = stage.has("one"), stage.has("two")
        assert sorted(queues[0] + queues[1]) == list(range(6))
        assert any([tag for tag in queue if tag in (2, 4)] == [2, 4] for queue in queues)


async def test_what_the_source_takes_back_is_not_sent() -> None:
    stage = Stage()
    async with stage.running():
        stage.answers.set()
        stage.arrive(0, 0)
        await _turns()
        stage.answers.clear()
        stage.arrive(1, 1)
        stage.arrive(0, 2)
        stage.waiting_line.drop_arrivals()
        stage.answers.set()
        await _turns()
        assert stage.has("one") + stage.has("two") == [0]
        assert sum(stage.client(name).sink.unconfirmed for name in ("one", "two")) == 1
        stage.arrive(1, 3)
        assert sorted(stage.has("one") + stage.has("two")) == [0, 3]
