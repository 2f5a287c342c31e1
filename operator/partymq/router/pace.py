"""How often a session looks at what nobody tells it of.

Invariant: while anything changes, is unfinished or is not as it should be, and for `CALM_AFTER` seconds after that, it
is looked at every `LOOK_EVERY` seconds; in a calm every `IDLE_EVERY`, and at once at the first sign of work. So in a
calm, what people are shown is at most two seconds old.

A process may have hundreds of groups, most of which have nothing to do most of the time. All looks of a session begin
together: what they ask the broker leaves in one write.
"""

import asyncio
from collections.abc import Callable

LOOK_EVERY = 0.5
IDLE_EVERY = 1.9
"""Seconds between looks."""
CALM_AFTER = 5.0
"""Seconds without a sign of work; most handlers are done with a message by then."""
CHECK_EVERY = 20.0
"""Seconds between looks for what should have been told: nothing depends on them."""


class Pace:
    """One session's pace."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stirred = self._loop.time()
        self._busy = asyncio.Event()
        self._busy.set()
        self._on_look: list[Callable[[], None]] = []
        self._on_work: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.calm = False
        """May be read on the path of a message."""

    def on_look(self, callback: Callable[[], None]) -> None:
        """Has `callback` called when it is time for a look."""
        self._on_look.append(callback)

    def on_work(self, callback: Callable[[], None]) -> None:
        """Has `callback` called when a calm ends."""
        self._on_work.append(callback)

    def stir(self) -> None:
        """There is work, or a sign of it."""
        self._stirred = self._loop.time()
        if self.calm:
            self.calm = False
            self._busy.set()
            for callback in self._on_work:
                callback()
            self._look()

    async def busy(self) -> None:
        """Returns at once, but in a calm when it ends."""
        await self._busy.wait()

    async def run(self) -> None:
        """Calls for looks."""
        try:
            self._look()
            await asyncio.Event().wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _look(self) -> None:
        """Without a task and a timeout: there are hundreds of these."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.calm and self._loop.time() - self._stirred >= CALM_AFTER:
            self.calm = True
            self._busy.clear()
        self._timer = self._loop.call_later(IDLE_EVERY if self.calm else LOOK_EVERY, self._look)
        for callback in self._on_look:
            callback()
