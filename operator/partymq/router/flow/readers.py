"""The readers of segments that a session has open, for whoever gives out what they read.

Invariant: a segment has one reader at a time. Another one is opened only when nobody is counted any more who has read
it, and one that was begun is never forgotten half open: it would go on taking every second message.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from partymq.router.broker.settling import await_unread
from partymq.router.context import Context
from partymq.router.flow.segments import Segment, SegmentReader, Stray

READERS = 1000
"""Segments read at the same time; each needs a channel, of which a connection has 2047."""
OTHERS = 8
"""Channels that readers leave to the journal, the outlets, the source and takeovers, where the broker allows few."""

OnHeavy = Callable[[SegmentReader], None]


class Readers:
    """All of them, by queue."""

    def __init__(self, context: Context, on_stray: Stray) -> None:
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._names = context.names
        self._on_stray = on_stray
        self._open: dict[str, SegmentReader] = {}
        self._opening: dict[str, asyncio.Task[SegmentReader]] = {}
        self._awaited: set[str] = set()
        """Of these, the ones whose last reader may not be gone yet."""
        self._aside: set[str] = set()
        """Backlogs that are read over a connection of their own."""
        self.room = asyncio.Semaphore(max(1, min(READERS, self._link.channel_max - OTHERS)))
        """Held by whoever needs a reader, for as long as that is."""
        self._released = 0
        self._taken = Counter[str]()
        """By backlog, of those readers that are closed."""

    # --- figures

    @property
    def released(self) -> int:
        """Messages that were given from segments to their owners."""
        return self._released + sum(reader.released for reader in self._open.values())

    @property
    def released_from_backlogs(self) -> int:
        """Of these, the ones that stood in a backlog, and fences there, which polls had counted as messages."""
        return self._taken.total() + sum(reader.taken for reader in self._open.values() if not reader.whole)

    def taken_from(self, backlog: str) -> int:
        """The same for one backlog."""
        reader = self._open.get(backlog)
        return self._taken[backlog] + (reader.taken if reader is not None else 0)

    # --- reading

    async def get(self, segment: Segment, *, on_heavy: OnHeavy | None = None) -> SegmentReader:
        """The segment's reader; opens it where there is none."""
        queue = segment.queue
        if (reader := self._open.get(queue)) is not None:
            return reader
        opening = self._opening.get(queue)
        if opening is None:
            self._awaited.add(queue)
            opening = self._opening[queue] = asyncio.create_task(self._read(segment, on_heavy))
            opening.add_done_callback(partial(self._opened, queue))
        # A release that is stopped here, however often, leaves the reader to the next one.
        return await asyncio.shield(opening)

    async def unread(self, queue: str) -> None:
        """Returns when the segment's leader has said that nobody reads it.

        The broker says that a channel is closed before the queue takes back what that held; until it does, another
        reader is given what stands behind. And while the leader does not answer, to read would end the connection.
        """
        await await_unread(self._topology, [queue], mark=self._publisher.mark)

    async def _read(self, segment: Segment, on_heavy: OnHeavy | None) -> SegmentReader:
        await self.unread(segment.queue)
        self._awaited.discard(segment.queue)
        return await SegmentReader.open(
            link=self._link,
            segment=segment,
            on_stray=self._on_stray,
            aside=segment.queue in self._aside,
            on_heavy=on_heavy,
        )

    def _opened(self, queue: str, opening: "asyncio.Task[SegmentReader]") -> None:
        del self._opening[queue]
        self._awaited.discard(queue)
        if not opening.cancelled() and opening.exception() is None:
            self._open[queue] = opening.result()

    async def opened(self, queue: str) -> None:
        """Returns when no reader of this segment is about to be opened."""
        if (opening := self._opening.get(queue)) is not None:
            await opening

    def read_aside(self, queue: str) -> None:
        """The next reader of this segment has a connection of its own."""
        self._aside.add(queue)

    def pump(self) -> None:
        """There is credit again: gives it to the flows in turns."""
        flows = [flow for reader in self._open.values() for flow in reader.flows if flow.pending]
        while flows:
            flows = [flow for flow in flows if flow.step() and flow.pending]
        for reader in self._open.values():
            reader.weigh()

    def hold_back(self, partition: int) -> None:
        """No reader gives out anything more of this partition."""
        for reader in self._open.values():
            reader.hold_back(partition)

    # --- closing

    async def close(self, reader: SegmentReader) -> None:
        """Gives back what the reader holds."""
        if self._open.get(reader.queue) is not reader:
            return  # another task closes it
        del self._open[reader.queue]
        self._released += reader.released
        if not reader.whole:
            self._taken[reader.queue] += reader.taken
        await reader.close()

    async def end(self, queue: str) -> None:
        """The segment is about to be deleted."""
        if (reader := self._open.get(queue)) is not None:
            await self.close(reader)

    async def cancel(self) -> None:
        """The session is over: none is opened any more."""
        for opening in self._opening.values():
            opening.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)

    async def prove_and_close(self) -> None:
        """Closes all; the acknowledgements of what was released have taken effect."""
        readers = list(self._open.values())
        await asyncio.gather(*(reader.prove() for reader in readers))
        await asyncio.gather(*(self.close(reader) for reader in readers))

    async def all_open(self) -> None:
        """Returns when none is about to be opened, without a wait for those that were not begun."""
        for queue in self._awaited:
            self._opening[queue].cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
