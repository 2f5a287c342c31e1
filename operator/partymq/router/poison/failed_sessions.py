"""What failed sessions of a group leave to the next one.

Invariant: failing again holds nothing. After a session that the broker ended over a publish, the next one publishes one
message at a time (`poison.isolation`), until one of them has passed what was under way, and for longer each time, as
long as the next message that is refused comes soon. Whatever it is that sessions fail over: tries that read the source
come ever more rarely, unless the message is known, and when the same messages have come back to a quorum source so
often that a delivery limit may come into play, it is not read any more.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

from partymq.errors import (
    ChannelClosedError,
    ConnectionClosedError,
    ConnectionLostError,
    MessageTooLargeError,
    SessionOverError,
)

BACKOFF: Final = 0.1
BACKOFF_MAX: Final = 10.0
"""Seconds; the first is the most that the first try again waits."""
GROWTH: Final = 2
RARELY: Final = 300.0
RARELY_GROWTH: Final = 4
"""The same, after sessions that had read the source and ended in the same way, other than with their network."""
STEADY: Final = 30.0
"""Seconds after which a session counts as a success."""
LINGER: Final = 1.0
"""Seconds; see `Advice.linger`. They grow as tries get rarer, up to `STEADY`."""
AT_RISK: Final = 5
"""So often may a message of the source come back. RabbitMQ's default delivery limit is 20, and nothing tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How the next session is to go about it."""

    careful: bool = False
    returning: int = 0
    """So many messages of the source, at the least, were under way."""
    others: int = 0
    """So many that were not the source's."""
    linger: float = LINGER
    """Care lasts for so many seconds after a message was refused: where one is, there may be more."""
    at_risk: str = ""
    """Why the source is not to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a session tells of itself when it is over."""

    reading: bool = False
    """It has read the source."""
    routed: int = 0
    """Messages of the source that it has handed on."""
    refused: bool = False
    """The broker ended it over something that was published."""
    wary: bool = False
    """One message was to go at a time, and that was not over; or some fit nowhere."""
    returning: int = 0
    """Messages of the source were under way."""
    others: int = 0
    """Messages that were not the source's were."""
    blamed: int = 0
    """Messages that the broker refuses are known, and out of the way."""
    returns: int = 0
    """The most often that a message of the source had come back when it came."""


class FailedSessions:
    """One group's memory, for as long as its configuration stays what it is."""

    def __init__(self) -> None:
        self.advice = Advice()
        self._failures = self._reads = self._barren = 0
        self._kind = ""
        self._returns: int | None = None

    def forget(self) -> None:
        """The group's spec or its broker is another: what was too much may not be so any more."""
        self._failures = self._reads = self._barren = 0
        self._returns = None
        self.advice = replace(self.advice, at_risk="")

    @staticmethod
    def _needs_care(past: Past) -> bool:
        """Whether something that was published may have ended it."""
        return past.wary or past.refused

    def ended(self, past: Past, *, error: Exception | None, seconds: float) -> float:
        """Takes in how a session of so many seconds has ended; says for how many more there is to be none."""
        careful = self._needs_care(past)
        at_risk = self.advice.at_risk
        if error is None:
            self._failures = self._reads = self._barren = 0
            self._returns = None
            self.advice = Advice(careful=careful, returning=past.returning, others=past.others, at_risk=at_risk)
            return 0.0
        self._failures = 1 if seconds > STEADY else self._failures + 1
        if past.reading:
            before, self._kind = self._kind, kind_of(error)
            same = seconds <= STEADY and before == self._kind != ""
            self._reads = self._reads + 1 if same else 1
            self._barren = (self._barren + 1 if same else 1) if not past.routed else 0
            # What others wrote into a header of that name does not grow.
            grows = self._returns is not None and past.returns > self._returns
            if (past.returns >= AT_RISK and grows) or self._barren > AT_RISK:
                times = max(past.returns, self._barren)
                at_risk = f"messages of it have come back {times} times; the last session ended with: {error}"
            self._returns = past.returns
        self.advice = Advice(
            careful=careful,
            returning=past.returning,
            others=past.others,
            linger=min(LINGER * RARELY_GROWTH ** min(max(self._reads - 1, 0), 20), STEADY),
            at_risk=at_risk,
        )
        if past.reading and self._reads > 1 and not past.blamed:
            most = min(BACKOFF * RARELY_GROWTH ** min(self._reads, 20), RARELY)
            return random.uniform(most / 2, most)  # noqa: S311 - jitter
        return random.uniform(0, min(BACKOFF * GROWTH ** min(self._failures, 20), BACKOFF_MAX))  # noqa: S311 - jitter


def kind_of(error: Exception) -> str:
    """What is the same in failures of the same kind; empty where it is the network or another router."""
    if isinstance(error, ChannelClosedError | ConnectionClosedError):
        return f"{type(error).__name__} {error.code}"
    if isinstance(error, MessageTooLargeError):
        return type(error).__name__
    return "" if isinstance(error, ConnectionLostError | SessionOverError) else type(error).__name__
