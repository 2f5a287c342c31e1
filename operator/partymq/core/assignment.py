"""Which member owns which partition.

Invariant: counts of members are at most 1 apart, and no assignment that achieves this moves fewer partitions from their
present owners; among those, the fewest members give any up (each one that does is emptied by a handoff). The result
depends on values only, not on their order, and is its own fixed point: whoever plans twice changes nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Final

NEVER: Final[Mapping[int, int]] = MappingProxyType({})
"""No partition has moved."""


def assign(
    owners: Sequence[str | None],
    members: Collection[str],
    keeping: Collection[str] = frozenset(),
    fixed: Collection[str] = frozenset(),
    moved: Mapping[int, int] = NEVER,
) -> tuple[str | None, ...]:
    """Owners of all partitions, starting from the present ones; None where there is nobody to own it.

    `keeping` are members that are absent for a moment. They count for the balance like the others, but get nothing: one
    of them keeps what it has up to its quota, and if that is less than its quota the others share the rest. So its
    absence alone moves nothing, and when it is back only what it lacks moves.

    `fixed` are those of `members` and `keeping` that keep all that they have, even beyond a quota; the others share the
    rest. `moved` says how often partitions have moved of late: who gives some up gives up those that moved least.
    """
    eligible = frozenset(members)
    staying = frozenset(keeping) - eligible
    have = Counter(owner for owner in owners if owner in eligible or owner in staying)
    room = _quotas(len(owners), have, eligible, staying, frozenset(fixed))
    kept: list[str | None] = [None] * len(owners)
    for p in most_moved_first(range(len(owners)), moved):
        owner = owners[p]
        if owner is not None and room.get(owner, 0) > 0:
            room[owner] -= 1
            kept[p] = owner
    # In runs rather than in turns: people read ranges.
    takers = (name for name in sorted(eligible) for _ in range(room[name]))
    return tuple(next(takers, None) if owner is None else owner for owner in kept)


def most_moved_first(partitions: Iterable[int], moved: Mapping[int, int]) -> list[int]:
    """Those that should not move again come first; of equals, the lower ones."""
    return sorted(partitions, key=lambda p: (-moved.get(p, 0), p)) if moved else sorted(partitions)


def _quotas(
    total: int,
    have: Mapping[str, int],
    eligible: AbstractSet[str],
    staying: AbstractSet[str],
    fixed: AbstractSet[str],
) -> dict[str, int]:
    """How many partitions each member shall have; a staying member's quota is at most what it has."""
    if not eligible:
        return {name: have[name] for name in staying}
    quotas: dict[str, int] = {}
    pool = set(eligible | staying)
    while pool:
        floor, larger = divmod(total, len(pool))
        # What a fixed member has beyond its share lowers that of the rest, which may leave the next one beyond it.
        settled = [name for name in fixed & pool if have[name] > floor]
        # What a staying member lacks raises the share of the rest, which may leave the next one short.
        settled = settled or [name for name in staying & pool if have[name] <= floor]
        if not settled:
            break
        for name in settled:
            quotas[name] = have[name]
            total -= have[name]
            pool.remove(name)

    if not pool:
        return quotas
    # The larger quota saves a move for each member that has so many, and a handoff for one that has exactly so many.
    ranked = sorted(pool, key=lambda name: (have[name] != floor + 1, -have[name], name))
    quotas |= {name: floor + (rank < larger) for rank, name in enumerate(ranked)}
    return quotas
