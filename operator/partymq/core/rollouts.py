"""Rollouts: pods of one owner that are replaced by pods of a newer generation.

Invariant: in a rollout nothing is taken from anybody who stays, of either generation (but from somebody newer who has
more than twice its share of the plain plan, as the first one may that consumes at all). What a leaver had goes to who
is newer, as far as that leaves nobody newer with more than that share; only the rest goes to who is older, and so moves
again. Who takes no part (other owners, pods without a generation) is balanced with its like as ever.

Which generation is the newest follows from the list of pods alone, so every session says the same: the one whose oldest
pod is the youngest. A rollout that is undone is told from that by pods that the older generation makes after all of the
newer one, while none of its own terminates: where it loses pods too, it only replaces one (an eviction), or the group
is scaled while it is rolled out.

A rollout that has made no progress for a while (no pod of it was made, became ready or began to go) is none: everybody
is balanced as usual until it goes on.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from partymq.core.assignment import NEVER, assign, most_moved_first
from partymq.core.membership import Member, Pod, PodState
from partymq.core.report import MemberState


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One owner's pods by generation, without those that terminate."""

    owner: str
    generation: str
    """The newest."""
    newer: frozenset[str]
    ready: frozenset[str]
    """Of these, who is."""
    replaced: frozenset[str]
    """All pods of other generations, those that terminate included; without any it is over, or none was."""
    older: Mapping[str, int]
    """With their tenures; empty while the last of them terminate."""
    progressed: float
    """When a pod of the owner was last made, became ready or began to terminate, in Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who takes which part in the rollouts under way; all others are nobody's successors."""

    newer: frozenset[str] = frozenset()
    older: Mapping[str, int] = field(default_factory=dict)
    """With their tenures: the higher, the later it is expected to leave."""
    arriving: frozenset[str] = frozenset()
    """Of who is newer, those that are ready and do not consume yet: they are about to."""
    patient: frozenset[str] = frozenset()
    """Those that began to leave a moment ago: they keep what they have while somebody arrives who is to have it."""

    def __bool__(self) -> bool:
        return bool(self.newer)


NO_ROLES: Final = Roles()
ABOUT_TO: Final = 2.0
"""Seconds for which what a leaver had waits for who arrives."""
STANDS_IN: Final = 1.5
"""How many times its share somebody older may have who is expected to leave last, where others would move it again."""


def rollouts(pods: Iterable[Pod]) -> tuple[Rollout, ...]:
    """The rollouts that a list of pods shows, and those that are over, by owner."""
    owned: defaultdict[str, defaultdict[str, list[Pod]]] = defaultdict(lambda: defaultdict(list))
    for pod in pods:
        if pod.generation is not None:
            owned[pod.generation.owner][pod.generation.name].append(pod)
    found = (_rollout(owner, generations) for owner, generations in sorted(owned.items()))
    return tuple(rollout for rollout in found if rollout is not None)


def roles(
    found: Iterable[Rollout], members: Mapping[str, Member], *, date: float, now: float, patience: float
) -> Roles:
    """Who takes which part, in rollouts that have made progress within `patience` seconds.

    `date` is the time in Unix seconds, `now` that of the members' clock.
    """
    if not patience:  # whatever the platform's clock says
        return NO_ROLES
    leaving = [member for member in members.values() if member.state is MemberState.LEAVING]
    coming = {rollout.owner: _arriving(rollout, members) for rollout in found}
    under_way = [
        rollout
        for rollout in found
        if date < rollout.progressed + patience
        # The last old pods may be gone before all new ones consume: what they had is to go to these, too.
        and (rollout.replaced or (leaving and coming[rollout.owner]))
    ]
    arriving = frozenset[str]().union(*(coming[rollout.owner] for rollout in under_way))
    return Roles(
        newer=frozenset[str]().union(*(rollout.newer for rollout in under_way)),
        older={name: tenure for rollout in under_way for name, tenure in rollout.older.items()},
        arriving=arriving,
        patient=frozenset(member.name for member in leaving if arriving and now < member.since + ABOUT_TO),
    )


def changes_at(
    found: Iterable[Rollout], members: Mapping[str, Member], *, date: float, now: float, patience: float
) -> float | None:
    """When the roles change although nothing happens, by the members' clock."""
    ends = [now + rollout.progressed + patience - date for rollout in found if rollout.replaced]
    waits = [m.since + ABOUT_TO for m in members.values() if m.state is MemberState.LEAVING]
    return min((at for at in (*ends, *waits) if at > now), default=None)


def _rollout(owner: str, generations: Mapping[str, list[Pod]]) -> Rollout | None:
    there = {name: left for name, pods in generations.items() if (left := [pod for pod in pods if _stays(pod)])}
    if not there:
        return None
    newest = _newest({name: generations[name] for name in there})
    return Rollout(
        owner=owner,
        generation=newest,
        newer=frozenset(pod.name for pod in there[newest]),
        ready=frozenset(pod.name for pod in there[newest] if pod.state is PodState.READY),
        replaced=frozenset(pod.name for name, pods in generations.items() if name != newest for pod in pods),
        older={pod.name: pod.tenure for name, pods in there.items() if name != newest for pod in pods},
        progressed=max(
            pod.changed
            for name, pods in generations.items()
            for pod in pods
            # That an old pod is ready again is no progress.
            if name == newest or not _stays(pod)
        ),
    )


def _arriving(rollout: Rollout, members: Mapping[str, Member]) -> frozenset[str]:
    return frozenset(name for name in rollout.ready if name not in members or not members[name].consuming)


