"""When the source is read.

Invariant: the source is read only while there is somebody to give its messages to, nobody else reads it, and the
backlogs have room; otherwise its messages stand in it, unread, and no acknowledgement timeout runs. One that the broker
deletes by itself when it is not read is not read at all.

That nobody else reads it is proven by a count of one's own: we consume first, and hand on what comes only when exactly
one consumer is counted. Zeros would prove nothing (`amqp.topology`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from partymq.amqp.topology import Look, QueueState, Silence
from partymq.errors import (
    ConnectionLostError,
    LockedQueueError,
    SourceSharedError,
    SourceTransientError,
)
from partymq.router.context import Context
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.source_count import SourceCount
from partymq.router.flow.source_kind import SourceKind, exclusive
from partymq.router.flow.source_obstacles import SourceObstacles
from partymq.router.flow.source_reader import PREFETCH, Routes, Source

RETRY = 0.02
RETRY_MAX = 0.5
"""Seconds between looks at a source that is not as it should be."""
ZERO_FOR = 0.3
"""Seconds for which a source says at once that it is empty, before it is opened to be counted: to take messages while
somebody holds older ones, and to give them back, would put them before these."""
SHOWN_FOR = 5.0
"""Seconds for which the last figure is shown while the source is silent, as an empty one is, too."""
RESUME_AT = 0.8
"""Share of the backlog's limit at which the source is read again."""
LIMIT_EVERY = 0.02
"""Seconds between looks at the backlog while the source is read: it may grow by ten thousands of messages a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatistics:
    """The source as it was looked at last, and what has come of it in this session."""

    ready: int | None
    """Messages in it; None where nobody knows."""
    routed: int
    """Messages that are in their next queues."""
    full: bool
    """Whether it is not read because backlogs have no room."""
    askable: bool
    """Whether its kind lets it be asked about."""
    stands: float
    """Seconds for which nothing has come of it, because all that may be unacknowledged is; 0.0 while something does."""


class SourceGate:
    """Opens and closes the source."""

    def __init__(
        self,
        context: Context,
        table: LaneTable,
        routes: Routes,
        *,
        kind: SourceKind,
        at_risk: str,
        backlog: Callable[[], int],
    ) -> None:
        """`at_risk` is why the source is not to be read, if it is not; `backlog` is how much waits elsewhere."""
        self._context = context
        self._table = table
        self._routes = routes
        self._spec = context.config.spec
        self._link = context.link
        self._polling = context.polling
        self._trouble = context.listener.trouble
        self.kind = kind
        self._obstacles = SourceObstacles(
            queue=self._spec.source_queue, at_risk=at_risk, lost_nodes=context.topology.lost_nodes
        )
        self._count = SourceCount(context, self._obstacles)
        self._backlog = backlog
        self._source: Source | None = None
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._polling.on_look(self._look_if_settled, queues=lambda: (self._spec.source_queue,))
        self._settled = False
        self._members = False
        self._closing = asyncio.Event()
        self._zero_since: float | None = None
        self._told = float("-inf")
        """When the source last gave an answer."""
        self._loop = asyncio.get_running_loop()
        self._limit_seen = 0.0
        self._spent_at: int | None = None
        """How many had been routed when its credit was seen to be used up."""
        self._spent_since = 0.0
        self._routed = 0
        self._base = 0
        self.ready: int | None = None
        """Messages that stand in the source; None while it does not exist."""
        self.full = False
        """True while the backlogs are at their limit."""
        self.opened = False
        """True once the source was read."""

    @property
    def statistics(self) -> SourceStatistics:
        """How it is."""
        stands = self._loop.time() - self._spent_since if self._spent_at is not None else 0.0
        return SourceStatistics(
            ready=self.ready, routed=self.routed, full=self.full, askable=self.kind.may_ask, stands=stands
        )

    @property
    def open(self) -> bool:
        """True while the source is read."""
        return self._source is not None

    @property
    def idle(self) -> bool:
        """True while the source is read and nothing that it has delivered waits to be handed on."""
        return self._source is not None and self._source.accounted

    @property
    def unsettled(self) -> int:
        """Messages that the source has delivered and that are not acknowledged."""
        return self._source.unsettled if self._source is not None else 0

    def passed(self, returning: int) -> bool:
        """Whether what came back to the source, at least so many, has been read again and is in its next queues."""
        return self._source is not None and self._source.passed(returning)

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
            self._settled = await self._look()
            if not self._settled or before != (self.ready, self.routed, self.open):
                self._polling.stir()
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
        self._closing.set()
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

    def _look_at_credit(self) -> None:
        source = self._source
        at = source.routed if source is not None and source.unsettled >= PREFETCH else None
        if at != self._spent_at:
            self._spent_at, self._spent_since = at, self._loop.time()

    async def _look(self) -> bool:
        self._look_at_credit()
        self.full = self._over_limit
        if self.full:
            async with self._changing:
                await self._shut()  # before anything that takes a moment
        state, refusal = await self._see()
        self._show(state)
        async with self._changing:
            return await self._act(state, refusal)

    def _show(self, state: Look) -> None:
        now = self._loop.time()
        if isinstance(state, QueueState):
            self._told = now
            self.ready = state.ready
        elif state is None:
            self.ready = None
        elif now - self._told > SHOWN_FOR:
            self.ready = 0

    async def _act(self, state: Look, refusal: SourceTransientError | None) -> bool:
        trouble = refusal or self._obstacles.problem(state, own=1 if self.open else 0, wanted=self._wanted)
        self._trouble(trouble)
        # Whether somebody who was counted is still there, an empty source does not tell: it has to be tried.
        usable = trouble is None or (isinstance(trouble, SourceSharedError) and isinstance(state, Silence))
        usable = usable and state is not None and self._wanted
        if self._closing.is_set() or not usable:
            await self._shut()
            doubtful = trouble is not None or self._obstacles.shared or self.full  # as time goes on it changes
            return not doubtful and (self._spec.paused or not self._members)
        if self._source is not None:
            return True
        if isinstance(state, QueueState) and state.consumers:
            return False  # the session before us has not been settled, or somebody else's consumer: time tells
        if self._loop.time() < self._count.try_at or not self._seems_empty(state):
            return False
        return await self._open()

    def _seems_empty(self, state: Look) -> bool:
        """False while the source is silent because it is busy, or has only just begun to be."""
        now = self._loop.time()
        if state is not Silence.ZERO:
            self._zero_since = None
            return state is not Silence.LATE
        self._zero_since = now if self._zero_since is None else self._zero_since
        return now - self._zero_since >= ZERO_FOR

    @property
    def _wanted(self) -> bool:
        """True while the source would be read."""
        return self._members and not self._spec.paused and not self.full

    async def _open(self) -> bool:
        source = Source(self._context, self._table, self._routes, base=self._base)
        self.opened = True
        try:
            await source.open(self._spec.source_queue)
        except ConnectionLostError as error:
            if self._link.failure is not None:
                raise
            self._trouble(error)  # a connection for it cannot be had: all else goes on
            return False
        if not await self._count.is_alone(unless=self._closing):
            await source.abandon()
            return False
        self._trouble(None)
        self._source = source
        self._link.on_chunk(self._look_at_limit)
        source.begin()
        return True

    async def _see(self) -> tuple[Look, SourceTransientError | None]:
        """The source's state, and why it is not to be read although it is there."""
        queue = self._spec.source_queue
        try:
            state = await self._polling.poll(queue)
        except LockedQueueError:
            return None, exclusive(queue)
        if state is None:
            self.kind.forget()
        elif self._source is None:
            return state, await self.kind.refusal(opening=self._wanted)
        return state, None

    async def _shut(self) -> None:
        if self._source is not None:
            source = self._source
            self._link.off_chunk(self._look_at_limit)
            await source.close(self._count.settled)
            self._source = None
            self._routed += source.routed
            self._base = source.end
