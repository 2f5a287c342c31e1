"""A rollout that is planned pod by pod moves everything several times; one that is not noticed never ends."""

import os
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partymq.core.membership import Generation, Member, Pod, PodState
from partymq.core.report import MemberState
from partymq.core.rollouts import STANDS_IN, Roles, pass_on, roles, rollouts
from unit.core.rolling import Cluster, Strategy

HISTORIES = int(os.environ.get("PARTYMQ_ROLLOUTS", "400"))
"""Of three rollouts or so each."""

OLD, NEW, OTHER = (tuple(f"{kind}{n}" for n in range(4)) for kind in "onx")
everybody = st.sampled_from([*OLD, *NEW, *OTHER])
sets = st.frozensets(everybody)


def pod(
    name: str,
    generation: str,
    *,
    created: float = 0.0,
    state: PodState = PodState.READY,
    changed: float = 0.0,
    owner: str = "Deployment orders",
) -> Pod:
    return Pod(
        name=name,
        state=state,
        generation=Generation(owner=owner, name=generation),
        created=created,
        changed=max(created, changed),
    )


def gone(name: str, generation: str, *, created: float = 0.0, changed: float = 0.0) -> Pod:
    return pod(name, generation, created=created, changed=changed, state=PodState.TERMINATING)


def newest(*pods: Pod) -> str:
    (found,) = rollouts(pods)
    return found.generation


# --- what is a rollout


def test_pods_of_one_generation_are_no_rollout() -> None:
    (over,) = rollouts([pod("a", "1"), pod("b", "1", created=9), Pod(name="c", state=PodState.READY)])
    assert not over.replaced
    assert not roles([over], {}, date=10, now=0, patience=60)


def test_two_owners_are_no_rollout() -> None:
    """A canary that is a Deployment of its own has its share, as everybody."""
    found = rollouts([pod("a", "1"), pod("b", "2", owner="Deployment canary", created=5)])
    assert not any(one.replaced for one in found)


def test_what_the_last_old_pods_had_waits_for_new_ones_although_they_are_gone() -> None:
    """Their containers end at once; new ones are ready, and do not consume yet."""
    found = rollouts([pod("b", "2", created=95), pod("c", "2", created=96)])
    members = {"a": Member(name="a", state=MemberState.LEAVING, since=50.0)}
    members["b"] = Member(name="b", state=MemberState.IDLE, since=40.0, consuming=True)
    part = roles(found, members, date=100, now=50.5, patience=60)
    assert part == Roles(newer=frozenset("bc"), arriving=frozenset("c"), patient=frozenset("a"))
    members["c"] = Member(name="c", state=MemberState.IDLE, since=50.6, consuming=True)
    assert not roles(found, members, date=100, now=50.7, patience=60), "everybody is there"


def test_the_generation_that_appeared_last_is_the_newest() -> None:
    (found,) = rollouts([pod("a", "z", created=1), pod("b", "y", created=7), pod("c", "y", created=8)])
    assert found.generation == "y"
    assert found.newer == {"b", "c"}
    assert found.older.keys() == {"a"}


def test_a_second_rollout_over_the_first_goes_to_the_third_generation() -> None:
    assert newest(pod("a", "1", created=1), pod("b", "2", created=5), pod("c", "3", created=9)) == "3"


def test_a_rollout_that_is_undone_goes_back() -> None:
    """The older generation makes pods after the newer one, and loses none."""
    undone = [pod("a", "1", created=1), gone("b", "2", created=5), pod("c", "2", created=6), pod("d", "1", created=9)]
    assert newest(*undone) == "1"


def test_a_pod_that_replaces_an_evicted_one_undoes_nothing() -> None:
    assert newest(gone("a", "1", created=1), pod("b", "2", created=5), pod("c", "1", created=9)) == "2"


def test_what_is_scaled_while_it_is_rolled_out_is_not_undone() -> None:
    """Both generations are made more of, and the older one goes on losing pods."""
    pods = [pod("a", "1", created=1), gone("b", "1", created=1), pod("c", "2", created=5), pod("d", "1", created=6)]
    assert newest(*pods) == "2"


def test_the_last_old_pods_are_part_of_it_until_they_are_gone() -> None:
    """Else what they had would be balanced before the last new pods are there."""
    (found,) = rollouts([gone("a", "1", created=1), pod("b", "2", created=5)])
    assert found.older == {}
    assert found.newer == {"b"}


