"""What an audit found.

Invariant: a verdict is `ok` only if messages were audited and not one promise was broken; an empty audit proves
nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """How long messages took from before their publish to their first delivery, in seconds."""

    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    longest_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerCount:
    """One consumer's share; `ended` is `closed`, `killed`, `lost`, or `silent` when its reports just end."""

    name: str
    received: int
    acked: int
    ended: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of what was promised, what was broken, and sentences about the first broken ones."""

    messages: int
    """Confirmed by the broker."""
    keys: int
    deliveries: int
    lost: int
    """Confirmed, but not acknowledged by any consumer in the end."""
    out_of_order: int
    """First deliveries that came after the first delivery of a newer message of the same key."""
    stale: int
    """Keys whose last delivery was not their newest message."""
    held_twice: int
    """Keys of which two consumers held unacknowledged messages at the same time."""
    repeated: int
    """Deliveries of a message that had been delivered, without an excuse."""
    strays: int
    """Deliveries of something that no producer had sent."""
    excused_by_consumer: int
    """Repeats whose first consumer had died, or closed without acknowledging."""
    excused_by_router: int
    """Repeats of what was in flight when the router was killed."""
    seconds: float
    """From the first event to the last."""
    pauses: Pauses
    consumers: tuple[ConsumerCount, ...]
    violations: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept, and there was something to keep it for."""
        return self.messages > 0 and not any(count for count, _ in self._broken())

    def __str__(self) -> str:
        if self.ok:
            return "AUDIT ok"
        if not self.messages:
            return "AUDIT failed: no message was confirmed"
        return "AUDIT failed: " + ", ".join(f"{count} {what}" for count, what in self._broken() if count)

    def report(self) -> str:
        """The verdict with its examples, for an assertion's message."""
        return "\n".join((str(self), *(f"  {name}: {value}" for name, value in self.rows()), *self.violations))

    def rows(self) -> list[tuple[str, str]]:
        """The table that people read."""
        return [
            ("messages", f"{self.messages} of {self.keys} keys in {self.seconds:.0f} s"),
            ("lost", str(self.lost)),
            ("out of order", str(self.out_of_order)),
            ("keys whose last message seen is not the newest", str(self.stale)),
            ("keys held by two consumers at once", str(self.held_twice)),
            ("repeated", str(self.repeated)),
            ("delivered again as their consumer was gone", str(self.excused_by_consumer)),
            ("delivered again as the router was killed", str(self.excused_by_router)),
            ("not sent by any producer", str(self.strays)),
            ("send to first delivery, p50 / p99", f"{_duration(self.pauses.p50)} / {_duration(self.pauses.p99)}"),
            ("longest pause seen by a key", f"{_duration(self.pauses.longest)} ({self.pauses.longest_key})"),
        ]

    def _broken(self) -> list[tuple[int, str]]:
        return [
            (self.lost, "lost"),
            (self.out_of_order, "out of order"),
            (self.stale, "keys not up to date"),
            (self.held_twice, "keys held twice"),
            (self.repeated, "repeated"),
            (self.strays, "not sent by any producer"),
        ]


class Histogram:
    """Durations in buckets 2 % wide: percentiles of millions of values in a few hundred integers."""

    _GROWTH = math.log(1.02)

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0

    def add(self, nanoseconds: int) -> None:
        """Count one duration; what is below a microsecond counts as one."""
        bucket = int(math.log(nanoseconds / 1000) / self._GROWTH) if nanoseconds > 1000 else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._count += 1

    def seconds_at(self, share: float) -> float:
        """The duration that this share (0..1) of all does not exceed, to 2 %; 0 when there is none."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= share * self._count:
                return math.exp((bucket + 1) * self._GROWTH) / 1e6
        return 0.0


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def clipped(sentences: Iterable[str], total: int) -> tuple[str, ...]:
    """The sentences, and one more that says how many were left out."""
    kept = tuple(sentences)
    return kept if len(kept) >= total else (*kept, f"... and {total - len(kept)} more")
