"""A partition that moves without need costs a handoff; one that stays where it should not overloads a member."""

import itertools
import random
from collections import Counter
from collections.abc import Collection, Sequence
from time import perf_counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partymq.core.assignment import assign

Owners = tuple[str | None, ...]

NAMES = [f"m{n}" for n in range(8)]
names = st.sampled_from(NAMES)
member_sets = st.frozensets(names, max_size=6)
small = st.lists(st.none() | names, max_size=40).map(tuple)
large = st.builds(
    lambda seed, size, spread: tuple(random.Random(seed).choices([None, *(f"w{n}" for n in range(spread))], k=size)),
    st.integers(0, 10_000),
    st.integers(200, 4096),
    st.integers(1, 200),
)


def moves(before: Owners, after: Owners) -> int:
    """Partitions that somebody loses: placing one that nobody had is not a move."""
    return sum(old is not None and old != new for old, new in zip(before, after, strict=True))


def donors(before: Owners, after: Owners, members: Collection[str]) -> set[str]:
    return {old for old, new in zip(before, after, strict=True) if old is not None and old in members and old != new}


def counts(owners: Owners, members: Collection[str]) -> list[int]:
    count = Counter(owners)
    return [count[member] for member in members]


def fewest_moves(owners: Owners, members: Collection[str]) -> int:
    """The theoretical optimum: every member keeps the lower share, and as many as may have one more keep that."""
    share, larger = divmod(len(owners), len(members))
    have = counts(owners, members)
    kept = sum(min(count, share) for count in have) + min(larger, sum(count > share for count in have))
    return sum(owner is not None for owner in owners) - kept


def valid(before: Owners, after: Owners, members: Collection[str], keeping: Collection[str]) -> bool:
    """Complete, at most 1 apart, and who is away gets nothing and stays at most 1 above those who are present."""
    count = Counter(after)
    had = Counter(before)
    present = [count[member] for member in members]
    return (
        set(after) <= {*members, *keeping}
        and max(present) - min(present) <= 1
        and all(old == new for old, new in zip(before, after, strict=True) if new in keeping)
        and all(count[name] <= min(had[name], min(present) + 1) for name in keeping)
    )


def best(before: Owners, members: Sequence[str], keeping: Sequence[str]) -> tuple[int, int]:
    """Fewest moves, then fewest donors, of all valid assignments: by trying every one."""
    everybody = {*members, *keeping}
    return min(
        (moves(before, after), len(donors(before, after, everybody)))
        for after in itertools.product(everybody, repeat=len(before))
        if valid(before, after, members, keeping)
    )


@given(small | large, member_sets)
def test_counts_are_at_most_one_apart(owners: Owners, members: frozenset[str]) -> None:
    after = assign(owners, members)
    assert len(after) == len(owners)
    if members:
        spread = counts(after, members)
        assert set(after) <= members
        assert max(spread) - min(spread) <= 1
    else:
        assert set(after) <= {None}


@given(small | large, member_sets.filter(bool))
def test_no_partition_moves_without_need(owners: Owners, members: frozenset[str]) -> None:
    assert moves(owners, assign(owners, members)) == fewest_moves(owners, members)


@given(large, st.sets(st.integers(0, 210), min_size=1, max_size=200))
def test_no_partition_of_a_large_group_moves_without_need(owners: Owners, numbers: set[int]) -> None:
    members = {f"w{n}" for n in numbers}
    after = assign(owners, members)
    spread = counts(after, members)
    assert max(spread) - min(spread) <= 1
    assert moves(owners, after) == fewest_moves(owners, members)


SHAPES = [
    (partitions, members, keeping)
    for partitions in range(6)
    for members, keeping in (("a", ""), ("ab", ""), ("abc", ""), ("a", "k"), ("ab", "k"), ("a", "kl"))
]


@pytest.mark.parametrize(("partitions", "members", "keeping"), SHAPES)
def test_trying_every_assignment_finds_no_better_one(partitions: int, members: str, keeping: str) -> None:
    """Every history of up to five partitions, with an owner who is gone and with none."""
    for owners in itertools.combinations_with_replacement([None, "gone", *members, *keeping], partitions):
        after = assign(owners, members, keeping)
        assert valid(owners, after, members, keeping), (owners, after)
        found = moves(owners, after), len(donors(owners, after, {*members, *keeping}))
        assert found == best(owners, members, keeping), (owners, after)


@given(small | large, member_sets, member_sets)
def test_planning_twice_changes_nothing(owners: Owners, members: frozenset[str], keeping: frozenset[str]) -> None:
    after = assign(owners, members, keeping)
    assert assign(after, members, keeping) == after