def test_a_rollout_that_makes_no_progress_for_a_while_is_none() -> None:
    found = rollouts([pod("a", "1", created=1, changed=500), pod("b", "2", created=100, changed=130)])
    assert roles(found, {}, date=189, now=0, patience=60).newer == {"b"}
    assert not roles(found, {}, date=190, now=0, patience=60), "that an old pod is ready again is no progress"
    assert not roles(found, {}, date=131, now=0, patience=0), "no patience, no rollouts"


def test_what_a_leaver_had_waits_a_moment_for_who_is_about_to_consume() -> None:
    found = rollouts([gone("a", "1", created=1, changed=100), pod("b", "2", created=95), pod("c", "1", created=1)])
    members = {
        "a": Member(name="a", state=MemberState.LEAVING, since=50.0),
        "b": Member(name="b", state=MemberState.JOINING, since=40.0),
    }
    assert roles(found, members, date=100, now=50.5, patience=60).patient == {"a"}
    assert roles(found, members, date=100, now=52.0, patience=60).patient == frozenset(), "short pauses count for more"
    members["b"] = Member(name="b", state=MemberState.IDLE, since=50.2, consuming=True)
    assert roles(found, members, date=100, now=50.5, patience=60).patient == frozenset()


# --- who is given what

part = st.builds(
    Roles,
    newer=st.frozensets(st.sampled_from(NEW), min_size=1),
    older=st.dictionaries(st.sampled_from(OLD), st.integers(0, 3)),
    arriving=st.just(frozenset()),
)
owner_lists = st.lists(st.none() | everybody, max_size=40).map(tuple)


