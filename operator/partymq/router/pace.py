"""How often a session looks at what nobody tells it of.

Invariant: while anything changes, is unfinished or is not as it should be, and for `CALM_AFTER` seconds after that, all
looks are as frequent as their owners ask for; the first sign of it ends a calm, and whoever slept through it looks at
once. In a calm, what people are shown is at most `IDLE_EVERY` seconds old.

A process may have hundreds of groups, and most of them have nothing to do most of the time.
"""

import asyncio
from collections.abc import Callable

CALM_AFTER = 5.0
"""Seconds without any sign of work; longer than most handlers keep a message."""
IDLE_EVERY = 1.9
"""Seconds between looks in a calm."""
CHECK_EVERY = 20.0
"""Seconds between looks for what should have been told: nothing depends on them."""


class Pace:
    """One session's pace."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._stirred = self._loop.time()
        self._busy = asyncio.Event()
        self._busy.set()
        self._on_end: list[Callable[[], None]] = []
        self.calm = False
        """Kept by `until_look`; may be read on the path of a message."""

    def on_calm_ends(self, callback: Callable[[], None]) -> None:
        """Have somebody woken by the first sign of work."""
        self._on_end.append(callback)

    def stir(self) -> None:
        """There is work, or a sign of it."""
        self._stirred = self._loop.time()
        if self.calm:
            self.calm = False
            self._busy.set()
            for callback in self._on_end:
                callback()

    async def busy(self) -> None:
        """Returns at once but in a calm; then when it ends."""
        await self._busy.wait()

    def until_look(self, every: float) -> float:
        """Seconds until the next look of one who looks every so many seconds when there is work.

        Looks of a session fall together: what they ask the broker leaves in one write.
        """
        now = self._loop.time()
        if not self.calm and now - self._stirred >= CALM_AFTER:
            self.calm = True
            self._busy.clear()
        interval = IDLE_EVERY if self.calm else every
        left = interval - (now - self._began) % interval
        return left if left > interval / 50 else left + interval  # a timer may be early
