"""How often a session looks at what nobody tells it of.

Invariant: while anything changes, is unfinished or is not as it should be, and for `CALM_AFTER` seconds after that, it
is looked at every `LOOK_EVERY` seconds. Then there is a calm. In it the source and all inboxes are polled at once every
`IDLE_EVERY` seconds, and as soon as one of them is not as it was last seen, or there is another sign of work, everybody
looks. So what people are shown is at most two seconds old.

A process may have hundreds of groups, most of which have nothing to do most of the time: in a calm, a group costs one
write and one read for each look.
"""

import asyncio
import math
from collections.abc import Callable, Sequence

from partymq.amqp.topology import Look, Topology

LOOK_EVERY = 0.5
IDLE_EVERY = 1.8
"""Seconds between looks."""
TOGETHER = 0.1
"""Looks of all sessions begin on multiples of this, in a calm: the process then wakes up less often."""
CALM_AFTER = 5.0
"""Seconds without a sign of work; most handlers are done with a message by then."""
CHECK_EVERY = 60.0
"""Seconds between looks for what should have been told: nothing depends on them."""


class Polling:
    """One session's pace."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._queues: list[Callable[[], Sequence[str]]] = []
        self._loop = asyncio.get_running_loop()
        self._stirred = self._loop.time()
        self._sleeping: asyncio.Future[None] = self._loop.create_future()
        self._busy = asyncio.Event()
        self._busy.set()
        self._seen: dict[str, Look] = {}
        self._calm_queues: Sequence[str] = ()
        self._calm_states: Sequence[Look] = ()
        self._on_look: list[Callable[[], None]] = []
        self._on_work: list[Callable[[], None]] = []
        self.calm = False
        """May be read on the path of a message."""

    def on_look(self, callback: Callable[[], None], *, queues: Callable[[], Sequence[str]]) -> None:
        """Has `callback` called when it is time for a look, at what `queues` names; whoever changes that stirs."""
        self._on_look.append(callback)
        self._queues.append(queues)

    def on_work(self, callback: Callable[[], None]) -> None:
        """Has `callback` called when a calm ends."""
        self._on_work.append(callback)

    async def poll(self, queue: str) -> Look:
        """Looks at a queue, on behalf of somebody who is then told when it is not like that any more."""
        state = self._seen[queue] = await self._topology.poll(queue)
        return state

    def stir(self) -> None:
        """There is work, or a sign of it."""
        self._stirred = self._loop.time()
        if self.calm:
            self.calm = False
            self._busy.set()
            _wake(self._sleeping)
            for callback in self._on_work:
                callback()

    async def busy(self) -> None:
        """Returns at once, but in a calm when it ends."""
        await self._busy.wait()

    async def run(self) -> None:
        """Calls for looks; in a calm, looks itself."""
        self._stirred = self._loop.time()
        while True:
            if not self.calm:
                for callback in self._on_look:
                    callback()
                await self._sleep(self._loop.time() + LOOK_EVERY)
                if self._loop.time() - self._stirred >= CALM_AFTER:
                    self._begin_calm()
            else:
                await self._sleep(_together(self._loop.time() + IDLE_EVERY))
                if self.calm and await self._topology.poll_all(self._calm_queues) != self._calm_states:
                    self.stir()

    def _begin_calm(self) -> None:
        self.calm = True
        self._busy.clear()
        self._calm_queues = [queue for queues in self._queues for queue in queues()]
        self._seen = {queue: self._seen.get(queue) for queue in self._calm_queues}
        self._calm_states = list(self._seen.values())

    async def _sleep(self, until: float) -> None:
        self._sleeping = self._loop.create_future()
        timer = self._loop.call_at(until, _wake, self._sleeping)
        try:
            await self._sleeping
        finally:
            timer.cancel()


def _together(at: float) -> float:
    return math.ceil(at / TOGETHER) * TOGETHER


def _wake(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)
