"""Two groups that share a queue would route each other's messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.core.names import MAX_NAME, SPREAD, Names, check_group
from partymq.core.spec import GroupId
from partymq.errors import InvalidSpecError

NAMES = Names(GroupId(namespace="shop", name="orders"))

labels = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?\Z")
groups = st.builds(GroupId, namespace=labels, name=labels)
members = st.from_regex(r"\A[a-z0-9]([-.a-z0-9]{0,10}[a-z0-9])?\Z")


def queues(names: Names, member: str, partition: int, handoff: str) -> list[str]:
    return [
        names.journal,
        names.dead,
        names.inbox(member),
        names.backlog(partition),
        names.backlog(SPREAD),
        names.transfer(handoff),
    ]


def test_names_are_the_documented_ones() -> None:
    """Pods spell their inbox's name in a manifest, from the downward API."""
    assert queues(NAMES, "worker-0", 7, "3.1") == [
        "partymq.shop.orders.journal",
        "partymq.shop.orders.dead",
        "partymq.shop.orders.inbox.worker-0",
        "partymq.shop.orders.backlog.7",
        "partymq.shop.orders.backlog.spread",
        "partymq.shop.orders.transfer.3.1",
    ]
    assert NAMES.dlx == "partymq.shop.orders.dlx"


@given(groups, groups, members, st.integers(0, 4095))
def test_no_queue_is_two_groups(one: GroupId, other: GroupId, member: str, partition: int) -> None:
    ours = queues(Names(one), member, partition, "1.1")
    assert all(Names(one).is_ours(queue) for queue in ours)
    assert one == other or not any(Names(other).is_ours(queue) for queue in ours)


@given(groups, members)
def test_only_an_inbox_has_a_member(group: GroupId, member: str) -> None:
    names = Names(group)
    owners = [names.member_of(queue) for queue in queues(names, member, 0, "1.1")]
    assert owners == [None, None, member, None, None, None]
    assert Names(GroupId(namespace=group.namespace, name=f"{group.name}0")).member_of(names.inbox(member)) is None


def test_an_inbox_of_nobody_has_no_member() -> None:
    assert NAMES.member_of(f"{NAMES.prefix}inbox.") is None


@pytest.mark.parametrize("name", ["a.b", "", "A", "-a", "a-", "a_b", "ä", "a" * 64, "a\n"])
def test_a_group_whose_names_could_be_anothers_is_refused(name: str) -> None:
    for group in (GroupId(namespace="shop", name=name), GroupId(namespace=name, name="orders")):
        with pytest.raises(InvalidSpecError, match="without dots"):
            check_group(group)
        with pytest.raises(InvalidSpecError):
            Names(group)


def test_an_inbox_name_fits_the_broker_to_the_byte() -> None:
    room = MAX_NAME - len(NAMES.inbox("x")) + 1
    assert len(NAMES.inbox("x" * room)) == MAX_NAME
    for member in ("x" * (room + 1), "x" * (room - 1) + "ä"):
        with pytest.raises(InvalidSpecError, match="255"):
            NAMES.inbox(member)


def test_a_member_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="at least 1"):
        NAMES.inbox("")


def test_the_longest_group_leaves_room_for_its_own_queues() -> None:
    names = Names(GroupId(namespace="n" * 63, name="g" * 63))
    longest = max(queues(names, "m" * 100, 65535, f"{2**63}.{2**63}"), key=len)
    assert len(longest) <= MAX_NAME
