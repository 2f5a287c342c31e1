"""Clients of the HTTP API, and the slots that are pinned to them.

Invariant: a key is always in the same slot, and a slot always in the same partition: the number of slots is a multiple
of the number of partitions, so `hash % slots % partitions == hash % partitions`.

A client that has a queue of its own cannot be emptied, so what it was given of a key must stay where it is. A partition
would be too much to keep: with a few dozen of them everything would be used up in moments. So plain clients are given
*slots*, many to a partition, one by one when a key of theirs first appears. A set of slots is an integer, slot s is its
bit s: adding to it and counting it takes microseconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SLOTS: Final = 65_536
"""At least so many slots has every group."""
LONGEST_NAME: Final = 200
"""Characters of a client's name: leaves room for what the names of queues and routing keys begin with."""


class ClientKind(StrEnum):
    """How a client gets its messages."""

    PLAIN = "plain"
    """From a queue of its own, which it binds to the exchange."""
    MANAGED = "managed"
    """From an inbox of ours, like a pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client that is bound; `ready` False is a plain one that has not said yet that its queue is there."""

    kind: ClientKind
    ready: bool
    overflow: str = ""
    """The segment in which a plain client's messages wait that its queue had no room for, named as a transfer is."""


def slots_of(partitions: int) -> int:
    """How many slots a group of so many partitions has."""
    return -(-SLOTS // partitions) * partitions


def slots_in(partition: int, partitions: int) -> range:
    """The slots of a partition."""
    return range(partition, slots_of(partitions), partitions)


def mask(partitions_wanted: Iterable[int], partitions: int) -> int:
    """All slots of these partitions, as a set."""
    pattern = _pattern(partitions)
    found = 0
    for p in partitions_wanted:
        found |= pattern << p
    return found


def to_set(slots: Iterable[int], partitions: int) -> int:
    """Slots as a set."""
    bits = bytearray((slots_of(partitions) + 7) // 8)
    for slot in slots:
        bits[slot >> 3] |= 1 << (slot & 7)
    return int.from_bytes(bits, "little")


def members_of(slot_set: int) -> Iterator[int]:
    """The slots of a set, ascending."""
    for at, byte in enumerate(slot_set.to_bytes((slot_set.bit_length() + 7) // 8, "little")):
        while byte:
            low = byte & -byte
            yield (at << 3) + low.bit_length() - 1
            byte ^= low


def _pattern(partitions: int) -> int:
    pattern, have, want = 1, 1, slots_of(partitions) // partitions
    while have < want:  # doubled rather than summed up: thousands of additions of large integers are slow
        step = min(have, want - have)
        pattern |= (pattern & ((1 << (step * partitions)) - 1)) << (have * partitions)
        have += step
    return pattern
