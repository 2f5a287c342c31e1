"""What may happen in a history, and how it is played.

Invariant: a setting (with its seed) and a script determine a history completely.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from partymq.router.failpoints import OF_CLIENTS, Point
from partymq.router.flow.source_reader import PREFETCH
from support.fake_kubernetes import VirtualLoop
from unit.sim.wire import Refusal
from unit.sim.world import Setting, World, inhabited

MEMBERS = ("a", "b", "c")
KEYS = ("k0", "k1", "k2", "k3", "k4", "k5", "k6", "")


@dataclass(frozen=True)
class Produce:
    """`count` messages, of one key after the other, `gap` seconds apart while other things happen."""

    count: int
    keys: int = 6
    gap: float = 0.0


@dataclass(frozen=True)
class Join:
    member: str


@dataclass(frozen=True)
class Leave:
    """`how`: closed (SIGTERM, with whatever it holds), drained (it finishes what it holds), killed."""

    member: str
    how: str


@dataclass(frozen=True)
class Trouble:
    """`what` a client does: lost, drained, slow, stuck, works, requeues."""

    member: str
    what: str


@dataclass(frozen=True)
class Crash:
    """The router dies after so many more effects, and another process starts."""

    effects: int


@dataclass(frozen=True)
class CrashAt:
    """The router dies when it comes to the point."""

    point: Point


@dataclass(frozen=True)
class Stall:
    """The router's network stops; the broker and the router notice, after so many seconds each."""

    broker: float
    router: float


@dataclass(frozen=True)
class Restart:
    """The router stops gracefully, and another process starts."""


@dataclass(frozen=True)
class LoseSide:
    """The router's second connection breaks."""


@dataclass(frozen=True)
class Poison:
    """`count` messages that the broker takes into the source and refuses to take again, `kind` is how."""

    count: int
    kind: Refusal = Refusal.WORDS


@dataclass(frozen=True)
class Refuse:
    """From now on the broker refuses what it is to refuse, or does not any more."""

    refuses: bool = True


@dataclass(frozen=True)
class Hush:
    """The leaders of `what` (source, segments) are busy: for `silent` seconds polls of these queues give zeros.

    For `deaf` seconds they take no note of the end of channels that they know by now: these keep what they hold, and
    are given more, as far as their prefetch goes.
    """

    what: str
    silent: float
    deaf: float = 0.0


@dataclass(frozen=True)
class LoseNode:
    """The broker's node is killed for some seconds that `whose` connection (the router's, a member's) is to."""

    whose: str
    seconds: float


@dataclass(frozen=True)
class LoseJournal:
    """Somebody deletes the journal."""


Step = (
    Produce
    | Poison
    | Refuse
    | Join
    | Leave
    | Trouble
    | Crash
    | CrashAt
    | Stall
    | Restart
    | LoseSide
    | LoseJournal
    | LoseNode
    | Hush
)


@dataclass(frozen=True)
class Act:
    """A step, and the pause after it in seconds."""

    step: Step
    pause: float


@dataclass
class Outcome:
    """What came of a history."""

    violations: list[str]
    log: list[str] = field(repr=False)
    handoffs: int
    kills: int
    points: frozenset[Point]
    poisoned: list[str] = field(default_factory=list)
    """Queues in which messages stand that the broker refuses to take again."""
    kept: list[str] = field(default_factory=list)
    """Such messages, as the router names those that it left where they were."""


