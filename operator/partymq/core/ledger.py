"""A group's routing state, and the only ways in which it may change.

Invariant: every message that is between the source and an inbox stands in a queue that the ledger names, and for each
partition the queues are named in the order in which its owner must be given them: transfers, then the backlog, then
(with neither) the owner's inbox directly.

A transition is a pure function from ledger to ledger that raises `LedgerError` where the protocol forbids it. The
router writes the result to the journal *before* it does what depends on it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from partymq.core.clients import Client, ClientKind
from partymq.core.names import SPREAD


class LedgerError(Exception):
    """A transition that the protocol forbids was asked for: a defect of the caller."""


class Phase(StrEnum):
    """How far a handoff is, as far as a successor must know."""

    DRAIN = "drain"
    """The inbox is being taken over and copied; its messages are still in it, the transfer is worth nothing."""
    EXTRACTED = "extracted"
    """The transfer is complete; what is still in the inbox is a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Who owns a partition, and the segments that must be released before it is routed directly, oldest first."""

    owner: str | None = None
    transfers: tuple[str, ...] = ()
    backlog: bool = False
    """True while `backlog.<p>` is listed, always as the last segment; a listed segment may be empty."""

    @property
    def direct(self) -> bool:
        """True when nothing stands before new messages."""
        return not self.transfers and not self.backlog


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The emptying of one donor's inbox; `targets` names the owner-to-be of every partition that the donor owned."""

    id: str
    donor: str
    targets: Mapping[int, str | None]
    phase: Phase = Phase.DRAIN
    found: frozenset[int] = frozenset()
    """Partitions of which the transfer holds messages; known from `extracted` on."""
    since: float = 0.0
    """When it began, in Unix seconds; 0 where the journal does not say. No transition depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The whole state.

    `epoch` grows with every session, `version` with every write of it; `writer` names the session.
    """

    epoch: int = 0
    version: int = 0
    writer: str = ""
    partitions: tuple[Partition, ...]
    spread: Partition = Partition()
    members: frozenset[str] = frozenset()
    """Members whose inbox may hold messages: it is emptied by a handoff before the name is dropped."""
    handoffs: Mapping[str, Handoff] = field(default_factory=dict)
    garbage: frozenset[str] = frozenset()
    """Transfers that no partition needs any more but that may still exist on the broker."""
    visitors: frozenset[str] = frozenset()
    """No members, but their inboxes may exist on the broker, empty: they are about to join, or have left."""
    clients: Mapping[str, Client] = field(default_factory=dict)
    """Clients of the HTTP API that are bound."""
    pins: Mapping[str, int] = field(default_factory=dict)
    """The slots that plain clients have been given, as sets (see `clients`)."""

    @property
    def stamp(self) -> tuple[int, int]:
        """What decides between two ledgers: the higher one is newer."""
        return self.epoch, self.version

    def partition(self, p: int) -> Partition:
        """The partition p; `SPREAD` is one too."""
        return self.spread if p == SPREAD else self.partitions[p]

    @property
    def donors(self) -> dict[str, Handoff]:
        """Handoffs by donor: a donor is in one at a time."""
        return {handoff.donor: handoff for handoff in self.handoffs.values()}

    @property
    def held(self) -> dict[int, Handoff]:
        """The handoff of every partition that is in one."""
        return {p: handoff for handoff in self.handoffs.values() for p in handoff.targets}

    @property
    def transfers(self) -> frozenset[str]:
        """Transfers that some partition lists."""
        return frozenset(t for part in (*self.partitions, self.spread) for t in part.transfers)

    def within(self, transfer: str) -> frozenset[int]:
        """The partitions that list the transfer."""
        listed = frozenset(p for p, part in enumerate(self.partitions) if transfer in part.transfers)
        return listed | {SPREAD} if transfer in self.spread.transfers else listed

    @property
    def backlogs(self) -> tuple[int, ...]:
        """Partitions whose backlog is listed."""
        listed = tuple(p for p, part in enumerate(self.partitions) if part.backlog)
        return (*listed, SPREAD) if self.spread.backlog else listed

    @property
    def overflows(self) -> dict[str, str]:
        """The segments in which plain clients' messages wait for room, by client."""
        return {name: client.overflow for name, client in self.clients.items() if client.overflow}

    @property
    def plain(self) -> frozenset[str]:
        """Plain clients: what they own does not move until they leave."""
        return frozenset(name for name, client in self.clients.items() if client.kind is ClientKind.PLAIN)

    @property
    def plain_ready(self) -> frozenset[str]:
        """Plain clients that may be given more."""
        return frozenset(name for name in self.plain if self.clients[name].ready)

    @property
    def takers(self) -> frozenset[str]:
        """Who may be given partitions."""
        return self.members | self.plain_ready

    def owned_by(self, member: str) -> tuple[int, ...]:
        """The partitions whose owner is `member`."""
        return tuple(p for p, part in enumerate(self.partitions) if part.owner == member)

    def names(self, member: str) -> bool:
        """True while any part of the ledger speaks of `member` as owner, donor or target."""
        return (
            any(part.owner == member for part in self.partitions)
            or member in self.donors
            or any(member in handoff.targets.values() for handoff in self.handoffs.values())
        )