def _newest(generations: Mapping[str, list[Pod]]) -> str:
    first = max(generations, key=lambda name: (min(pod.created for pod in generations[name]), name))
    last = {name: max(pod.created for pod in pods) for name, pods in generations.items()}
    undone = [name for name, pods in generations.items() if last[name] > last[first] and all(map(_stays, pods))]
    return max(undone, key=lambda name: (last[name], name), default=first)


def _stays(pod: Pod) -> bool:
    return pod.state is not PodState.TERMINATING


def pass_on(
    owners: Sequence[str | None],
    members: Collection[str],
    *,
    keeping: Collection[str] = frozenset(),
    fixed: Collection[str] = frozenset(),
    moved: Mapping[int, int] = NEVER,
    roles: Roles,
) -> tuple[str | None, ...]:
    """Owners of all partitions while something is rolled out; the arguments are those of `assign`.

    Whoever is newer, or takes no part, has then at most its share of the plain plan, or what it had; who has least is
    given the rest. What moved most often before goes to where it can stay: to who is given its share, not the rest.
    """
    eligible = frozenset(members)
    staying = eligible | frozenset(keeping)
    newer, first = eligible & roles.newer, eligible - roles.older.keys()
    share = -(-len(owners) // max(1, len(staying)))
    kept = [owner if owner in staying or owner in roles.patient else None for owner in owners]
    kept = _relieved(kept, newer=newer, first=first, share=share, moved=moved)
    room = _Room(kept, moved)
    if first < eligible:
        room.fill(first, most=share)
    if not newer:
        for lasting in _lasting(roles.older, eligible):
            room.fill(lasting, most=int(share * STANDS_IN))
    room.fill(eligible, most=len(owners))
    given = room.hand_out()
    most = -(-len(owners) // max(1, len(staying | roles.arriving)))
    for leaver in sorted(roles.patient - staying):
        room = _Room([None if owner == leaver else owner for owner in given], moved)
        if room.fill(newer, most=most):
            given = room.hand_out()
    return _levelled(given, eligible, keeping, fixed, moved, roles)


def _lasting(older: Mapping[str, int], eligible: AbstractSet[str]) -> list[list[str]]:
    """Who is older, those first that are expected to leave last; nobody where that is not known."""
    tenures = sorted({tenure for name, tenure in older.items() if name in eligible}, reverse=True)
    if len(tenures) < 2:
        return []
    return [[name for name, tenure in older.items() if name in eligible and tenure == each] for each in tenures]


def _relieved(
    owners: list[str | None],
    *,
    newer: AbstractSet[str],
    first: AbstractSet[str],
    share: int,
    moved: Mapping[int, int],
) -> list[str | None]:
    """Without what those have who have more than twice their share, as far as others lack it."""
    have = Counter(owner for owner in owners if owner is not None)
    lacking = sum(max(0, share - have[name]) for name in first) - owners.count(None)
    release = Counter({name: have[name] - share for name in newer if have[name] > 2 * share})
    relieved = owners.copy()
    for p in reversed(most_moved_first(range(len(owners)), moved)):
        owner = owners[p]
        if lacking > 0 and owner is not None and release[owner] > 0:
            relieved[p] = None
            release[owner] -= 1
            lacking -= 1
    return relieved


def _levelled(
    owners: list[str | None],
    eligible: AbstractSet[str],
    keeping: Collection[str],
    fixed: Collection[str],
    moved: Mapping[int, int],
    roles: Roles,
) -> tuple[str | None, ...]:
    """With who takes no part in a rollout balanced among themselves."""
    bystanders = (eligible | frozenset(keeping)) - roles.newer - roles.older.keys()
    places = [p for p, owner in enumerate(owners) if owner in bystanders]
    levelled = assign(
        [owners[p] for p in places],
        eligible & bystanders,
        keeping=bystanders.intersection(keeping),
        fixed=bystanders.intersection(fixed),
        moved={place: moved.get(p, 0) for place, p in enumerate(places)},
    )
    for p, owner in zip(places, levelled, strict=True):
        owners[p] = owner
    return tuple(owners)


class _Room:
    """Who gets what of partitions that nobody has: those who are filled first, what moved most often."""

    def __init__(self, owners: Sequence[str | None], moved: Mapping[int, int]) -> None:
        self._owners = owners
        self._have = Counter(owner for owner in owners if owner is not None)
        self._free = most_moved_first((p for p, owner in enumerate(owners) if owner is None), moved)
        self._given: list[Counter[str]] = []

    def fill(self, names: Collection[str], *, most: int) -> bool:
        """Give to whoever has least, up to `most` each; whether nothing is left."""
        least, given = [(self._have[name], name) for name in names], Counter[str]()
        heapq.heapify(least)
        while self._left > given.total() and least and least[0][0] < most:
            had, name = least[0]
            heapq.heapreplace(least, (had + 1, name))
            self._have[name] += 1
            given[name] += 1
        self._given.append(given)
        return not self._left

    @property
    def _left(self) -> int:
        return len(self._free) - sum(given.total() for given in self._given)

    def hand_out(self) -> list[str | None]:
        """The owners of all partitions then; in runs, as people read ranges."""
        owners, free = list(self._owners), iter(self._free)
        for given in self._given:
            takers = (name for name in sorted(given) for _ in range(given[name]))
            for p, name in zip(sorted(islice(free, given.total())), takers, strict=True):
                owners[p] = name
        return owners
