"""How inboxes and lanes are at one moment, as whoever shows them is told."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxStatistics:
    """A member's inbox."""

    ready: int
    """Messages in it, when it was looked at last."""
    stuck_since: float | None
    """Since when its client takes nothing although messages stand in it, by the monotonic clock; None if it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """A partition whose arrivals do not go straight to its owner."""

    owner: str | None
    owner_full: bool
    """Whether its owner has no room for more."""
