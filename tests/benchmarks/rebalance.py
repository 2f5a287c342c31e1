"""How much moves when members come and go, and how even it is: a simulation of random histories, without a broker.

The same histories are played to PartyMQ's assignment and to what people use in its place:

    x-consistent-hash   RabbitMQ's exchange: jump consistent hashing over the queues in the order in which they were
                        bound; when one goes, those after it move up
    ring                a textbook ring with 100 points for each member
    modulo              hash mod number of members, members in order of their names
    blocks              contiguous ranges of equal size, members in order of their names
    ideal               the fewest moves that leave PartyMQ's counts at most 1 apart, computed for each step

"Moved" is the share of partitions that change their owner at a step; "excess" is the fullest member's count over an
even share. Methods that hash are given as many keys as there are partitions.
"""

import random
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import mmh3

from benchmarks.harness import Run
from partymq.core.assignment import assign

HISTORIES = 2000
STEPS = 10
PARTITIONS = 128
MEMBERS_MAX = 20
_POINTS = 100
_SEED = 6

Owners = tuple[str | None, ...]
Method = Callable[[Owners, Sequence[str]], Owners]

_HASHES = [mmh3.hash(b"key-%d" % p, 0, signed=False) for p in range(PARTITIONS)]


async def measure(run: Run) -> None:
    """Plays the histories."""
    histories = HISTORIES // 50 if run.quick else HISTORIES
    run.say(f"rebalance: {histories:,} histories of {STEPS} changes")
    random.seed(_SEED)
    moved: dict[str, float] = defaultdict(float)
    excess: dict[str, float] = defaultdict(float)
    for _ in range(histories):
        _play(_history(), moved, excess)
    for name in (*METHODS, "ideal"):
        run.results.add(f"rebalance.moved.{name}", "% a change", 100 * moved[name] / (histories * STEPS * PARTITIONS))
        if name != "ideal":
            run.results.add(f"rebalance.excess.{name}", "%", 100 * excess[name] / (histories * STEPS))
    others = {name: f"rebalance.moved.{name}" for name in (*METHODS, "ideal") if name != "partymq"}
    run.results.compare("rebalance.moved.partymq", others)


def _history() -> list[list[str]]:
    """Members at each step, in the order in which they came; one comes or goes at a time."""
    members = [f"pod-{random.randrange(10**6)}" for _ in range(random.randint(2, MEMBERS_MAX - 1))]
    history = [members]
    for _ in range(STEPS):
        members = [*members]
        if len(members) < MEMBERS_MAX and (len(members) == 1 or random.random() < 0.5):
            members.append(f"pod-{random.randrange(10**6)}")
        else:
            members.pop(random.randrange(len(members)))
        history.append(members)
    return history


def _play(history: list[list[str]], moved: dict[str, float], excess: dict[str, float]) -> None:
    nobody: Owners = (None,) * PARTITIONS
    for name, method in METHODS.items():
        owners = method(nobody, history[0])
        for members in history[1:]:
            before, owners = owners, method(owners, members)
            moved[name] += sum(a != b for a, b in zip(before, owners, strict=True))
            share = PARTITIONS / len(members)
            excess[name] += max(Counter(owners).values()) / share - 1
            if name == "partymq":
                moved["ideal"] += _fewest(before, members)


def _fewest(owners: Owners, members: Sequence[str]) -> int:
    """The fewest partitions that must move for counts that are at most 1 apart."""
    have = Counter(owner for owner in owners if owner in set(members))
    floor, larger = divmod(len(owners), len(members))
    counts = sorted((have[member] for member in members), reverse=True)
    kept = sum(min(count, floor + (rank < larger)) for rank, count in enumerate(counts))
    return len(owners) - kept


def _partymq(owners: Owners, members: Sequence[str]) -> Owners:
    return assign(owners, members)


def exchange(_: Owners, members: Sequence[str]) -> Owners:
    """RabbitMQ's consistent hash exchange."""
    return tuple(members[_jump(value, len(members))] for value in _HASHES)


def _jump(key: int, buckets: int) -> int:
    """Jump consistent hash (Lamping and Veach, 2014)."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        key = (key * 2862933555777941757 + 1) % 2**64
        following = int((bucket + 1) * (2**31 / ((key >> 33) + 1)))
    return bucket


def _ring(_: Owners, members: Sequence[str]) -> Owners:
    points = sorted((point, member) for member in members for point in _points(member))
    places = [point for point, _ in points]
    return tuple(points[bisect(places, value) % len(points)][1] for value in _HASHES)


_known_points: dict[str, list[int]] = {}


def _points(member: str) -> list[int]:
    if member not in _known_points:
        _known_points[member] = [mmh3.hash(f"{member}/{n}", 0, signed=False) for n in range(_POINTS)]
    return _known_points[member]


def _modulo(_: Owners, members: Sequence[str]) -> Owners:
    ordered = sorted(members)
    return tuple(ordered[value % len(ordered)] for value in _HASHES)


def _blocks(_: Owners, members: Sequence[str]) -> Owners:
    ordered = sorted(members)
    return tuple(ordered[p * len(ordered) // PARTITIONS] for p in range(PARTITIONS))


METHODS: dict[str, Method] = {
    "partymq": _partymq,
    "x-consistent-hash": exchange,
    "ring": _ring,
    "modulo": _modulo,
    "blocks": _blocks,
}
