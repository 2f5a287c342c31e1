"""What a group is: snapshots that the router hands to whoever shows them (status, Events, metrics, HTTP).

A report is whole and immutable: it may cross threads, and two equal reports show the same thing. Its sentences are one
line each, of bounded length, and hold nothing that a terminal obeys, whatever went into them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from partymq.foreign import shown

MESSAGE: Final = 32_768
"""Characters of a condition's or an Event's sentences."""


class MemberState(StrEnum):
    """A member as its group sees it."""

    JOINING = "Joining"
    """Known, but not ready or not consuming yet: owns nothing."""
    ACTIVE = "Active"
    STUCK = "Stuck"
    """Owns partitions, and takes nothing out of its inbox although messages stand in it."""
    WAITING = "Waiting"
    """Ready and consuming: is given its share soon, or, in a rollout, what a pod of an older generation leaves."""
    IDLE = "Idle"
    """Ready and consuming; there are more members than partitions."""
    ABSENT = "Absent"
    """Owns partitions but is not ready or has no consumer; keeps them until the rejoin time is over."""
    LEAVING = "Leaving"
    """Gone, terminating or absent for too long: its partitions move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition of the resource; `ok` is its status, `reason` a CamelCase word, `message` says what to do."""

    ok: bool
    reason: str
    message: str
    known: bool = True
    """False when nobody knows whether it is so."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", shown(self.message, MESSAGE))


NOT_SEEN: Final = Condition(
    ok=False, known=False, reason="NotSeen", message="the consumers have not been looked at yet"
)
"""Of the condition ConsumersSafe, before the first look."""
QUEUES_NOT_SEEN: Final = Condition(
    ok=False, known=False, reason="NotSeen", message="the queues and their policies have not been looked at yet"
)
"""Of the condition QueuesSafe, likewise."""
WORKING: Final = Condition(ok=True, reason="Working", message="every member takes the messages that wait for it")
"""Of the condition MembersWorking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberReport:
    """A member: the partitions that it owns, its inbox's ready messages, since when (Unix seconds) it has its state."""

    name: str
    state: MemberState
    partitions: tuple[int, ...]
    ready: int
    since: float
    backlog: int = 0
    """Messages that wait in the backlogs of its partitions."""
    waiting_for: str = ""
    """What it lacks, in a sentence's end; empty while it is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReport:
    """A rollout: `pods` of `of` new pods are at work, `moved` partitions have moved in it; `since` is Unix seconds."""

    owner: str
    generation: str
    pods: int
    of: int
    moved: int
    handoffs: int
    since: float
    stalled: bool = False

    @property
    def sentence(self) -> str:
        """For people."""
        name = self.owner.rpartition(" ")[2]
        return f"rollout of {name} to {self.generation}: {self.pods} of {self.of} pods, {self.moved} partitions moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffReport:
    """A handoff under way: `waiting_for` is a sentence, `since` Unix seconds."""

    handoff_id: str
    donor: str
    phase: str
    partitions: tuple[int, ...]
    since: float
    waiting_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Totals since the process started; they never go down."""

    routed: int = 0
    keyless: int = 0
    dead: int = 0
    backlogged: int = 0
    released: int = 0
    handoffs: int = 0
    sessions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """The whole picture of a group at one moment."""

    routing: bool
    """True while this process is the group's router; only then is the rest the truth about owners."""
    epoch: int
    partitions_total: int
    partitions_assigned: int
    partitions_held: int
    source_ready: int | None
    backlog: int
    members: tuple[MemberReport, ...]
    handoffs: tuple[HandoffReport, ...]
    ready: Condition
    broker_connected: Condition
    balanced: Condition
    counters: Counters
    consumers_safe: Condition = NOT_SEEN
    queues_safe: Condition = QUEUES_NOT_SEEN
    working: Condition = WORKING
    rollouts: tuple[RolloutReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A transition worth an Event: `warning` or normal, a CamelCase reason, a sentence."""

    warning: bool
    reason: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", shown(self.message, MESSAGE))