@given(small, st.permutations(NAMES[:6]), st.permutations(NAMES[6:]))
def test_the_order_of_members_does_not_matter(owners: Owners, members: list[str], keeping: list[str]) -> None:
    assert assign(owners, members, keeping) == assign(owners, sorted(members), sorted(keeping))


@given(st.integers(0, 300), member_sets.filter(bool), st.data())
def test_a_member_that_is_absent_moves_nothing(size: int, members: frozenset[str], data: st.DataObject) -> None:
    """Container restarts and returning pods are not a change of members, however many are away at once."""
    settled = assign((None,) * size, members)
    away = data.draw(st.frozensets(st.sampled_from(sorted(members))))
    assert assign(settled, members - away, away) == settled
    assert assign(assign(settled, members - away, away), members) == settled


@given(small, member_sets, member_sets)
def test_an_absent_member_is_given_nothing(owners: Owners, members: frozenset[str], keeping: frozenset[str]) -> None:
    away = keeping - members
    after = assign(owners, members, keeping)
    assert all(old == new for old, new in zip(owners, after, strict=True) if new in away)
    assert not members or None not in after


@given(st.integers(0, 300), member_sets.filter(bool), member_sets, st.data())
def test_who_returns_gets_its_share_back_with_the_fewest_moves(
    size: int, members: frozenset[str], joining: frozenset[str], data: st.DataObject
) -> None:
    """What moved while it was away was due anyway: both steps together move as much as one with everybody there."""
    away = data.draw(st.frozensets(st.sampled_from(sorted(members)), max_size=len(members) - 1))
    settled = assign((None,) * size, members)
    joined = members | joining
    meanwhile = assign(settled, joined - away, away)
    returned = assign(meanwhile, joined)
    spread = counts(returned, joined)
    assert max(spread) - min(spread) <= 1
    assert moves(settled, meanwhile) + moves(meanwhile, returned) == fewest_moves(settled, joined)


def test_nobody_present_leaves_absent_members_what_they_have() -> None:
    assert assign(("a", "a", "b", None, "gone"), (), {"a", "b"}) == ("a", "a", "b", None, None)


def test_a_member_that_is_present_and_said_to_be_away_is_present() -> None:
    assert assign((None, "b"), {"a", "b"}, {"a"}) == ("a", "b")


def test_partitions_are_given_in_runs() -> None:
    assert assign((None,) * 6, {"b", "a"}) == ("a", "a", "a", "b", "b", "b")
    assert assign(("a", "a", "a", "b", "b", "b"), {"a", "b", "c"}) == ("a", "a", "c", "b", "b", "c")


def test_the_larger_share_goes_to_whoever_would_have_to_hand_off_for_one() -> None:
    """Seven partitions, three shares of 3, 2, 2: `b` has exactly three, so only `a` becomes a donor."""
    after = assign(("a", "a", "a", "a", "b", "b", "b"), {"a", "b", "c"})
    assert donors(("a", "a", "a", "a", "b", "b", "b"), after, {"a", "b", "c"}) == {"a"}
    assert Counter(after) == {"a": 2, "b": 3, "c": 2}


@example(members=[])
@given(members=st.lists(names, unique=True))
def test_a_group_without_partitions_is_assigned(members: list[str]) -> None:
    assert assign((), members) == ()


def test_a_large_group_is_assigned_in_a_few_milliseconds() -> None:
    """A plan must not stall the loop that relays: the best of some runs, so that a busy machine does not matter."""
    members = [f"web-{n}" for n in range(200)]
    settled = assign((None,) * 4096, members)
    cases = [((None,) * 4096, members, ()), (settled, members[3:], ()), (settled, members[:100], members[100:])]
    for owners, present, keeping in cases:
        seconds = []
        for _ in range(10):
            start = perf_counter()
            assign(owners, present, keeping)
            seconds.append(perf_counter() - start)
        assert min(seconds) < 0.005


@given(small, member_sets, member_sets)
def test_who_is_fixed_keeps_all_and_the_others_share_the_rest(
    owners: Owners, members: frozenset[str], fixed: frozenset[str]
) -> None:
    fixed &= members
    after = assign(owners, members, fixed=fixed)
    assert all(new == old for old, new in zip(owners, after, strict=True) if old in fixed)
    others = counts(after, members - fixed)
    assert max(others, default=0) - min(others, default=0) <= 1
    had, count = Counter(owners), Counter(after)
    assert all(count[name] <= max(had[name], min(others, default=len(owners)) + 1) for name in fixed)
    assert assign(after, members, fixed=fixed) == after
