"""One handoff under way, as people see it.

Invariant: its time counts from when it was begun, by whichever session.
"""

import asyncio
import time
from dataclasses import dataclass

from partymq.router.broker.takeover import Takeover

BEFORE_TAKEOVER = "the confirms of what was sent before"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffStatistics:
    """One handoff under way."""

    handoff_id: str
    donor: str
    since: float
    """When it was begun, by whichever session, in Unix seconds."""
    waiting_for: str
    """What it cannot go on without."""


class Progress:
    """What a session knows of it, besides the ledger."""

    __slots__ = ("begun", "donor", "final", "handoff_id", "since", "takeover", "task", "trouble", "unneeded")

    def __init__(self, handoff_id: str, donor: str, since: float = 0.0) -> None:
        """`since` is when another session began it, in Unix seconds; 0 for now, or where that is not known."""
        now = time.time()
        self.handoff_id = handoff_id
        self.donor = donor
        self.since = min(since or now, now)  # that session's clock may have been ahead of ours
        self.begun = time.monotonic() - (now - self.since)
        self.takeover: Takeover | None = None
        self.task: asyncio.Task[None] | None = None
        self.final = False
        """True from just before `extracted` is written: it is then run through its commit."""
        self.trouble = ""
        """What is wrong with a queue that it needs."""
        self.unneeded = asyncio.Event()
        """Set when there is nothing that its transfer would be for."""

    @property
    def waiting_for(self) -> str:
        """What it cannot go on without."""
        if self.trouble:
            return self.trouble
        return BEFORE_TAKEOVER if self.takeover is None else self.takeover.waiting_for

    @property
    def statistics(self) -> HandoffStatistics:
        """How far it is."""
        return HandoffStatistics(
            handoff_id=self.handoff_id, donor=self.donor, since=self.since, waiting_for=self.waiting_for
        )

    @property
    def waits_for_donor(self) -> bool:
        """True while it is the donor's client that it waits for."""
        return self.takeover is not None and not self.takeover.proven
