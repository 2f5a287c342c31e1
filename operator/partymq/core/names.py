"""The names that a group uses on the broker.

Invariant: no two groups share a name, and every name says whose it is. Namespaces and group names are DNS labels,
without dots: otherwise the queue `partymq.shop.a.inbox.x` could be group `a`'s inbox of `x` or something of a group
`a.inbox`. What follows the kind (a member's name) may hold dots, because it is the rest of the name.
"""

import re
from dataclasses import dataclass
from typing import Final

from partymq.core.spec import GroupId
from partymq.errors import InvalidSpecError

SPREAD: Final = -1
"""The pseudo-partition of messages without a key under `onMissing: spread`."""

MAX_NAME: Final = 255
"""Bytes in an AMQP short string."""

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PREFIX: Final = "partymq."
"""What every name of PartyMQ's begins with."""
SELF_TEST: Final = f"{PREFIX}self-test."
"""What the names of queues begin with on which a broker is tried; a group's have more parts."""


def check_group(group: GroupId) -> None:
    """Refuse a group whose names on the broker could be another group's; the CRD repeats this rule for its name."""
    for what, label in (("namespace", group.namespace), ("name", group.name)):
        if not _LABEL.fullmatch(label):
            raise InvalidSpecError(
                f"PartitionGroup {group}: the {what} {label!r} cannot be part of queue names. "
                "Use at most 63 lower-case letters, digits and hyphens, without dots."
            )


@dataclass(frozen=True, slots=True)
class Names:
    """Every name of one group; raises InvalidSpecError where the broker could not take a name."""

    group: GroupId

    def __post_init__(self) -> None:
        check_group(self.group)

    @property
    def prefix(self) -> str:
        """What all names of the group, and no others, begin with."""
        return f"{PREFIX}{self.group.namespace}.{self.group.name}."

    @property
    def journal(self) -> str:
        """The queue that stores the ledger; its active consumer is the group's router."""
        return f"{self.prefix}journal"

    @property
    def outlets(self) -> str:
        """The queue that tells which channels may still publish for the group; nothing is ever in it."""
        return f"{self.prefix}outlets"

    @property
    def dlx(self) -> str:
        """The exchange that tells rejected messages from fences."""
        return f"{self.prefix}dlx"

    @property
    def dead(self) -> str:
        """The queue of rejected messages and, where the group says so, of those without a key."""
        return f"{self.prefix}dead"

    @property
    def replay(self) -> str:
        """The exchange by which dead messages get back to the source; it exists only while that goes on."""
        return f"{self.prefix}replay"

    @property
    def exchange(self) -> str:
        """Where clients of the HTTP API bind queues of their own; the default group of `partymq serve` has another."""
        return f"{self.prefix}write"

    def inbox(self, member: str) -> str:
        """The queue that a member consumes."""
        name = f"{self._inboxes}{member}"
        size = len(name.encode())
        if not member or size > MAX_NAME:
            raise InvalidSpecError(
                f"PartitionGroup {self.group}: member {member!r} would consume the queue {name!r} of {size} bytes; "
                f"a queue's name has at most {MAX_NAME}, and a member's at least 1. Rename the pods or the group."
            )
        return name

    def backlog(self, partition: int) -> str:
        """The queue of a partition's messages that wait."""
        return f"{self.prefix}backlog.{'spread' if partition == SPREAD else partition}"

    def transfer(self, handoff: str) -> str:
        """The queue of one handoff's messages."""
        return f"{self.prefix}transfer.{handoff}"

    def member_of(self, queue: str) -> str | None:
        """The member whose inbox this is; None for any other queue."""
        return queue.removeprefix(self._inboxes) or None if queue.startswith(self._inboxes) else None

    def is_ours(self, queue: str) -> bool:
        """True for the group's own queues, whatever their kind."""
        return queue.startswith(self.prefix)

    @property
    def _inboxes(self) -> str:
        return f"{self.prefix}inbox."
