"""What plain clients have no room for, once it is much: each has a segment of its own for it, its overflow.

Invariant: no message enters an overflow before a journaled ledger names it. While there is one, all that comes for its
client goes to its end, and is given to the client out of it, in order; arrivals go straight to the client's queue again
only when the overflow is proven empty while they were parked. When a client leaves, its overflow is a transfer
(`core.pinning`).

So a client that is full costs nobody else: without that, what waits for it would stay unacknowledged in the source,
which delivers no more than 2000 messages. A client's queue that was full is filled one message at a time
(`publish.refusing_queue`).
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from partymq.amqp.topology import QueueState
from partymq.core.ledger import LedgerError
from partymq.core.names import SPREAD
from partymq.core.pinning import overflow, subside
from partymq.errors import BrokerError
from partymq.router.broker.retry import insist
from partymq.router.context import Context
from partymq.router.failpoints import Point
from partymq.router.flow.keyless import Keyless
from partymq.router.flow.readers import Readers
from partymq.router.flow.segment_flow import Flow
from partymq.router.flow.segments import Segment, SegmentReader
from partymq.router.publish.outlet import UNLIMITED, Sink
from partymq.router.publish.refusing_queue import RefusingQueue

PREFETCH: Final = 16
"""The client is given one at a time: more would only take memory."""
NEAR: Final = 8
"""Messages that came in during a fence's round trip, below which the end counts as close."""
SWITCH_WITHIN: Final = 0.5
"""Seconds for which arrivals are parked at most while the rest is given out: they are in memory."""


class Overflow:
    """One client's."""

    def __init__(self, client: str, line: RefusingQueue, overflow_id: str) -> None:
        """`overflow_id` is empty where the ledger does not name one yet."""
        self.client = client
        self.line = line
        self.overflow_id = overflow_id
        self.fresh = not overflow_id
        """Of this session."""
        self.task: asyncio.Task[None] | None = None
        self.sink: Sink | None = None
        """The way into it, once it is used."""
        self.opening: asyncio.Task[SegmentReader] | None = None
        """Never given up half way: a reader that nobody knows of would go on taking messages."""
        self.reader: SegmentReader | None = None
        self.found = 0
        """Messages that stood in it before."""

    @property
    def waiting(self) -> int:
        """Messages that stand in it, as far as is known."""
        entered = UNLIMITED - self.sink.left if self.sink is not None else 0
        return max(0, self.found + entered - (self.reader.taken if self.reader is not None else 0))


