"""What a change of pods has cost, from a log and from reports.

Invariant: nothing here asks a cluster or a clock: the same log and the same reports give the same figures.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from partymq.core import ranges
from support.events import Event, Kind

_LINE = re.compile(
    r"^(\S+ \S+),(\d{3}) INFO +partymq\.router\.rebalance\.handoffs: (\S+): (.*) hands over (.*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The handoffs of one group."""

    handoffs: int
    """Those that moved anything."""
    moved: int
    most: int
    """How often the partition moved that moved most."""


def moves(log: str, *, group: str, after: float) -> Moves:
    """What the operator's log says of a group (`<namespace>.<name>`) after a time in Unix seconds."""
    count, handoffs = Counter[int](), 0
    for when, millis, id_, _, what in _LINE.findall(log):
        at = datetime.strptime(when, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() + int(millis) / 1000
        if at >= after and id_.startswith(f"partymq.{group}.") and what != "nothing":
            handoffs += 1
            for part in what.split(", "):
                count.update(ranges.parse(part.partition(" to ")[0]))
    return Moves(handoffs=handoffs, moved=count.total(), most=max(count.values(), default=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long the keys of some messages waited."""

    longest: float
    """Seconds from before a message's publish to its first delivery."""
    at: float
    """When that message was sent, in seconds after `after`."""
    p99: float


def waits(events: Iterable[Event], *, after: float, before: float) -> Waits:
    """Of the messages that were sent between two times, in Unix seconds."""
    sent, received = _times(events, after=after, before=before)
    waited = sorted((received[ident] - at, at) for ident, at in sent.items() if ident in received)
    longest, at = waited[-1]
    return Waits(longest=longest / 1e9, at=at / 1e9 - after, p99=waited[int(0.99 * len(waited))][0] / 1e9)


def waited_in_all(events: Iterable[Event], *, after: float, least: float) -> dict[str, float]:
    """By key, for how many seconds some message of it waited, from a time on; waits of less than `least` are none."""
    waits: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    sent, received = _times(events, after=after)
    for ident, at in sent.items():
        if ident in received and received[ident] - at >= least * 1e9:
            waits[ident[0]].append((at / 1e9, received[ident] / 1e9))
    return {key: sum(end - begin for begin, end in _merged(of_key)) for key, of_key in waits.items()}


def presence(events: Iterable[Event]) -> list[tuple[float, float]]:
    """When consumers were there, from and to, in Unix seconds."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for event in events:
        if event.kind in (Kind.ALIVE, Kind.RECEIVED, Kind.REDELIVERED, Kind.ACKED, Kind.GONE):
            first[event.actor] = min(event.at, first.get(event.actor, event.at))
            last[event.actor] = max(event.at, last.get(event.actor, event.at))
    return [(first[actor] / 1e9, last[actor] / 1e9) for actor in first]


def together(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    """For how many seconds intervals of both hold; those of `other` do not overlap each other."""
    return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in _merged(one) for since, until in other)


def gaps(intervals: Sequence[tuple[float, float]], *, after: float, before: float) -> list[tuple[float, float]]:
    """When none of them holds, between two times."""
    found, at = [], after
    for begin, end in _merged(intervals):
        if begin > at:
            found.append((at, min(begin, before)))
        at = max(at, end)
    return [(begin, end) for begin, end in [*found, (at, before)] if begin < end]


def _times(
    events: Iterable[Event], *, after: float, before: float = math.inf
) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int]]:
    """When messages were sent between two times, and when messages were first delivered, in nanoseconds."""
    sent: dict[tuple[str, int], int] = {}
    received: dict[tuple[str, int], int] = {}
    for event in events:
        ident = (event.key, event.seq)
        if event.kind is Kind.SENT and after * 1e9 <= event.at < before * 1e9:
            sent[ident] = event.at
        elif event.kind in (Kind.RECEIVED, Kind.REDELIVERED):
            received[ident] = min(event.at, received.get(ident, event.at))
    return sent, received


def _merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
