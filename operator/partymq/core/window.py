"""How many messages a member's inbox may still be given.

Invariant: an inbox that is given no more than its credit has no more ready messages than its window, however old the
last poll is: its member only makes room. Of large messages the window has as many as there is room for, and one at
least; what they weigh is known from those that were published last.
"""

from typing import Final

RATE_SECONDS: Final = 0.1
"""How much of a fast member's work may stand ready, so that polls never slow it down."""

MAX_GROWTH: Final = 64
"""How many times the configured window that may be: it bounds the time of a handoff when a fast member turns slow."""

MAX_WINDOW: Final = 30_000
"""The largest that a window may grow to, or be configured as. A takeover can hold 65 535 messages, and that has to be
enough for the inbox and for what comes back to it from its member, which may hold as many."""

FORGETS_AFTER: Final = 256
"""Messages over which a large size is forgotten; it is noticed at once."""

SMOOTHING_SECONDS: Final = 1.0
"""How far back the measured rate looks."""


class Credit:
    """One inbox's credit: plain numbers, because `left` is counted down for every message."""

    __slots__ = ("configured", "fits", "left", "rate", "ready", "size", "window")

    def __init__(self, window: int) -> None:
        self.configured = window
        self.window = window
        """Most ready messages that the inbox may have; what was configured or more, unless they are large."""
        self.left = 0
        """How many messages may still be published before the next poll; none before the first."""
        self.ready = window
        """Messages in the inbox at the last poll; taken for full before the first."""
        self.rate = 0.0
        """Messages a second that the member takes, over about a second."""
        self.size = 0.0
        """Bytes of a message, of late."""
        self.fits = MAX_WINDOW
        """How many of that size the inbox has room for."""

    def weigh(self, *, messages: int, weight: int, room: int) -> None:
        """So many messages with so many bytes were published, to an inbox that is to hold `room` bytes at most."""
        if messages > 0:
            remembered = self.size * max(0.0, 1 - messages / FORGETS_AFTER)
            self.size = max(weight / messages, remembered)
        self.fits = max(1, int(room / self.size)) if self.size else MAX_WINDOW
        self.window = min(self.window, self.fits)

    def polled(self, *, ready: int, uncounted: int) -> None:
        """Take a poll's answer: `ready` messages, and how many more it may not have counted.

        These are all that were unconfirmed when it was asked for, and what was published since.
        """
        self.ready = ready
        self.left = self.window - ready - uncounted

    def observe_rate(self, *, consumed: int, seconds: float) -> None:
        """Let the window follow the rate at which the member takes messages.

        `consumed` is by how much a poll raised `left`, `seconds` the time since the poll before. Less than none
        (messages came back to the inbox) counts as none.
        """
        span = max(seconds, SMOOTHING_SECONDS)
        self.rate = max(0.0, self.rate * (1 - seconds / span) + consumed / span)
        most = max(self.configured, min(self.configured * MAX_GROWTH, MAX_WINDOW))
        window = min(max(self.configured, int(self.rate * RATE_SECONDS)), most, self.fits)
        self.left += window - self.window
        self.window = window

    @property
    def may_release(self) -> bool:
        """True when the last poll showed at most half a window: room for more than moments."""
        return self.ready <= self.window // 2
