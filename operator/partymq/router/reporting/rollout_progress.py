"""Rollouts as people are told of them.

Invariant: what happens to the pods of a rollout is told as one thing: when it begins, at each quarter, when it makes no
progress and when it is over. Whatever is out of the ordinary (a pod that hangs, flaps or is away) is told besides.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from partymq.core.report import Notice, RolloutReport
from partymq.core.rollouts import Rollout

QUARTERS = 4


@dataclass(slots=True)
class _Course:
    """One rollout from when it was first seen."""

    generation: str
    since: float
    before: int
    """Pods that there were when it began."""
    pods: int = 0
    of: int = 0
    moved: int = 0
    handoffs: int = 0
    longest: float = 0.0
    """Seconds of a handoff."""
    told: int = 0
    """Quarters."""
    stalled: bool = False
    names: set[str] = field(default_factory=set)
    """All pods that were ever part of it."""

    def report(self, owner: str) -> RolloutReport:
        return RolloutReport(
            owner=owner,
            generation=self.generation,
            pods=self.pods,
            of=self.of,
            moved=self.moved,
            handoffs=self.handoffs,
            since=self.since,
            stalled=self.stalled,
        )


class RolloutProgress:
    """The rollouts of one group, over all sessions of this process."""

    def __init__(self, on_notice: Callable[[Notice], None]) -> None:
        self._on_notice = on_notice
        self._courses: dict[str, _Course] = {}
        self._over: set[str] = set()
        """Pods of rollouts that are over, until they are gone, or at work."""

    def takes_part(self, name: str) -> bool:
        """True for a pod of a rollout, and one that was replaced in one."""
        return name in self._over or any(name in course.names for course in self._courses.values())

    def committed(self, donor: str, moved: int, seconds: float) -> bool:
        """A handoff is over; whether it is part of a rollout, and told with that."""
        for course in self._courses.values():
            if donor in course.names:
                course.moved += moved
                course.handoffs += moved > 0
                course.longest = max(course.longest, seconds)
                return True
        return donor in self._over

    def look(
        self,
        found: Collection[Rollout],
        *,
        newer: Collection[str],
        at_work: Collection[str],
        leaving: Collection[str],
        now: float,
    ) -> tuple[RolloutReport, ...]:
        """What pods show now; `newer` are those of rollouts that make progress, `at_work` all that consume.

        While one is `leaving` it is not over: the last pod may be gone before what it had is. `now` is the time in Unix
        seconds.
        """
        seen = {rollout.owner: rollout for rollout in found}
        for owner in self._courses.keys() - seen.keys():
            if self._courses[owner].names.isdisjoint(leaving):
                self._end(owner, now)
        for owner, rollout in seen.items():
            self._follow(owner, rollout, newer=newer, at_work=at_work, now=now)
        return tuple(self._courses[owner].report(owner) for owner in seen)

    def forget(self, names: Collection[str]) -> None:
        """These are gone, or what becomes of them from now on has nothing to do with a rollout that is over."""
        self._over.difference_update(names)

    def _follow(
        self, owner: str, rollout: Rollout, *, newer: Collection[str], at_work: Collection[str], now: float
    ) -> None:
        course, working = self._courses.get(owner), len(rollout.newer.intersection(at_work))
        if course is None or course.generation != rollout.generation:
            earlier = set() if course is None else course.names
            course = _Course(generation=rollout.generation, since=now, before=len(rollout.replaced) + working)
            course.names |= earlier
            self._courses[owner] = course
            self._notice(
                "RolloutStarted",
                f"rollout of {_short(owner)} to {rollout.generation}: what old pods leave goes to new ones",
            )
        course.names |= rollout.newer | rollout.replaced
        course.pods, course.of = working, max(course.before, len(rollout.newer))
        quarters = QUARTERS * course.pods // course.of
        if course.told < quarters < QUARTERS:
            course.told = quarters
            self._notice("RolloutProgress", course.report(owner).sentence)
        stalled = not rollout.newer.intersection(newer)
        if stalled and not course.stalled:
            text = f"{course.report(owner).sentence}, and no progress for spec.rollout.patienceSeconds"
            self._notice("RolloutStalled", f"{text}: until it goes on, partitions are balanced over old and new pods")
        course.stalled = stalled

    def _end(self, owner: str, now: float) -> None:
        course = self._courses.pop(owner)
        self._over |= course.names
        self._notice(
            "RolloutDone",
            f"rollout of {_short(owner)} to {course.generation} is over after {now - course.since:.0f} s: "
            f"{course.moved} partitions moved in {course.handoffs} handoffs, the longest of which took "
            f"{course.longest * 1000:.0f} ms",
        )

    def _notice(self, reason: str, message: str) -> None:
        # None is a warning: a rollout that stands still may be a canary, and Kubernetes tells of one that fails.
        self._on_notice(Notice(warning=False, reason=reason, message=message))


def _short(owner: str) -> str:
    return owner.rpartition(" ")[2]
