"""When the source is read.

Invariant: the source is read only while there is somebody to give its messages to, nobody else reads it, and the
backlogs have room; otherwise its messages stand in it, unread, and no acknowledgement timeout runs.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from partymq.amqp.topology import QueueState, Topology
from partymq.core.spec import GroupSpec
from partymq.errors import PartyMQError, SourceIsStreamError, SourceMissingError, SourceSharedError
from partymq.router.lanes import Lane
from partymq.router.link import Link
from partymq.router.pace import Pace
from partymq.router.points import Checkpoint
from partymq.router.publisher import Publisher
from partymq.router.source import KeyReader, Lanes, OnMissing, Source

RETRY = 0.02
RETRY_MAX = 0.5
"""Seconds between looks at a source that is not as it should be."""
FOREIGN_AFTER = 5.0
"""Seconds after which a consumer is somebody else's rather than the session's before us."""
STREAM = "stream"
STREAM_AGAIN = 30.0
"""Seconds after which a stream is looked at again: somebody may have put another queue in its place."""
RESUME_AT = 0.8
"""Share of the backlog's limit at which the source is read again."""
LIMIT_EVERY = 0.02
"""Seconds between looks at the backlog while the source is read: it may grow by ten thousands of messages a second."""


class Intake:
    """Opens and closes the source."""

    def __init__(
        self,
        *,
        spec: GroupSpec,
        link: Link,
        topology: Topology,
        publisher: Publisher,
        lanes: Lanes,
        hashed: int,
        parked: Callable[[], Iterable[Lane]],
        read_key: KeyReader,
        on_missing: OnMissing,
        on_oversized: Callable[[int, bytes, bytes], None],
        backlog: Callable[[], int],
        pace: Pace,
        trouble: Callable[[PartyMQError | None], None],
        checkpoint: Checkpoint,
    ) -> None:
        self._spec = spec
        self._link = link
        self._topology = topology
        self._publisher = publisher
        self._lanes = lanes
        self._hashed = hashed
        self._parked = parked
        self._read_key = read_key
        self._on_missing = on_missing
        self._on_oversized = on_oversized
        self._backlog = backlog
        self._pace = pace
        self._trouble = trouble
        self._checkpoint = checkpoint
        self._source: Source | None = None
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        pace.on_look(self._look_if_settled)
        self._settled = False
        self._members = False
        self._closed = False
        self._foreign_since: float | None = None
        self._stream_until = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._limit_seen = 0.0
        self._routed = 0
        self._base = 0
        self.ready: int | None = None
        """Messages that stand in the source; None while it does not exist."""
        self.full = False
        """True while the backlogs are at their limit."""

    @property
    def open(self) -> bool:
        """True while the source is read."""
        return self._source is not None

    @property
    def routed(self) -> int:
        """Messages that this session has taken from the source and handed on."""
        return self._routed + (self._source.routed if self._source is not None else 0)

    def returned(self, seq: int) -> bool:
        """A message of this session's came back; False when it is not the source's any more."""
        return self._source is not None and self._source.returned(seq)

    def members(self, any_member: bool) -> None:
        """Says whether there is somebody to give messages to."""
        if any_member != self._members:
            self._members = any_member
            self._wake.set()

    async def run(self) -> None:
        """Looks at the source, and opens or closes it."""
        wait = RETRY
        while True:
            before = self.ready, self.routed, self.open
            async with self._changing:
                self._settled = await self._look()
            if not self._settled or before != (self.ready, self.routed, self.open):
                self._pace.stir()
            if self._settled:
                await self._wake.wait()
            else:
                wait = min(2 * wait, RETRY_MAX)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
            if self._wake.is_set():
                wait = RETRY
            self._wake.clear()

    def _look_if_settled(self) -> None:
        if self._settled:
            self._wake.set()

    async def close(self) -> None:
        """Stops reading for good, without a repeat."""
        self._closed = True
        async with self._changing:
            await self._shut()

    @property
    def _over_limit(self) -> bool:
        limit = self._spec.backlog_limit
        return self._backlog() > (limit * RESUME_AT if self.full else limit)

    def _look_at_limit(self) -> None:
        """Called for every chunk that was read."""
        now = self._loop.time()
        if now >= self._limit_seen + LIMIT_EVERY:
            self._limit_seen = now
            if not self.full and self._over_limit:
                self._wake.set()

    async def _look(self) -> bool:
        self.full = self._over_limit
        if self.full:
            await self._shut()  # before anything that takes a moment
        state = await self._pace.poll(self._spec.source_queue)
        self.ready = None if state is None else state.ready
        trouble = self._problem(state)
        self._trouble(trouble)
        usable = trouble is None and state is not None and self._members and not self._spec.paused and not self.full
        if self._closed or not usable:
            await self._shut()
            doubtful = trouble is not None or self._foreign_since is not None or self.full  # as time goes on it changes
            return not doubtful and (self._spec.paused or not self._members)
        if self._source is not None:
            return True
        if state is not None and state.consumers:
            return False  # the session before us has not been settled, or somebody else's consumer: time tells
        self._source = source = Source(
            link=self._link,
            publisher=self._publisher,
            lanes=self._lanes,
            hashed=self._hashed,
            parked=self._parked,
            read_key=self._read_key,
            on_missing=self._on_missing,
            on_oversized=self._on_oversized,
            base=self._base,
            checkpoint=self._checkpoint,
        )
        await source.open(self._spec.source_queue)
        self._link.on_chunk(self._look_at_limit)
        if not await self._consumers() and await self._is_stream():
            self._stream_until = self._loop.time() + STREAM_AGAIN
            await self._shut()
            return False
        return True

    async def _is_stream(self) -> bool:
        """Whether a queue that does not count its consumer is a stream; that it does not, is how streams are noticed.

        Asked only then: the broker logs the question as an error. Who may not ask is told so by the missing count.
        """
        return await self._topology.queue_type(self._spec.source_queue) in (STREAM, None)

    async def _shut(self) -> None:
        if self._source is not None:
            source = self._source
            self._link.off_chunk(self._look_at_limit)
            await source.close(self._consumers)
            self._source = None
            self._routed += source.routed
            self._base = source.end

    async def _consumers(self) -> int:
        state = await self._topology.poll(self._spec.source_queue)
        return 0 if state is None else state.consumers

    def _problem(self, state: QueueState | None) -> PartyMQError | None:
        queue = self._spec.source_queue
        if state is None:
            return SourceMissingError(
                f"the source queue {queue!r} does not exist: declare it, or mend spec.source.queue; "
                "routing starts as soon as it is there"
            )
        others = state.consumers - (1 if self._source is not None else 0)
        now = self._loop.time()
        if now < self._stream_until:
            return SourceIsStreamError(
                f"the source queue {queue!r} is a stream: acknowledging takes nothing out of it, so its messages "
                "cannot be handed on once and for all. Name a classic or a quorum queue in spec.source.queue"
            )
        if others <= 0:
            self._foreign_since = None
            return None
        if self._foreign_since is None:
            self._foreign_since = now
        if self._source is None and now - self._foreign_since < FOREIGN_AFTER:
            return None
        return SourceSharedError(
            f"the source queue {queue!r} has {others} other consumer{'s' if others > 1 else ''}: they would take "
            "messages out of the order; stop them, and routing starts by itself. The condition ConsumersSafe names "
            "them where the management API can be asked"
        )