PAUSES = st.sampled_from([0.0, 0.002, 0.01, 0.03, 0.1, 0.4, 1.0, 2.5])
members = st.sampled_from(MEMBERS)
produces = st.builds(
    Produce, count=st.integers(1, 30), keys=st.sampled_from([2, 6, 8]), gap=st.sampled_from([0.0, 0.003, 0.02])
)
moves = st.one_of(
    st.builds(Join, members), st.builds(Leave, members, how=st.sampled_from(["closed", "drained", "killed"]))
)
troubles = st.builds(
    Trouble,
    members,
    what=st.sampled_from(["lost", "lost", "drained", "slow", "stuck", "works", "requeues", "refuses", "accepts"]),
)
faults = st.one_of(
    st.builds(Crash, effects=st.integers(1, 120)),
    st.builds(CrashAt, st.sampled_from([point for point in Point if point not in OF_CLIENTS])),
    st.builds(Stall, broker=st.sampled_from([0.05, 0.5, 5.0]), router=st.sampled_from([0.02, 0.3, 8.0])),
    st.builds(Restart),
    st.builds(LoseSide),
    st.builds(LoseJournal),
    st.builds(LoseNode, st.sampled_from(["router", *MEMBERS]), seconds=st.sampled_from([0.5, 3.0, 9.0])),
)
steps = st.one_of(produces, moves, produces, troubles, moves, faults)
acts = st.builds(Act, steps, PAUSES)
scripts = st.builds(
    lambda first, rest: [first, *rest], st.builds(Act, produces, PAUSES), st.lists(acts, min_size=4, max_size=24)
)
settings_of_histories = st.builds(
    Setting,
    seed=st.integers(0, 2**32 - 1),
    pace=st.sampled_from(["even", "uneven", "rough"]),
    members=st.integers(1, 3),
    prefetch=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([2, 6, 20]),
    partitions=st.sampled_from([2, 4]),
    routers=st.integers(1, 2),
    quorum_source=st.booleans(),
    source_prefetch=st.sampled_from([5, PREFETCH]),
    hasty=st.booleans(),
    shuffles=st.booleans(),
    returning=st.booleans(),
    silences=st.booleans(),
    soft_limit=st.sampled_from([1, 2, 32]),
    budget=st.sampled_from([150, 1500, 1 << 28]),
    listed=st.booleans(),
    generations=st.integers(0, 3),
    zombies=st.booleans(),
    keeps=st.booleans(),
    nodes=st.booleans(),
    fragile=st.booleans(),
)


def play(setting: Setting, script: Sequence[Act], *, begin: float = 0.5) -> Outcome:
    """Plays a history to its end in virtual time; the script begins so many seconds after everything starts."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_play(setting, script, begin))


async def _play(setting: Setting, script: Sequence[Act], begin: float) -> Outcome:
    with inhabited(setting) as world:
        await world.begin()
        await asyncio.sleep(begin)
        for act in script:
            world.log(str(act.step))
            await _do(world, act.step)
            await asyncio.sleep(act.pause)
        await world.settle()
        poisoned = world.poisoned
        kept = world.kept
        await world.end()
        violations = world.violations()
        if all(isinstance(act.step, Produce | Join | Leave | Trouble) for act in script):
            violations += [f"for a member's trouble: {line}" for line in world.lines if " ended: " in line]
        return Outcome(
            violations=violations,
            log=world.lines,
            handoffs=world.handoffs,
            kills=world.kills,
            points=frozenset(world.points),
            poisoned=poisoned,
            kept=kept,
        )


async def _do(world: World, step: Step) -> None:
    match step:
        case Produce(count, keys, gap):
            for number in range(count):
                world.publish(KEYS[number % keys], later=number * gap)
        case Poison(count, kind):
            for number in range(count):
                world.poison(KEYS[number % 6], kind, later=0.0)
        case Refuse(refuses):
            world.strict = refuses
        case Join(member):
            world.join(member)
        case Leave(member, how):
            _leave(world, member, how)
        case Trouble(member, what):
            _trouble(world, member, what)
        case LoseJournal():
            world.lose_journal()
        case LoseNode(whose, seconds):
            world.lose_node(whose, seconds)
        case Hush(what, silent, deaf):
            world.hush(what, silent=silent, deaf=deaf)
        case _:
            await _fault(world, step)


def _leave(world: World, member: str, how: str) -> None:
    client = world.clients.get(member)
    if client is None or member not in world.pods:
        return
    if how == "killed":
        client.kill()
        world.loop.call_later(world.random.uniform(0.0, 0.5), world.remove, member)
        return
    world.terminate(member)
    if how == "drained":
        client.drain(end=True)
    else:
        client.close()
    world.loop.call_later(world.random.uniform(0.1, 1.0), world.remove, member)


def _trouble(world: World, member: str, what: str) -> None:
    client = world.clients.get(member)
    if client is None:
        return
    match what:
        case "lost":
            client.lose()
        case "drained":
            client.drain()
        case "slow":
            client.pause = 0.3
        case "stuck":
            client.stuck = True
        case "refuses":
            world.refuse(member)
        case "accepts":
            world.accept(member)
        case "requeues":
            client.requeue()
        case _:
            client.unstick()


async def _fault(world: World, step: Step) -> None:
    router = world.router
    if router is None:
        world.start_router("next")
        return
    match step:
        case Crash(effects):
            router.crash_after = effects
        case CrashAt(point):
            router.crash_at = point
        case Stall(broker, noticed):
            router.stall(broker, noticed)
            if len(world.routers) == 1:
                world.start_router("other")
        case LoseSide():
            router.lose_side()
        case Restart():
            world.start_router("next")
            await asyncio.wait([asyncio.ensure_future(router.stop())], timeout=3.0)