def empty(partitions: int) -> Ledger:
    """The ledger of a group that was never routed."""
    return Ledger(partitions=(Partition(),) * partitions)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise LedgerError(text)


def change(ledger: Ledger, changes: Mapping[int, Partition]) -> Ledger:
    """The ledger with these partitions (or `SPREAD`) as given: what transitions are made of."""
    if not changes:
        return ledger
    partitions = list(ledger.partitions)
    same: dict[Partition, Partition] = {}  # thousands of equal ones take the room of one
    for p, partition in changes.items():
        if p != SPREAD:
            partitions[p] = same.setdefault(partition, partition)
    return replace(ledger, partitions=tuple(partitions), spread=changes.get(SPREAD, ledger.spread))


def succeed(ledger: Ledger, *, writer: str) -> Ledger:
    """The first ledger of a new session.

    What the one before was about to declare or to delete may exist, and hold what somebody else has put there since:
    visitors are members until they have joined, or a handoff has emptied their inboxes.
    """
    back = ledger.visitors - ledger.plain
    members, visitors = ledger.members | back, ledger.visitors - back
    return replace(ledger, epoch=ledger.epoch + 1, version=0, writer=writer, members=members, visitors=visitors)


def expect(ledger: Ledger, name: str) -> Ledger:
    """The inbox of `name` is about to be declared: whoever reads this deletes it, should nobody join."""
    if name in ledger.members or name in ledger.plain:
        return ledger
    return replace(ledger, visitors=ledger.visitors | {name})


def admit(ledger: Ledger, members: Collection[str]) -> Ledger:
    """Lets messages be published to the inboxes of `members`, which exist and were polled once."""
    _require(not ledger.plain.intersection(members), "a member has the name of a client with a queue of its own")
    return replace(ledger, members=ledger.members.union(members), visitors=ledger.visitors.difference(members))


def claim(ledger: Ledger, owners: Mapping[int, str]) -> Ledger:
    """Gives partitions without an owner to members; no message of them is in any inbox."""
    for p, member in owners.items():
        _require(ledger.partitions[p].owner is None, f"partition {p} has an owner")
        _require(p not in ledger.held, f"partition {p} is in a handoff")
        _require(member in ledger.takers, f"{member} is not admitted")
    return change(ledger, {p: replace(ledger.partitions[p], owner=member) for p, member in owners.items()})


def list_backlogs(ledger: Ledger, partitions: Iterable[int]) -> Ledger:
    """Allows messages of `partitions` to enter their backlogs."""
    return change(ledger, {p: replace(ledger.partition(p), backlog=True) for p in partitions})


