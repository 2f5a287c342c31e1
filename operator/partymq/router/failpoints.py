"""The moments at which a crash leaves the most behind.

Invariant: nothing happens at a point unless a test asks for it. Fault tests stop the process there, by the `Checkpoint`
that they give to a session.
"""

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """In the order in which a handoff, then a release, passes them; then the stop of a router, and full clients."""

    DRAIN = "handoff.drain"
    """The handoff is journaled; nothing has happened yet."""
    ATTACHED = "handoff.attached"
    """The takeover consumes the donor's inbox, or waits to."""
    COLLECTED = "handoff.collected"
    """All that was in the inbox is in memory, unacknowledged."""
    COPYING = "handoff.copying"
    """The copies are sent to the transfer, not confirmed."""
    COPIED = "handoff.copied"
    """The copies are confirmed; the journal does not know."""
    EXTRACTED = "handoff.extracted"
    """The journal knows; the originals are not acknowledged."""
    SETTLED = "handoff.settled"
    """The originals are gone for certain; owners are as before."""
    COMMITTED = "handoff.committed"
    """The owners are new; the takeover is still attached."""
    RELEASING = "release.begun"
    """A segment's reader is attached, messages flow to their owner."""
    SWITCHING = "release.switching"
    """Arrivals are parked while a fence passes through the backlog."""
    DIRECT = "release.direct"
    """Arrivals go to the owner's inbox; the backlog is still listed."""
    CANCELLED = "source.cancelled"
    """The source's consumer is cancelled; nothing proves yet that what it held is acknowledged."""
    OVERFLOWS = "client.overflows"
    """The overflow of a plain client is journaled; it may not exist yet."""
    DIVERTED = "client.diverted"
    """What the client's queue has refused is sent there, and nothing of it acknowledged at the source."""
    REJOINED = "client.rejoined"
    """It is proven empty, and arrivals go straight again; it is still listed."""


OF_CLIENTS = frozenset({Point.OVERFLOWS, Point.DIVERTED, Point.REJOINED})
"""Those that only a group with plain clients comes to."""

Checkpoint = Callable[[Point], None]


def nowhere(_point: Point) -> None:
    """The checkpoint of every process that is not being tested."""
