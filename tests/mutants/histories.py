"""Busy histories, by what they are full of: random ones, and some that lead to the one moment in which a rule matters.

Invariant: none of them breaks a promise while every rule is in place.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Final

from partymq.router.failpoints import OF_CLIENTS, Point
from unit.sim.script import (
    Act,
    Crash,
    CrashAt,
    Hush,
    Join,
    Leave,
    LoseNode,
    Poison,
    Produce,
    Restart,
    Stall,
    Step,
    Trouble,
)
from unit.sim.wire import Refusal
from unit.sim.world import Setting

FULL: Final = ("full", "full of older segments")
OLDER: Final = ("full of older segments", "hushed segments")
"""Segments are as an older version has declared them: the broker itself does not keep a second reader waiting."""
HASTY: Final = ("restarts", "shuffled")
"""What is confirmed behind something that waits is acknowledged at once."""


def history(kind: str, seed: int) -> tuple[Setting, list[Act]]:
    """A busy history in which `kind` happens a lot."""
    random = Random(seed)
    setting = Setting(
        seed=seed,
        pace=random.choice(["uneven", "rough"]),
        members=2,
        prefetch=random.choice([1, 2, 4]),
        window=2 if kind in FULL else random.choice([2, 6, 20]),
        partitions=4,
        routers=2 if kind == "two" else 1,
        quorum_source=kind in ("stops", "refused") or random.random() < 0.5,
        hasty=kind in HASTY,
        shuffles=kind == "shuffled",
        delivery_limit=3 if kind == "refused" else None,
        zombies=kind == "zombies",
        older=kind in OLDER,
    )
    if kind in LEADING:
        return setting, LEADING[kind](random)
    if kind == "deletions":
        return replace(setting, pace="rough", fragile=True), _deletions(random)
    if kind == "crowded":
        setting = replace(setting, window=random.choice([2, 3]), prefetch=random.choice([1, 2]), beside=1.0)
        return setting, _crowded(random, setting.prefetch)
    if kind == "hushed source":
        return replace(setting, quorum_source=True), _hushed_source(random)
    if kind == "lost segments":
        return replace(setting, pace="rough", quorum_source=False, nodes=True, older=True), _lost_segments(random)
    if kind == "lost clients":
        return replace(setting, pace="rough", nodes=True, keeps=True, older=True, zombies=True), _lost_clients(random)
    if kind == "hushed stops":
        return replace(setting, quorum_source=True, source_prefetch=5), _hushed_stops(random)
    script = [Act(Produce(30, 8, 0.005), 0.05)]
    for _ in range(random.randint(3, 8)):
        script.append(Act(_step(kind, random), random.choice([0.0, 0.005, 0.03, 0.1, 0.4])))
        if random.random() < 0.5:
            script.append(Act(Produce(random.randint(5, 30), 8, random.choice([0.0, 0.005])), 0.01))
    return setting, script


def _epochs(random: Random) -> list[Act]:
    """Messages of several sessions stand in the inboxes when those are taken over."""
    stuck = [Act(Trouble("a", "stuck"), 0.0), Act(Trouble("b", "stuck"), 0.0)]
    sessions = [Act(step, 1.2) for _ in range(3) for step in (Produce(6, 6), Crash(random.randint(1, 20)))]
    return [Act(Produce(12, 6), 0.5), *stuck, *sessions, Act(Produce(6, 6), 0.1), Act(Join("c"), 1.0)]


def _deletions(random: Random) -> list[Act]:
    """Members are gone, whose inboxes are taken over again and again until they hold nothing any more."""
    script = []
    for name in "abab":
        going = [Act(Leave(name, random.choice(["drained", "killed"])), random.uniform(0.5, 1.5)), Act(Join(name), 0.3)]
        script += [Act(Produce(20, 6, 0.003), random.uniform(0.0, 0.1)), *going]
    return [Act(Produce(6, 6), 0.5), *script]


def _visits(random: Random) -> list[Act]:
    """Pods come, and go before they are members; so does the router."""
    script = []
    for name in "cdef":
        end: Step = Crash(0) if random.random() < 0.5 else Restart()
        visit = [Act(Join(name), random.uniform(0.0, 0.15)), Act(Leave(name, "killed"), 0.0), Act(end, 1.0)]
        script += [Act(Produce(5, 6), 0.2), *visit]
    return script


def _crowded(random: Random, prefetch: int) -> list[Act]:
    """Again and again an inbox goes over to a member that takes one or two of its messages, and no more for now.

    While that one's client is stuck, credit is what is left of a window. So the rest of the messages can come with the
    confirm of the first ones, and wait; and a fence that is sent then is back before they may go.
    """
    script = []
    for _ in range(3):
        script += [Act(Join("b"), 0.5), Act(Trouble("a", "stuck"), 0.0), Act(Trouble("b", "stuck"), 0.0)]
        script += [Act(Produce(3 * prefetch, 3), 0.5), Act(Produce(random.randint(2, 6), 2), 0.5)]
        script += [Act(Leave("b", "killed"), random.uniform(1.5, 2.5)), Act(Trouble("a", "works"), 1.0)]
    return script


def _hushed_segments(random: Random) -> list[Act]:
    """Readers of backlogs die with messages of slow members; their queues hear of it late, and are silent meanwhile."""
    slow = [Act(Trouble("a", "slow"), 0.0), Act(Trouble("b", "slow"), 0.0)]
    death = [Act(Crash(1), 0.0), Act(Hush("segments", 1.5, random.choice([1.5, 2.5])), 0.4)]
    return [*slow, Act(Produce(60, 6), random.uniform(2.0, 4.0)), *death, Act(Produce(30, 6, 0.05), 3.0)]


def _hushed_source(random: Random) -> list[Act]:
    """A reader of the source dies with messages; the source is silent, and gives it newer ones until it hears of that.

    While it is silent the next reader comes, and is given one message of every second key. These have to go back: to
    the dead one, from which they return behind what that held. Of a key with several, the order would be lost whatever
    the router does (docs/guarantees.md, the limits).
    """
    death = [Act(Produce(random.randint(10, 40), 6), random.uniform(0.0, 0.01)), Act(Crash(random.randint(1, 20)), 0.0)]
    silence = [Act(Hush("source", 2.5, 4.5), 1.8), Act(Produce(6, 6), 4.0)]
    return [Act(Produce(6, 6), 1.5), *death, *silence, Act(Produce(12, 6), 1.0)]


def _hushed_stops(random: Random) -> list[Act]:
    """Routers stop in order while the source has more than they may be given, and says nothing."""
    stop = [Act(Hush("source", 1.0), 0.0), Act(Restart(), 1.5)]
    flow = [Act(Produce(60, 6, 0.0), random.choice([0.005, 0.01, 0.02])) for _ in range(3)]
    return [Act(Produce(6, 6), 1.0), *(act for each in flow for act in (each, *stop))]


def _lost_segments(random: Random) -> list[Act]:
    """The router is lost with its node, while it reads backlogs; messages of a key come when the node comes back."""
    away = random.uniform(17.0, 20.0)
    slow = [Act(Trouble("a", "slow"), 0.0), Act(Trouble("b", "slow"), 0.0)]
    loss = [Act(Produce(60, 6), random.uniform(1.0, 2.0)), Act(LoseNode("router", away), away - 3.0)]
    return [*slow, *loss, Act(Produce(20, 1), 2.9), Act(Produce(300, 1, 0.001), 3.0)]


def _lost_clients(random: Random) -> list[Act]:
    """A client is lost with its node, and what it held; it is to be taken over at once."""
    stuck = [Act(Trouble("a", "stuck"), 0.0), Act(Trouble("b", "stuck"), 0.0)]
    held = Act(Produce(30, 6, 0.003), random.uniform(0.1, 0.5))
    loss = [Act(LoseNode("a", random.uniform(2.0, 12.0)), random.uniform(0.0, 1.0)), Act(Join("c"), 1.0)]
    works = [Act(Trouble("a", "works"), 0.1), Act(Trouble("b", "works"), 0.1)]
    return [Act(Produce(6, 6), 2.0), *stuck, held, *loss, *works, Act(Produce(20, 6, 0.003), 2.0)]


def _stops(random: Random) -> list[Act]:
    """Routers stop in order while much comes, and die of it."""
    flow = [Act(Produce(60, 2, 0.0002), random.choice([0.001, 0.003, 0.006])) for _ in range(3)]
    faults: list[Step] = [CrashAt(Point.CANCELLED), Crash(random.randint(1, 60))]
    crash = Act(random.choice(faults), 0.0)
    return [Act(Produce(4, 2), 2.0), *(act for each in flow for act in (each, crash, Act(Restart(), 1.0)))]


def _step(kind: str, random: Random) -> Step:
    member = random.choice("abc")
    common: list[Step] = [
        Join(member),
        Join(member),
        Leave(member, random.choice(["closed", "drained", "killed"])),
        Trouble(member, random.choice(["lost", "slow", "works", "stuck"])),
    ]
    special: dict[str, list[Step]] = {
        "moves": [],
        "zombies": [Trouble(member, random.choice(["stuck", "stuck", "lost", "works"]))] * 4,
        "cancels": [Trouble(member, "drained"), Trouble(member, "slow")],
        "crashes": [
            Crash(random.randint(1, 150)),
            CrashAt(random.choice([point for point in Point if point not in OF_CLIENTS])),
        ]
        * 2,
        "extracting": [CrashAt(random.choice([Point.COPYING, Point.COPIED]))] * 3,
        "committing": [CrashAt(Point.COMMITTED)] * 3,
        "refused": [Poison(random.randint(1, 3), random.choice(list(Refusal)))] * 4,
        "refusals": [Trouble(member, random.choice(["refuses", "accepts"]))] * 3,
        **dict.fromkeys(HASTY, [Crash(random.randint(1, 400))] * 8),
        **dict.fromkeys(FULL, [Trouble(member, random.choice(["stuck", "works"])), Crash(random.randint(1, 200))] * 3),
        "two": [Stall(random.choice([0.05, 0.5]), random.choice([0.3, 8.0])), Restart(), Crash(random.randint(1, 100))],
    }
    return random.choice(common + special[kind])


LEADING: Final[Mapping[str, Callable[[Random], list[Act]]]] = {
    "epochs": _epochs,
    "hushed segments": _hushed_segments,
    "stops": _stops,
    "visits": _visits,
}
"""To one moment, whatever the setting is."""
