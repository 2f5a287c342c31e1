"""What to do so that the ledger comes to what the membership asks for.

Invariant: a plan aims at the whole current membership, starts from what the ledger says (a partition on its way counts
as its target's), and planning again after a plan was carried out gives nothing to do.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from partymq.core.assignment import NEVER, assign
from partymq.core.ledger import Ledger
from partymq.core.rollouts import NO_ROLES, Roles, pass_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps that are independent of each other; each is a transition of the ledger."""

    admissions: frozenset[str] = frozenset()
    """Members to admit before anything else."""
    claims: Mapping[int, str] = field(default_factory=dict)
    """Partitions without an owner, and who gets them."""
    handoffs: Mapping[str, Mapping[int, str | None]] = field(default_factory=dict)
    """Donors, and the target of each of their partitions (themselves, where it stays)."""
    retargets: Mapping[str, Mapping[int, str | None]] = field(default_factory=dict)
    """Handoffs under way, and their new targets."""

    def __bool__(self) -> bool:
        return bool(self.admissions or self.claims or self.handoffs or self.retargets)

    def urgent(self, leaving: Collection[str]) -> "Plan":
        """Without what can wait for others that come: taking from who stays. Whatever waits for an owner gets one."""
        handoffs = {donor: targets for donor, targets in self.handoffs.items() if donor in leaving}
        if not (self.claims or handoffs or self.retargets):
            return Plan()
        return replace(self, handoffs=handoffs)


def plan(
    ledger: Ledger,
    *,
    eligible: Collection[str],
    keeping: Collection[str],
    leaving: Collection[str],
    moved: Mapping[int, int] = NEVER,
    roles: Roles = NO_ROLES,
) -> Plan:
    """Compares the ledger with the membership.

    `eligible` members get their share; `keeping` ones keep what they have and get nothing more; `leaving` ones give all
    up, and their inboxes are emptied even if they own nothing. `eligible` inboxes exist and were polled. Plain clients
    are members, too: they get their share, and what they own does not move until they leave. With `roles` a rollout is
    under way: see `rollouts`. `moved` is how often partitions have moved since one began.
    """
    held = ledger.held
    intended = tuple(
        held[p].targets[p] if p in held else partition.owner for p, partition in enumerate(ledger.partitions)
    )
    plain = ledger.plain
    members, staying = frozenset(eligible) | ledger.plain_ready, frozenset(keeping) | plain
    if roles:
        wanted = pass_on(intended, members, keeping=staying, fixed=plain, moved=moved, roles=roles)
    else:
        wanted = assign(intended, members, keeping=staying, fixed=plain, moved=moved)
    donors = ledger.donors
    claims = {
        p: member
        for p, member in enumerate(wanted)
        # What a plain client may have and nobody has used stays open: its slots are given out one by one.
        if member is not None
        and ledger.partitions[p].owner is None
        and p not in held
        and not (member in plain and ledger.partitions[p].direct)
    }
    giving = {
        owner
        for p, partition in enumerate(ledger.partitions)
        if (owner := partition.owner) is not None
        and p not in held
        and wanted[p] != owner
        and owner not in donors
        and owner not in plain
    }
    idle_leavers = {
        member
        for member in leaving
        if member in ledger.members and member not in donors and member not in wanted and not _expects(ledger, member)
    }
    return Plan(
        admissions=frozenset(eligible) - ledger.members,
        claims=claims,
        handoffs=_handoffs(ledger, giving | idle_leavers, wanted),
        retargets={
            handoff.id: targets
            for handoff in ledger.handoffs.values()
            if (targets := {p: wanted[p] for p in handoff.targets}) != handoff.targets
        },
    )


def _handoffs(
    ledger: Ledger, donors: Collection[str], wanted: Sequence[str | None]
) -> dict[str, dict[int, str | None]]:
    """The target of every partition of each donor, in one pass: all members of a large group may be donors."""
    handoffs: dict[str, dict[int, str | None]] = {donor: {} for donor in sorted(donors)}
    for p, partition in enumerate(ledger.partitions):
        if partition.owner is not None and partition.owner in handoffs:
            handoffs[partition.owner][p] = wanted[p]
    return handoffs


def _expects(ledger: Ledger, member: str) -> bool:
    """True while a handoff under way gives `member` something: it is retargeted first."""
    return any(member in handoff.targets.values() for handoff in ledger.handoffs.values())