class Overflows:
    """All of a session."""

    def __init__(self, context: Context, *, keyless: Keyless, readers: Readers) -> None:
        """`readers` read what is a transfer once its client has left."""
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._journal = context.journal
        self._names = context.names
        self._troubles = context.troubles
        self._reached = context.checkpoint
        self._keyless = keyless
        self._readers = readers
        self._new: asyncio.Queue[Overflow] = asyncio.Queue()
        self._running: dict[str, Overflow] = {}
        self._leaving: frozenset[str] = frozenset()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Messages that wait in all of them."""
        return sum(each.waiting for each in self._running.values())

    def of(self, client: str) -> bool:
        """Whether this client has one."""
        return client in self._running

    def begin(self, client: str, line: RefusingQueue) -> None:
        """Much waits for a client: from soon on it waits elsewhere."""
        if client not in self._running and client not in self._leaving and not self._stopping:
            self._running[client] = one = Overflow(client, line, "")
            self._new.put_nowait(one)

    def resume(self, client: str, line: RefusingQueue) -> None:
        """The ledger names one, of an earlier session: arrivals wait until it can be appended to."""
        line.park()
        self._running[client] = one = Overflow(client, line, self._journal.ledger.overflows[client])
        self._new.put_nowait(one)

    async def run(self) -> None:
        """Owns the tasks of all."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    one = await self._new.get()
                    if self._running.get(one.client) is one:
                        one.task = tasks.create_task(self._run(one), name=f"overflow of {one.client}")
        finally:
            openings = [one.opening for one in self._running.values() if one.opening is not None]
            for opening in openings:
                opening.cancel()
            await asyncio.gather(*openings, return_exceptions=True)

    @contextmanager
    def none_for(self, clients: Collection[str]) -> Iterator[None]:
        """While these clients leave: what their queues still refuse begins none."""
        before = self._leaving
        self._leaving = before.union(clients)
        try:
            yield
        finally:
            self._leaving = before

    async def leave(self, client: str) -> None:
        """The client is about to leave: nothing more enters its overflow or comes out of it; its line is paused.

        On return all that was sent there is there, and all that was given out is acknowledged.
        """
        one = self._running.pop(client, None)
        if one is None:
            return
        await self._end(one)
        if one.fresh and one.sink is None:  # it is empty, and may not even exist
            await self._journal.write(partial(subside, name=client))
        self._troubles.over(self._names.transfer(one.overflow_id))

    async def close(self) -> None:
        """Stops without a repeat; the lines are paused."""
        self._stopping = True
        await asyncio.gather(*(self._end(one) for one in self._running.values()))

    async def _end(self, one: Overflow) -> None:
        one.line.park()
        if one.task is not None:
            one.task.cancel()
            await asyncio.gather(one.task, return_exceptions=True)
        reader = await one.opening if one.opening is not None else None
        if reader is not None:
            reader.hold_back(SPREAD)
        await self._publisher.until(lambda: not one.line.under_way)
        if one.sink is not None:
            await self._publisher.settled(one.sink)
        if reader is not None and not reader.closed:
            await reader.prove()
            await reader.close()

    async def _run(self, one: Overflow) -> None:
        if not one.overflow_id:
            overflow_id = self._journal.new_id()
            try:
                await self._journal.write(partial(overflow, name=one.client, overflow_id=overflow_id))
            except LedgerError:  # it has just left
                self._running.pop(one.client, None)
                return
            one.overflow_id = overflow_id
            self._reached(Point.OVERFLOWS)
        queue = self._names.transfer(one.overflow_id)
        await insist(lambda: self._topology.declare_segment(queue), refused=partial(self._refused, one, queue))
        self._troubles.over(queue)
        await self._readers.unread(queue)
        if isinstance(state := await self._topology.poll(queue), QueueState):
            one.found = state.ready
        segment = Segment(
            queue=queue,
            partitions=range(SPREAD, len(self._journal.ledger.partitions)),
            prefetch=PREFETCH,
            one_line=True,
        )
        one.opening = asyncio.create_task(
            SegmentReader.open(link=self._link, segment=segment, on_stray=self._keyless.bury)
        )
        reader = one.reader = await asyncio.shield(one.opening)
        flow = reader.flow(SPREAD)
        await self._divert(one, queue, flow)
        await self._empty(one, reader, flow)
        one.line.rejoin()
        self._reached(Point.REJOINED)
        await reader.close()
        await self._journal.write(partial(subside, name=one.client))
        self._running.pop(one.client, None)
        self._publisher.refusing_changed.emit(one.line)  # it may be full again by now

    def _refused(self, one: Overflow, queue: str, error: BrokerError) -> None:
        effect = f"What {one.client} has no room for waits in the source: others stop once that is 2000 messages"
        self._troubles.refused(queue, error, effect=effect)

    async def _divert(self, one: Overflow, queue: str, flow: Flow) -> None:
        """Leads all that comes for the client through its overflow; first what its queue has refused until now."""
        line = one.line
        line.pause()
        while line.under_way:
            await self._publisher.until(lambda: not line.under_way)
        one.sink = self._publisher.sink(queue)
        line.divert(one.sink, flow, on_room=flow.pump)
        flow.give_to(lambda: line.sink if line.has_room else None)
        line.go_on()
        flow.pump()
        self._reached(Point.DIVERTED)

    async def _empty(self, one: Overflow, reader: SegmentReader, flow: Flow) -> None:
        """Returns with the overflow proven empty and the arrivals parked."""
        assert one.sink is not None
        while True:
            await reader.approach(flow, near=NEAR)
            if flow.staying:  # never empty: what comes goes through it, until the client leaves or the session ends
                await asyncio.get_running_loop().create_future()
            one.line.park()
            try:
                async with asyncio.timeout(SWITCH_WITHIN):
                    await self._publisher.settled(one.sink)
                    await reader.exhaust(flow)
                if not flow.staying:
                    return
            except TimeoutError:  # it is full again, or slow: the source must not wait for it
                pass
            one.line.divert(one.sink, flow, on_room=flow.pump)
