"""What a session tells its supervisor while it goes on.

Invariant: telling never makes a session wait.
"""

from collections.abc import Callable
from dataclasses import dataclass

from partymq.core.report import Notice
from partymq.errors import PartyMQError


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """All calls are made on the loop that runs the session, and return at once."""

    standby: Callable[[], None]
    """Another session is the router; called again and again."""
    trouble: Callable[[PartyMQError | None], None]
    """Something is in the way of routing (and this goes on), or not any more."""
    wanted: Callable[[str], None]
    """A process of that identity stands by and should be the router."""
    rival: Callable[[str], None]
    """A process of that identity stands by for another PartitionGroup of this name; called again and again."""
    changed: Callable[[], None]
    """The picture has changed."""
    notice: Callable[[Notice], None]
    """Something has happened that is worth an Event."""
    committed: Callable[[str, int, float], None]
    """A handoff is over: its donor, how many partitions moved, seconds from plan to commit."""
