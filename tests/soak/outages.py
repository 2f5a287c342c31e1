"""How long the whole group stood still over each fault of a node.

Invariant: it is told from clients' reports: until a message is acknowledged that was sent after the fault, in a session
that routes after it. A part that stands still for longer (the keys of one inbox) is not seen here.
"""

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
    """When it was seen that another session routes; when it began, if the session went on."""


def interruptions(outages: Sequence[Outage], events: Iterable[Event]) -> Mapping[str, Sequence[float]]:
    """By kind of fault: the seconds for which nobody got on with what was sent after it.

    One after which nothing was sent, or acknowledged, is not there.
    """
    sent: dict[tuple[str, int], int] = {}
    acked: dict[tuple[str, int], int] = {}
    for event in events:
        if event.kind is Kind.SENT:
            sent[event.key, event.seq] = event.at
        elif event.kind is Kind.ACKED:
            ident = event.key, event.seq
            acked[ident] = min(event.at, acked.get(ident, event.at))
    handled = [(sent[ident], at) for ident, at in acked.items() if ident in sent]
    found: dict[str, list[float]] = defaultdict(list)
    for outage in outages:
        first = min((at for since, at in handled if since > outage.began and at >= outage.routed), default=None)
        if first is not None:
            found[outage.name].append((first - outage.began) / 1e9)
    return found


def rows(outages: Sequence[Outage], events: Iterable[Event]) -> list[tuple[str, str]]:
    """The table that people read."""
    found = interruptions(outages, events)
    return [(name, f"{len(s)}, median {median(s):.1f} s, worst {max(s):.1f} s") for name, s in sorted(found.items())]