@given(owner_lists, sets, sets, part)
def test_who_stays_keeps_what_it_has(
    owners: tuple[str | None, ...], members: frozenset[str], keeping: frozenset[str], part: Roles
) -> None:
    after = pass_on(owners, members, keeping=keeping, roles=part)
    share = -(-len(owners) // max(1, len(members | keeping)))
    had = Counter(owners)
    for old, new in zip(owners, after, strict=True):
        taking_part = old in part.newer or old in part.older
        if old is not None and old in members | keeping and taking_part and had[old] <= 2 * share:
            assert new == old
        assert new is None or new in members | keeping
    assert None not in after or not members


@given(owner_lists, sets, sets, part)
def test_nobody_is_given_much_more_than_its_share(
    owners: tuple[str | None, ...], members: frozenset[str], keeping: frozenset[str], part: Roles
) -> None:
    """At most half more, or one more than whoever has least then."""
    after = pass_on(owners, members, keeping=keeping, roles=part)
    share = -(-len(owners) // max(1, len(members | keeping)))
    had, has = Counter(owners), Counter(after)
    least = min((has[name] for name in members), default=0)
    for name in members - (members - part.newer - part.older.keys()):
        if has[name] > had[name]:
            assert has[name] <= max(share if name in part.newer else int(share * STANDS_IN), least + 1)


@given(owner_lists, sets, sets, part, st.dictionaries(st.integers(0, 39), st.integers(1, 3)))
def test_planning_twice_changes_nothing(
    owners: tuple[str | None, ...], members: frozenset[str], keeping: frozenset[str], part: Roles, moved: dict[int, int]
) -> None:
    after = pass_on(owners, members, keeping=keeping, moved=moved, roles=part)
    assert pass_on(after, members, keeping=keeping, roles=part) == after, "whatever has moved since"
    after = pass_on(owners, members, keeping=keeping, roles=part)
    again = pass_on(owners, sorted(members, reverse=True), keeping=sorted(keeping), roles=part)
    assert again == after, "the order of members matters"


def test_an_older_pod_is_given_something_only_where_nobody_newer_consumes() -> None:
    part = Roles(newer=frozenset({"n0"}), older={"o1": 0, "o2": 0})
    owners = ("o0",) * 4 + ("o1",) * 4 + ("o2",) * 4
    assert Counter(pass_on(owners, {"o1", "o2"}, roles=part)) == {"o1": 6, "o2": 6}
    assert Counter(pass_on(owners, {"o1", "o2", "n0"}, roles=part)) == {"o1": 4, "o2": 4, "n0": 4}


def test_who_stands_in_is_who_is_taken_away_last() -> None:
    """What it is given moves once more in any case; what others are given would move a third time, or unbalance."""
    part = Roles(newer=frozenset({"n0"}), older={"o1": 3, "o2": 9, "o3": 5})
    owners = ("o0",) * 4 + ("o1",) * 4 + ("o2",) * 4 + ("o3",) * 4
    assert Counter(pass_on(owners, {"o1", "o2", "o3"}, roles=part)) == {"o1": 4, "o2": 8, "o3": 4}


def test_what_stood_in_somewhere_goes_to_where_it_can_stay() -> None:
    """The new pod has room for its share; the rest stands in with old ones, and moves again."""
    part = Roles(newer=frozenset({"n0"}), older={"o1": 0})
    owners = ("o0",) * 4 + ("n0",) * 2 + ("o1",) * 2
    assert pass_on(owners, {"n0", "o1"}, moved={2: 1, 3: 1}, roles=part)[:4] == ("o1", "o1", "n0", "n0")


def test_who_was_the_first_gives_up_what_moved_least() -> None:
    part = Roles(newer=frozenset(NEW))
    after = pass_on(("n0",) * 16, NEW, moved=dict.fromkeys(range(12, 16), 2), roles=part)
    assert after[12:] == ("n0",) * 4


def test_who_was_the_first_does_not_keep_everything() -> None:
    """All old pods were gone when the first new one consumed."""
    part = Roles(newer=frozenset(NEW))
    assert Counter(pass_on(("n0",) * 16, {"n0", "n1"}, roles=part)) == {"n0": 16}
    assert Counter(pass_on(("n0",) * 16, NEW, roles=part)) == {"n0": 4, "n1": 4, "n2": 4, "n3": 4}


def test_a_leaver_hands_over_to_each_as_it_arrives() -> None:
    part = Roles(newer=frozenset({"n0", "n1"}), arriving=frozenset({"n1"}), patient=frozenset({"o0", "o1"}), older={})
    owners = ("o0",) * 4 + ("o1",) * 4
    assert pass_on(owners, {"n0"}, roles=part) == ("n0",) * 4 + ("o1",) * 4


def test_other_owners_pods_are_balanced_as_ever() -> None:
    """A canary is scaled while the rest is rolled out."""
    part = Roles(newer=frozenset({"n0"}), older={"o0": 0})
    after = pass_on(("o0",) * 4 + ("x0",) * 4, {"o0", "n0", "x0", "x1"}, roles=part)
    assert Counter(after) == {"o0": 4, "x0": 2, "x1": 2}


# --- whole rollouts

AT_ONCE = (-0.3, -0.1)
"""A new pod is available only when it consumes, as with a readiness probe."""


def rolled_out(strategy: Strategy, *, partitions: int = 64, seed: int = 0, foreseen: bool = True) -> Cluster:
    """A Deployment that was rolled out and has settled, with what that took."""
    cluster = Cluster(strategy=strategy, partitions=partitions, seed=seed, foreseen=foreseen)
    cluster.roll_out("1")
    cluster.settle()
    cluster.run(600)
    cluster.moves.clear()
    cluster.remembered.clear()
    cluster.handoffs = 0
    cluster.roll_out("2")
    cluster.settle()
    return cluster


def assert_settled(cluster: Cluster) -> None:
    present = cluster.of(cluster.generation)
    assert len(present) == len(cluster.pods) == cluster.replicas
    assert not cluster.plan()
    counts = [cluster.counts[each.name] for each in present]
    assert sum(counts) == cluster.partitions
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("strategy", "partitions", "moved", "handoffs", "most"),
    [
        (Strategy(surge=0.01, unavailable=0, consumes=AT_ONCE), 64, 66, 9, 1),
        (Strategy(consumes=AT_ONCE, min_ready=5), 64, 82, 12, 2),
        (Strategy(surge=1.0, unavailable=0, consumes=AT_ONCE), 64, 66, 9, 1),
        (Strategy(replicas=24, consumes=AT_ONCE, min_ready=5, starts=(1, 6)), 256, 332, 36, 2),
    ],
    ids=["surge of one", "the default", "surge of all", "24 pods"],
)
def test_the_rollouts_that_people_do(strategy: Strategy, partitions: int, moved: int, handoffs: int, most: int) -> None:
    for seed in range(5):
        cluster = rolled_out(strategy, partitions=partitions, seed=seed)
        assert_settled(cluster)
        assert sum(cluster.moves.values()) <= moved
        assert cluster.handoffs <= handoffs
        assert max(cluster.moves.values()) <= most


@pytest.mark.parametrize(
    ("strategy", "moved", "most"),
    [
        (Strategy(starts=(0.3, 1.2), consumes=(0.5, 1.0)), 90, 2),
        (Strategy(starts=(1.0, 3.0), consumes=(1.0, 3.0)), 110, 3),
    ],
    ids=["quick starts", "a busy node"],
)
def test_the_default_without_a_probe(strategy: Strategy, moved: int, most: int) -> None:
    """Pods count as available a while before they consume; a third of them would move for nothing."""
    clusters = [rolled_out(strategy, seed=seed) for seed in range(30)]
    for cluster in clusters:
        assert_settled(cluster)
    assert sum(sum(cluster.moves.values()) for cluster in clusters) / len(clusters) <= moved
    assert max(max(cluster.moves.values()) for cluster in clusters) <= most


def test_with_a_probe_no_partition_moves_more_than_twice() -> None:
    """What the first old pods left stood in with others; it must not be what these, or full new ones, hand on again."""
    strategy = Strategy(replicas=24, consumes=AT_ONCE, min_ready=3, starts=(2, 8))
    for seed in range(5):
        assert max(rolled_out(strategy, partitions=256, seed=seed).moves.values()) <= 2


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        Strategy,
        replicas=st.integers(1, 9),
        surge=st.floats(0.01, 1.0),
        unavailable=st.just(0.0),
        starts=st.just((0.5, 3.0)),
        consumes=st.just(AT_ONCE),
        min_ready=st.sampled_from([0.0, 2.0]),
    ),
    st.integers(1, 70),
    st.integers(0, 1000),
)
def test_a_rollout_without_failures_moves_no_partition_twice(strategy: Strategy, partitions: int, seed: int) -> None:
    cluster = rolled_out(strategy, partitions=partitions, seed=seed)
    assert_settled(cluster)
    assert max(cluster.moves.values(), default=0) <= 1