def begin_handoff(
    ledger: Ledger,
    *,
    handoff_id: str,
    donor: str,
    targets: Mapping[int, str | None],
    since: float = 0.0,
) -> Ledger:
    """Starts to empty the donor's inbox: `targets` has all that it owns, and from here on those partitions wait.

    `since` is the time, in Unix seconds: what a handoff is given, it is given over all sessions.
    """
    _require(donor not in ledger.donors, f"{donor} is a donor already")
    known = ledger.handoffs.keys() | ledger.transfers | ledger.garbage | set(ledger.overflows.values())
    _require(handoff_id not in known, f"handoff {handoff_id} is not new")
    _require(set(targets) == set(ledger.owned_by(donor)), f"a handoff of {donor} must have all its partitions")
    _require(set(targets.values()) <= ledger.takers | {None}, "a target is not admitted")
    handoff = Handoff(id=handoff_id, donor=donor, targets=dict(targets), since=since)
    return list_backlogs(replace(ledger, handoffs={**ledger.handoffs, handoff_id: handoff}), targets)


def retarget(ledger: Ledger, *, handoff_id: str, targets: Mapping[int, str | None]) -> Ledger:
    """Changes who gets what of a handoff that is not committed."""
    handoff = ledger.handoffs.get(handoff_id)
    _require(handoff is not None, f"handoff {handoff_id} is committed")
    assert handoff is not None
    _require(set(targets) == set(handoff.targets), "a new plan of a handoff must have the same partitions")
    admitted = ledger.takers | {None, *handoff.targets.values()}
    _require(set(targets.values()) <= admitted, "a target is not admitted")
    return replace(ledger, handoffs={**ledger.handoffs, handoff_id: replace(handoff, targets=dict(targets))})


def extracted(ledger: Ledger, *, handoff_id: str, found: Collection[int]) -> Ledger:
    """The transfer has a confirmed copy of all that the donor's inbox holds: messages of the partitions `found`."""
    done = replace(ledger.handoffs[handoff_id], phase=Phase.EXTRACTED, found=frozenset(found))
    return replace(ledger, handoffs={**ledger.handoffs, handoff_id: done})


def commit(ledger: Ledger, *, handoff_id: str, drop: bool) -> Ledger:
    """Gives the partitions to their targets; the donor's inbox is proven empty.

    The transfer is put first for every partition found in it, whoever owns it; `drop` says that the donor's inbox is to
    be deleted where the ledger names the donor nowhere else.
    """
    handoff = ledger.handoffs[handoff_id]
    found = handoff.found
    changes: dict[int, Partition] = {}
    for p in {*handoff.targets, *found}:
        part = ledger.partition(p)
        changes[p] = Partition(
            owner=handoff.targets.get(p, part.owner),
            transfers=(handoff_id, *part.transfers) if p in found else part.transfers,
            backlog=part.backlog or p in found,
        )
    rest = {other: h for other, h in ledger.handoffs.items() if other != handoff_id}
    after = change(replace(ledger, handoffs=rest), changes)
    if not found:
        after = replace(after, garbage=after.garbage | {handoff_id})
    if drop and not after.names(handoff.donor):
        donor = {handoff.donor}
        after = replace(after, members=after.members - donor, visitors=after.visitors | donor)
    return after


def unlist(ledger: Ledger, *, transfers: Mapping[int, Collection[str]], backlogs: Collection[int]) -> Ledger:
    """Forgets segments that are proven empty; a transfer that nobody lists any more becomes garbage.

    Only the first segments of a partition can be empty, and a partition in a handoff keeps its backlog.
    """
    changes: dict[int, Partition] = {}
    for p in {*transfers, *backlogs}:
        part, gone = ledger.partition(p), frozenset(transfers.get(p, ()))
        rest = tuple(t for t in part.transfers if t not in gone)
        drop_backlog = p in backlogs and not rest and p not in ledger.held
        changes[p] = replace(part, transfers=rest, backlog=part.backlog and not drop_backlog)
    after = change(ledger, changes)
    return replace(after, garbage=after.garbage | (ledger.transfers - after.transfers))


def forget_garbage(ledger: Ledger, transfers: Collection[str]) -> Ledger:
    """The broker has confirmed that these transfers are deleted."""
    return replace(ledger, garbage=ledger.garbage.difference(transfers))


def forget_visitor(ledger: Ledger, name: str) -> Ledger:
    """The broker has confirmed that this one's inbox is deleted, or has refused to make it."""
    return replace(ledger, visitors=ledger.visitors - {name})
