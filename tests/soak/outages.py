"""How long the whole group stood still over each fault of a node.

Invariant: it is told from clients' reports: until the next message that any of them acknowledges once a session routes.
A part that stands still for longer (the keys of one inbox) is not seen here.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from support.events import Event, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One fault; nanoseconds of `time_ns`."""

    name: str
    began: int
    routed: int
    """When a session was seen to route after it; when it began, if the session went on and needs nothing of it."""


def interruptions(outages: Sequence[Outage], events: Iterable[Event]) -> Mapping[str, Sequence[float]]:
    """Seconds by kind of fault; one after which nothing was acknowledged is left out."""
    acks = sorted(event.at for event in events if event.kind is Kind.ACKED)
    found: dict[str, list[float]] = defaultdict(list)
    for outage in outages:
        following = bisect_left(acks, outage.routed)
        if following < len(acks):
            found[outage.name].append((acks[following] - outage.began) / 1e9)
    return found


def rows(outages: Sequence[Outage], events: Iterable[Event]) -> list[tuple[str, str]]:
    """The table that people read."""
    found = interruptions(outages, events)
    return [(name, f"{len(s)}, median {median(s):.1f} s, worst {max(s):.1f} s") for name, s in sorted(found.items())]
