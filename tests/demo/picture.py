"""What is known of a group at one moment, from whichever side it is looked at.

Invariant: nothing here asks anybody; a picture is made of what the group's status or the clients API has said.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partymq.core import ranges

NOBODY = ""
"""Who has a partition that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A consumer and its share."""

    name: str
    state: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, and what was handled of it last: by whom, and its number among the key's messages."""

    name: str
    consumer: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Who has what."""

    says: str = "waiting"
    """How the group is, in its own words."""
    members: tuple[Member, ...] = ()
    holders: tuple[str, ...] = ()
    """Of each partition; `NOBODY` while it waits or changes hands."""
    handoffs: tuple[str, ...] = ()
    """A sentence for each one under way."""

    @property
    def assigned(self) -> int:
        """Partitions that somebody has."""
        return sum(holder != NOBODY for holder in self.holders)

    def counts(self) -> str:
        """Who has how many, in a line."""
        return ", ".join(f"{member.name} {len(member.partitions)}" for member in self.members if member.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is known at the moment."""

    shares: Shares = Shares()
    confirmed: int = 0
    acked: int = 0
    rate: float = 0.0
    """Acknowledged messages a second, lately."""
    source: int | None = None
    """Ready messages in the source."""
    ready: Mapping[str, int | None]
    """Ready messages in the members' inboxes."""
    handled: Mapping[str, int]
    """Messages that each consumer has acknowledged."""
    keys: tuple[Key, ...] = ()
    """Some of them."""
    handoffs: int = 0
    longest_handoff: float = 0.0
    """Seconds, in PartyMQ's own words."""

    @property
    def under_way(self) -> int:
        """Messages that are confirmed and not acknowledged yet."""
        return max(0, self.confirmed - self.acked)


NOTHING = Picture(ready={}, handled={})


def of_resource(group: Mapping[str, Any]) -> Shares:
    """The shares by a PartitionGroup's status; without one, or without a group, there is nothing."""
    status: Mapping[str, Any] = group.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    members = tuple(
        Member(name=one["name"], state=one["state"], partitions=ranges.parse(one.get("partitions", "")))
        for one in status.get("members") or ()
    )
    handoffs = status.get("handoffs") or ()
    moving = {p for one in handoffs for p in ranges.parse(one.get("partitions", ""))}
    return Shares(
        says=_says(conditions.get("Ready", {})),
        members=members,
        holders=_holders(members, int((status.get("partitions") or {}).get("total", 0)), moving),
        handoffs=tuple(
            f"handoff {one['id']} from {one['donor']}: {one.get('phase')}, {one.get('waitingFor')}" for one in handoffs
        ),
    )


def of_api(
    health: Mapping[str, Any], clients: Sequence[Mapping[str, Any]], partitions: Sequence[Mapping[str, Any]]
) -> Shares:
    """The shares by the clients API: what `/health` says of the group, `/clients` and `/partitions`."""
    members = tuple(
        Member(name=one["hostname"], state=one["state"].capitalize(), partitions=ranges.parse(one["partitions"]))
        for one in clients
    )
    moving = {one["partition"]: str(one["waitingFor"]) for one in partitions if one["state"] == "held"}
    return Shares(
        says=_says(health),
        members=members,
        holders=_holders(members, len(partitions), moving.keys()),
        handoffs=tuple(
            f"{list(moving.values()).count(why)} partitions change hands and wait for {why}"
            for why in dict.fromkeys(moving.values())
        ),
    )


def _says(condition: Mapping[str, Any]) -> str:
    return f"{condition['reason']}: {condition['message']}" if condition else "waiting"


def _holders(members: Sequence[Member], total: int, moving: Collection[int]) -> tuple[str, ...]:
    owner = {p: member.name for member in members for p in member.partitions}
    return tuple(NOBODY if p in moving else owner.get(p, NOBODY) for p in range(total))
