"""What a session is started with.

Invariant: nothing here changes while a session lasts, but what it asks.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from partymq.core.hazards import QueueFacts
from partymq.core.membership import Pod
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.suitability import Suitability
from partymq.router.failpoints import Checkpoint
from partymq.router.poison.failed_sessions import Advice
from partymq.router.rebalance.overdue import Remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The process that a session runs in."""

    identity: str
    budget: Budget
    checkpoint: Checkpoint
    suitability: Suitability | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """What earlier sessions of this process, and pods that were listed, leave to one."""

    pods: tuple[Pod, ...] | None
    advice: Advice
    """What failed sessions teach."""
    gone: frozenset[str] = frozenset()
    """Plain clients whose queues an earlier session did not find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """Who is asked while a session lasts: the process, and what the management API has told of late."""

    wants: Callable[[], str]
    """The identity that should route the group, if that is ours, or nothing."""
    remembered: Remembered
    ask_about: Callable[[str, str], Awaitable[QueueFacts | None]]
    """Takes a queue and our `Journal.session`, and says what the API tells of that queue."""
