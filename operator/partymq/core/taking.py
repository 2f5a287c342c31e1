"""Whether a member takes messages out of its inbox, as far as polls tell.

Invariant: who is said to take nothing has certainly taken nothing since then, although messages stood ready. A poll may
or may not have counted what was on its way to the inbox, so what was taken is known within bounds only; it is more than
before where the lower bound is higher than the upper one was.
"""

from typing import Final

STUCK_AFTER: Final = 30.0
"""Seconds after which one that takes nothing is stuck; longer for who has needed longer before."""
LONGER: Final = 2.0
"""How many times its longest pause so far one may pause."""
LONGEST: Final = 300.0
"""Seconds of a pause that are learnt from."""


class Taking:
    """One inbox and its consumer; begin anew with another consumer."""

    __slots__ = ("_longest", "_mark", "_sent", "_since")

    def __init__(self) -> None:
        self._sent = 0
        self._mark = 0
        self._since: float | None = None
        self._longest = 0.0

    def polled(self, *, published: int, ready: int, uncounted: int, now: float) -> None:
        """A poll has shown `ready` messages; `published` came since the last one, `uncounted` may be missing in it."""
        self._sent += published
        if self._since is not None and ready and self._sent - uncounted - ready <= self._mark:
            return
        if self._since is not None and ready:
            self._longest = max(self._longest, min(now - self._since, LONGEST))
        self._mark = self._sent - ready
        self._since = now

    def stuck_since(self, now: float) -> float | None:
        """Since when nothing was taken, if that is so for too long."""
        patience = max(STUCK_AFTER, LONGER * self._longest)
        return self._since if self._since is not None and now - self._since >= patience else None
