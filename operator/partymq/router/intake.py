"""When the source is read.

Invariant: the source is read only while there is somebody to give its messages to, nobody else reads it, and the
backlogs have room; otherwise its messages stand in it, unread, and no acknowledgement timeout runs. One that the broker
deletes by itself when it is not read is not read at all.

That nobody else reads it is proven by a count of one's own: we consume first, and hand on what comes only when exactly
one consumer is counted. Zeros would prove nothing (`amqp.topology`).
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from partymq.amqp.topology import Look, QueueState, Silence, Topology
from partymq.core.spec import GroupSpec
from partymq.errors import (
    ConnectionLostError,
    LockedQueueError,
    PartyMQError,
    SourceSharedError,
    SourceTransientError,
)
from partymq.router.doubts import Doubts
from partymq.router.lanes import Lane
from partymq.router.link import Link
from partymq.router.pace import Pace
from partymq.router.points import Checkpoint
from partymq.router.publisher import Publisher
from partymq.router.quiet import await_alone
from partymq.router.source import PREFETCH, KeyReader, Lanes, OnMissing, Source
from partymq.router.sourcekind import SourceKind, exclusive

RETRY = 0.02
RETRY_MAX = 0.5
"""Seconds between looks at a source that is not as it should be."""
COUNT_RETRY = 0.005
COUNT_RETRY_MAX = 0.25
"""Seconds between looks at a source that was just opened or closed."""
ZERO_FOR = 0.3
"""Seconds for which a source says at once that it is empty, before it is opened to be counted: to take messages while
somebody holds older ones, and to give them back, would put them before these."""
OPEN_AGAIN = 0.5
OPEN_AGAIN_MAX = 60.0
"""Seconds until a source is opened again where another consumer was counted then: what we were given meanwhile has gone
back, which a quorum queue counts as a delivery."""
SILENT_AFTER = 5.0
"""Seconds after which people are told that a source does not answer."""
SHOWN_FOR = 5.0
"""Seconds for which the last figure is shown while the source is silent, as an empty one is, too."""
STREAM = "stream"
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
        kind: SourceKind,
        publisher: Publisher,
        lanes: Lanes,
        hashed: int,
        parked: Callable[[], Iterable[Lane]],
        read_key: KeyReader,
        on_missing: OnMissing,
        on_oversized: Callable[[int, bytes, bytes], None],
        on_returns: Callable[[int], None],
        at_risk: str,
        backlog: Callable[[], int],
        pace: Pace,
        trouble: Callable[[PartyMQError | None], None],
        checkpoint: Checkpoint,
    ) -> None:
        """`at_risk` is why the source is not to be read, if it is not."""
        self._spec = spec
        self._link = link
        self._topology = topology
        self.kind = kind
        self._publisher = publisher
        self._lanes = lanes
        self._hashed = hashed
        self._parked = parked
        self._read_key = read_key
        self._on_missing = on_missing
        self._on_oversized = on_oversized
        self._on_returns = on_returns
        self._doubts = Doubts(queue=spec.source_queue, at_risk=at_risk, lost_nodes=topology.lost_nodes)
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
        self._open_at = float("-inf")
        self._open_again = OPEN_AGAIN
        self._zero_since: float | None = None
        self._told = float("-inf")
        """When the source last gave an answer."""
        self._loop = asyncio.get_running_loop()
        self._limit_seen = 0.0
        self._routed = 0
        self._base = 0
        self.ready: int | None = None
        """Messages that stand in the source; None while it does not exist."""
        self.full = False
        """True while the backlogs are at their limit."""
        self.opened = False
        """True once the source was read."""

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
        trouble = refusal or self._doubts.problem(state, own=1 if self.open else 0, wanted=self._wanted)
        self._trouble(trouble)
        # Whether somebody who was counted is still there, an empty source does not tell: it has to be tried.
        usable = trouble is None or (isinstance(trouble, SourceSharedError) and isinstance(state, Silence))
        usable = usable and state is not None and self._wanted
        if self._closed or not usable:
            await self._shut()
            doubtful = trouble is not None or self._doubts.shared or self.full  # as time goes on it changes
            return not doubtful and (self._spec.paused or not self._members)
        if self._source is not None:
            return True
        if isinstance(state, QueueState) and state.consumers:
            return False  # the session before us has not been settled, or somebody else's consumer: time tells
        if self._loop.time() < self._open_at or not self._seems_empty(state):
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
        source = Source(
            link=self._link,
            publisher=self._publisher,
            lanes=self._lanes,
            hashed=self._hashed,
            parked=self._parked,
            read_key=self._read_key,
            on_missing=self._on_missing,
            on_oversized=self._on_oversized,
            on_returns=self._on_returns,
            base=self._base,
            checkpoint=self._checkpoint,
        )
        self.opened = True
        try:
            await source.open(self._spec.source_queue)
        except ConnectionLostError as error:
            if self._link.failure is not None:
                raise
            self._trouble(error)  # a connection for it cannot be had: all else goes on
            return False
        if not await self._is_alone():
            await source.abandon()
            return False
        self._open_again = OPEN_AGAIN
        self._doubts.alone()
        self._trouble(None)
        self._source = source
        self._link.on_chunk(self._look_at_limit)
        source.begin()
        return True

    async def _is_alone(self) -> bool:
        """True once our consumer of the source is counted, and no other."""
        begun, asked, wait = self._loop.time(), False, COUNT_RETRY
        while not self._closed:
            state = await self._topology.poll(self._spec.source_queue)
            if isinstance(state, QueueState) and state.consumers:
                if state.consumers == 1:
                    return True
                self._doubts.counted(others=state.consumers - 1)
                self._open_at = self._loop.time() + self._open_again
                self._open_again = min(2 * self._open_again, OPEN_AGAIN_MAX)
                return False
            if not asked and state is not None:  # we are not counted
                asked = True
                if await self._is_stream():
                    self._doubts.stream()
                    return False
            if self._loop.time() - begun > SILENT_AFTER:
                self._trouble(self._doubts.silent())
            await asyncio.sleep(wait)
            wait = min(2 * wait, COUNT_RETRY_MAX)
        return False

    async def _see(self) -> tuple[Look, SourceTransientError | None]:
        """The source's state, and why it is not to be read although it is there."""
        queue = self._spec.source_queue
        try:
            state = await self._pace.poll(queue)
        except LockedQueueError:
            return None, exclusive(queue)
        if state is None:
            self.kind.forget()
        elif self._source is None:
            return state, await self.kind.refusal(opening=self._wanted)
        return state, None

    async def _is_stream(self) -> bool:
        """Whether a queue that does not count its consumer is a stream; that it does not, is how streams are noticed.

        Asked only then: the broker logs the question as an error. Who may not ask learns it from a second look.
        """
        kind = await self._topology.queue_type(self._spec.source_queue)
        if kind is not None:
            return kind == STREAM
        state = await self._topology.poll(self._spec.source_queue)
        return isinstance(state, QueueState) and not state.consumers

    async def _shut(self) -> None:
        if self._source is not None:
            source = self._source
            self._link.off_chunk(self._look_at_limit)
            await source.close(self._settled_at_broker)
            self._source = None
            self._routed += source.routed
            self._base = source.end

    async def _settled_at_broker(self, gave_back: bool) -> None:
        """Returns when the source counts no consumer any more.

        An empty one says nothing of that: another consumer of ours is counted beside. Not where something was given
        back, for that one could be given newer messages first; the source is then not empty.
        """
        while (state := await self._topology.poll(self._spec.source_queue)) is not None:
            if isinstance(state, QueueState):
                if not state.consumers:
                    return
            elif not gave_back:
                await self._count_another()
                return
            await asyncio.sleep(COUNT_RETRY)

    async def _count_another(self) -> None:
        queue = self._spec.source_queue
        channel = await self._link.channel()
        try:
            await channel.consume(queue, _leave, prefetch=PREFETCH, on_cancel=self._link.cancelled(queue))
            await await_alone(self._topology, queue)
        finally:
            await channel.close()


def _leave(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """Not for us: it goes back when the channel is closed."""
