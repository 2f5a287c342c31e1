"""Who is counted at the source, when it was just opened or closed.

Invariant: that nobody else reads the source is believed only of a count with our own consumer in it, and that it is
settled only of a count without; zeros prove neither (`amqp.topology`).
"""

import asyncio

from partymq.amqp.topology import QueueState, Silence
from partymq.router.broker.settling import await_alone
from partymq.router.context import Context
from partymq.router.flow.source_obstacles import SourceObstacles
from partymq.router.flow.source_reader import PREFETCH

COUNT_RETRY = 0.005
COUNT_RETRY_MAX = 0.25
"""Seconds between looks at a source that was just opened or closed."""
OPEN_AGAIN = 0.5
OPEN_AGAIN_MAX = 60.0
"""Seconds until a source is opened again where another consumer was counted then: what we were given meanwhile has gone
back, which a quorum queue counts as a delivery."""
SILENT_AFTER = 5.0
"""Seconds after which people are told that a source does not answer."""
STREAM = "stream"


class SourceCount:
    """Counts the consumers of one source."""

    def __init__(self, context: Context, obstacles: SourceObstacles) -> None:
        self._link = context.link
        self._topology = context.topology
        self._queue = context.config.spec.source_queue
        self._trouble = context.listener.trouble
        self._obstacles = obstacles
        self._loop = asyncio.get_running_loop()
        self._again = OPEN_AGAIN
        self.try_at = float("-inf")
        """When the source may be opened again, where another consumer was counted."""

    async def is_alone(self, *, unless: asyncio.Event) -> bool:
        """True once our consumer of the source is counted, and no other; False where `unless` is set before."""
        begun, asked, wait = self._loop.time(), False, COUNT_RETRY
        while not unless.is_set():
            state = await self._topology.poll(self._queue)
            others = _others(state)
            if others == 0:
                self._again = OPEN_AGAIN
                self._obstacles.alone()
                return True
            if others is not None:
                self._obstacles.counted(others=others)
                self.try_at = self._loop.time() + self._again
                self._again = min(2 * self._again, OPEN_AGAIN_MAX)
                return False
            if not asked and state is not None:  # we are not counted
                asked = True
                if await self._is_stream():
                    self._obstacles.stream()
                    return False
            if self._loop.time() - begun > SILENT_AFTER:
                self._trouble(self._obstacles.silent())
            await asyncio.sleep(wait)
            wait = min(2 * wait, COUNT_RETRY_MAX)
        return False

    async def _is_stream(self) -> bool:
        """Whether a queue that does not count its consumer is a stream; that it does not, is how streams are noticed.

        Asked only then: the broker logs the question as an error. Who may not ask learns it from a second look.
        """
        kind = await self._topology.queue_type(self._queue)
        if kind is not None:
            return kind == STREAM
        state = await self._topology.poll(self._queue)
        return isinstance(state, QueueState) and not state.consumers

    async def settled(self, gave_back: bool) -> None:
        """Returns when the source counts no consumer any more."""
        while (state := await self._topology.poll(self._queue)) is not None:
            if isinstance(state, QueueState):
                if not state.consumers:
                    return
            elif await self._settled_in_silence(gave_back):
                return
            await asyncio.sleep(COUNT_RETRY)

    async def _settled_in_silence(self, gave_back: bool) -> bool:
        """An empty source says nothing of who is counted: another consumer of ours is counted beside.

        Not where something was given back, for that one could be given newer messages first; the source is then not
        empty, and its silence ends.
        """
        if gave_back:
            return False
        await self._count_another()
        return True

    async def _count_another(self) -> None:
        channel = await self._link.channel()
        try:
            await channel.consume(self._queue, _leave, prefetch=PREFETCH, on_cancel=self._link.cancelled(self._queue))
            await await_alone(self._topology, self._queue)
        finally:
            await channel.close()


def _others(state: QueueState | Silence | None) -> int | None:
    """How many consumers are counted beside ours; None where ours is not, for then nothing is known."""
    return state.consumers - 1 if isinstance(state, QueueState) and state.consumers else None


def _leave(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """Not for us: it goes back when the channel is closed."""