def play(seed: int) -> None:
    """A random history of rollouts, with crashes, scaling and new sessions in the middle."""
    random = Random(seed)
    starts = random.uniform(0.2, 5.0)
    strategy = Strategy(
        replicas=random.randint(1, 10),
        surge=random.choice([0.0, random.uniform(0.01, 1.0)]),
        unavailable=random.uniform(0.01, 1.0),
        starts=(starts, starts * random.uniform(1.0, 2.0)),
        consumes=random.choice([AT_ONCE, (0.0, 0.0), (0.2, 1.5)]),
        min_ready=random.choice([0.0, 3.0]),
        terminates=random.choice([0.1, 5.0]),
    )
    cluster = Cluster(strategy=strategy, partitions=random.choice([3, 16, 64]), seed=seed)
    cluster.foreseen = random.random() < 0.5
    cluster.roll_out("1")
    cluster.settle()
    for generation in range(2, 5):
        # Over each other now and then; undone where it is one of those before.
        cluster.roll_out(str(random.choice([generation, generation, generation - 1])))
        for _ in range(random.randint(0, 3)):
            cluster.run(random.uniform(0.0, 6.0))
            match random.randint(0, 3):
                case 0 if cluster.there:
                    cluster.crash(random.choice(cluster.there).name)
                case 1:
                    cluster.scale(random.randint(1, 10))
                case 2:
                    before = cluster.parts()
                    cluster.new_session()
                    after = cluster.parts()
                    assert (after.newer, after.older) == (before.newer, before.older)
                case _:
                    pass
        if random.random() < 0.7:
            cluster.settle()
    cluster.settle()
    assert_settled(cluster)
    assert cluster.unowned == 0.0, "somebody consumes, and a partition has no owner"


@pytest.mark.parametrize("part_of", range(4))
def test_whatever_happens_in_rollouts_everything_is_owned_and_balanced_in_the_end(part_of: int) -> None:
    for seed in range(part_of, HISTORIES, 4):
        try:
            play(seed)
        except AssertionError as error:
            raise AssertionError(f"history {seed}") from error
