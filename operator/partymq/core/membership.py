"""Who may own partitions now.

Invariant: a member keeps what it owns until it is known to be leaving; a member that was never seen ready and consuming
owns nothing.

A member's state follows from four things: its pod, whether its inbox has a consumer, whether it owns partitions, and
how long it has been away. The first line that applies:

    ready and consuming                                Active (owns), Idle (owns nothing)
    ready, not seen yet, owns                          Active
    gone or terminating, and does not return           Leaving; forgotten once it is gone and owns nothing
    there, owns nothing                                Joining
    away, within its rejoin time                       Absent (owns), Joining (owns nothing, but its name returns)
    away for longer                                    Leaving; forgotten once it is gone and owns nothing

Not seen is not absent: of who owns partitions and was not looked at yet, nobody says that it does not consume, and no
rejoin time runs out while its inbox does not answer.

Who is away again and again, while its pod stays (a container that crashes, or that a probe restarts), loses trust: it
is waited for half as long each time, so for two rejoin times in all, however often it is away; and from the second time
on it is given nothing before it has been there for a while without a break, twice as long each time. Five minutes
without a break, and all is forgotten. A group in which nobody is trusted trusts everybody.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from partymq.core.report import MemberState

FORGIVEN: Final = 1
"""Absences that change nothing: a restart."""
TRUSTED_AFTER: Final = 60.0
TRUSTED_AT_MOST: Final = 240.0
"""Seconds that one has to be there before it is given anything, after the first absence that counts; at most."""
FORGOTTEN_AFTER: Final = 300.0
"""Seconds without a break after which no absence counts any more."""
REMEMBERED: Final = 10
"""Absences that are counted at most."""
HEARD_AGAIN: Final = 1.0
"""Seconds that a rejoin time has left at least while an inbox does not answer."""


class PodState(StrEnum):
    """What the platform (Kubernetes, or the HTTP API) says of a client."""

    STARTING = "Starting"
    """Exists, is not terminating, is not (all containers) ready: its inbox is declared so that it can consume."""
    READY = "Ready"
    TERMINATING = "Terminating"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Generation:
    """The version of its owner's template that a pod was made from."""

    owner: str
    """Kind and name, such as `Deployment orders`."""
    name: str
    """Such as a pod-template-hash: it says nothing of what is newer."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Pod:
    """A client that opted in; one that is not listed any more is gone.

    `returns` says that a client of this name comes back (a StatefulSet's pod): it is then absent rather than leaving
    while it is away. A client without a generation is nobody's successor.
    """

    name: str
    state: PodState
    returns: bool = False
    generation: Generation | None = None
    created: float = 0.0
    """In Unix seconds of the platform's clock, which counts whole ones; 0 where nobody says."""
    changed: float = 0.0
    """When it was made, became ready, ceased to be or began to terminate, whichever was last; likewise."""
    tenure: int = 0
    """Of pods of one generation: the higher, the later it is expected to be taken away; equal where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A client as its group sees it; times are seconds of the caller's monotonic clock."""

    name: str
    state: MemberState
    since: float
    """When it came to this state."""
    deadline: float | None = None
    """When it starts to leave; None unless it is away and may still come back."""
    consuming: bool = False
    """Whether its inbox has a consumer, as far as is known."""
    seen: bool = False
    """Whether it was ever known."""
    returns: bool = False
    here_since: float | None = None
    """Since when it is ready and consumes; None while it does not."""
    absences: tuple[float, ...] = ()
    """When it ceased to, of late, although its pod stayed."""

    @property
    def trusted_at(self) -> float:
        """When it is given partitions again, if it goes on being there."""
        if self.here_since is None or len(self.absences) <= FORGIVEN:
            return float("-inf")
        doubled = TRUSTED_AFTER * 2.0 ** (len(self.absences) - FORGIVEN - 1)
        return self.here_since + min(doubled, TRUSTED_AT_MOST)

    @property
    def patience(self) -> float:
        """The share of the rejoin time for which it is waited for."""
        return float(0.5 ** max(0, len(self.absences) - FORGIVEN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """All members of one group; `observe` gives the next one, and observing the same again changes nothing."""

    members: Mapping[str, Member] = field(default_factory=dict)
    rejoin_seconds: float = 0.0
    """The rejoin time at the last observation."""
    distrusted: frozenset[str] = frozenset()
    """Members that are there and were away too often lately: they keep what they have, and are given nothing yet."""

    def observe(
        self,
        *,
        pods: Collection[Pod],
        consuming: Mapping[str, bool],
        unheard: Collection[str] = (),
        owners: Collection[str],
        now: float,
        rejoin_seconds: float,
    ) -> "Membership":
        """The members after a complete list of pods and the polls so far.

        `consuming` has the inboxes of which it is known whether they have a consumer: one that is missing (not polled
        yet, or taken over by ourselves) keeps its last value, and starts as not consuming.
        `unheard` are those whose inboxes do not answer now. `owners` are the members that own partitions now; one that
        is neither listed nor known from an earlier list is gone.
        """
        listed = {pod.name: pod for pod in pods}
        owning = frozenset(owners)
        members = {}
        for name in sorted(listed.keys() | self.members.keys() | owning):
            before = self.members.get(name, _STRANGER)
            pod = listed.get(name)
            after = replace(
                before,
                name=name,
                # The consumer goes with the pod: a successor of its name must be seen consuming itself.
                consuming=pod is not None and consuming.get(name, before.consuming),
                seen=before.seen or name in consuming,
                returns=before.returns if pod is None else pod.returns,
            )
            after = _remember(after, pod, now=now)
            moved = _move(
                after, pod, owns=name in owning, heard=name not in unheard, now=now, rejoin_seconds=rejoin_seconds
            )
            if moved is not None:
                same = before is not _STRANGER and moved.state is before.state
                members[name] = moved if same else replace(moved, since=now)
        here = {member.name: now < member.trusted_at for member in members.values() if member.here_since is not None}
        distrusted = frozenset(name for name, doubted in here.items() if doubted)
        return Membership(
            members=members,
            rejoin_seconds=rejoin_seconds,
            distrusted=distrusted if len(distrusted) < len(here) else frozenset(),
        )

    def restart_grace(self, name: str, now: float) -> "Membership":
        """Give a member that is away its whole rejoin time again: while its inbox was ours it could not return."""
        member = self.members.get(name)
        if member is None or member.deadline is None:
            return self
        deadline = now + member.patience * self.rejoin_seconds
        return replace(self, members={**self.members, name: replace(member, deadline=deadline)})

    @property
    def eligible(self) -> frozenset[str]:
        """Members that may be given partitions."""
        return self._in(MemberState.ACTIVE, MemberState.IDLE) - self._unseen - self.distrusted

    @property
    def keeping(self) -> frozenset[str]:
        """Members that keep what they own and are given no more: away for a moment, not seen yet, or not trusted."""
        return self._in(MemberState.ABSENT) | self._unseen | (self._in(MemberState.ACTIVE) & self.distrusted)

    def leaving(self, named: Collection[str]) -> frozenset[str]:
        """Of the members that the ledger names, those that shall give up all that they own or hold."""
        return frozenset(named) - (self.members.keys() - self._in(MemberState.LEAVING))

    @property
    def next_change(self) -> float | None:
        """When to observe again although nothing happens: a rejoin time will be over, or somebody trusted again."""
        deadlines = [member.deadline for member in self.members.values() if member.deadline is not None]
        return min((*deadlines, *(self.members[name].trusted_at for name in self.distrusted)), default=None)

    def away_until(self, at: float) -> frozenset[str]:
        """Members whose rejoin time will be over then."""
        return frozenset(m.name for m in self.members.values() if m.deadline is not None and m.deadline <= at)

    @property
    def _unseen(self) -> frozenset[str]:
        return frozenset(m.name for m in self.members.values() if m.state is MemberState.ACTIVE and not m.consuming)

    def _in(self, *states: MemberState) -> frozenset[str]:
        return frozenset(name for name, member in self.members.items() if member.state in states)


def _remember(member: Member, pod: Pod | None, *, now: float) -> Member:
    """The member with what is to be remembered of its being there and its being away."""
    if pod is None or pod.state is PodState.TERMINATING:
        return replace(member, here_since=None, absences=() if pod is None else member.absences)
    here = pod.state is PodState.READY and member.consuming
    if not here:
        absences = member.absences if member.here_since is None else (*member.absences, now)[-REMEMBERED:]
        return replace(member, here_since=None, absences=absences)
    since = now if member.here_since is None else member.here_since
    return replace(member, here_since=since, absences=() if now >= since + FORGOTTEN_AFTER else member.absences)


_STRANGER: Final = Member(name="", state=MemberState.JOINING, since=0.0)


def _move(
    member: Member, pod: Pod | None, *, owns: bool, heard: bool, now: float, rejoin_seconds: float
) -> Member | None:
    """The member in its next state; None when there is nothing left of it."""
    if pod is not None and pod.state is PodState.READY and member.consuming:
        return replace(member, state=MemberState.ACTIVE if owns else MemberState.IDLE, deadline=None)
    unseen = owns and not member.seen and member.state is not MemberState.LEAVING
    if pod is not None and pod.state is PodState.READY and unseen:
        return replace(member, state=MemberState.ACTIVE, deadline=None)
    present = pod is not None and pod.state is not PodState.TERMINATING
    if present and not owns:
        return replace(member, state=MemberState.JOINING, deadline=None)
    deadline = now + member.patience * rejoin_seconds if member.deadline is None else member.deadline
    if not heard:
        deadline = max(deadline, now + HEARD_AGAIN)
    # Who leaves has used its rejoin time up: only being ready and consuming ends that.
    if (present or member.returns) and member.state is not MemberState.LEAVING and now < deadline:
        return replace(member, state=MemberState.ABSENT if owns else MemberState.JOINING, deadline=deadline)
    return replace(member, state=MemberState.LEAVING, deadline=None) if owns or pod is not None else None
