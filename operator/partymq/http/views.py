"""What the clients API shows of a group: clients, partitions, keys.

Invariant: it is a picture of the journal and of the last polls, and says of everything that waits what it waits for.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

from partymq.core import ranges
from partymq.core.clients import ClientKind, members_of, slots_of
from partymq.core.keys import partition_of, text
from partymq.core.ledger import Partition
from partymq.core.names import Names
from partymq.core.report import MemberState
from partymq.core.spec import ClientsSpec
from partymq.http.answers import ClientAnswer, ClientState, KeyAnswer, PartitionAnswer, PartitionState
from partymq.http.problems import ProblemError
from partymq.router.session.snapshot import Snapshot

_STATES: Final[Mapping[MemberState, ClientState]] = {
    MemberState.JOINING: "joining",
    MemberState.ACTIVE: "active",
    MemberState.IDLE: "idle",
    MemberState.ABSENT: "absent",
    MemberState.LEAVING: "leaving",
}
"""Those that a membership knows."""


class _Standing(NamedTuple):
    """How a partition is, and what it waits for."""

    state: PartitionState
    waiting_for: str | None = None


def client(name: str, seen: Snapshot, names: Names, spec: ClientsSpec) -> ClientAnswer:
    """One client that is bound."""
    ledger = seen.ledger
    bound, owned = ledger.clients[name], ranges.text(ledger.owned_by(name))
    if bound.kind is ClientKind.MANAGED:
        member = seen.rebalancer.membership.members.get(name)
        state = member.state if member is not None else MemberState.JOINING
        if state is MemberState.IDLE and owned:  # it was looked at before the last plan
            state = MemberState.ACTIVE
        return ClientAnswer(
            hostname=name,
            kind=bound.kind,
            state=_STATES[state],
            partitions=owned,
            queue=names.inbox(name),
            waiting_for=seen.trouble(names.inbox(name)) or None,
        )
    return ClientAnswer(
        hostname=name,
        kind=bound.kind,
        state="ready" if bound.ready else "pending",
        partitions=owned,
        routing_key=spec.routing_key(name),
        exchange=spec.exchange,
        slots=ledger.pins.get(name, 0).bit_count(),
        waiting_for=seen.trouble(f"client {name}") or None,
    )


def partitions(seen: Snapshot) -> tuple[PartitionAnswer, ...]:
    """All partitions; `slots` says how many of a partition are pinned to whom."""
    ledger = seen.ledger
    pinned: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for name, slots in ledger.pins.items():
        for slot in members_of(slots):
            pinned[slot % len(ledger.partitions)][name] += 1
    return tuple(
        PartitionAnswer(
            partition=p,
            owner=part.owner,
            slots=pinned[p],
            state=standing.state,
            waiting_for=standing.waiting_for,
        )
        for p, part in enumerate(ledger.partitions)
        for standing in (_standing(seen, p, part),)
    )


def key(value: str, seen: Snapshot) -> KeyAnswer:
    """Where the messages of a key go."""
    encoded = text(value)
    if encoded is None:
        raise ProblemError(422, "That is no key: an empty text, or one without a UTF-8 form, counts as missing.")
    ledger = seen.ledger
    count = len(ledger.partitions)
    slot = partition_of(encoded, slots_of(count))
    p = slot % count
    for name, slots in ledger.pins.items():
        if slots >> slot & 1:
            return KeyAnswer(key=value, partition=p, slot=slot, owner=name, state="pinned")
    part = ledger.partitions[p]
    state, waiting_for = _standing(seen, p, part)
    return KeyAnswer(key=value, partition=p, slot=slot, owner=part.owner, state=state, waiting_for=waiting_for)


def _standing(seen: Snapshot, p: int, part: Partition) -> _Standing:
    handoff = seen.ledger.held.get(p)
    if handoff is not None:
        progress = seen.handoffs.get(handoff.donor)
        why = progress.waiting_for if progress is not None else "its handoff to go on"
        return _Standing("held", f"{why} ({handoff.donor} hands off)")
    if part.owner is None:
        if part.direct and seen.ledger.plain_ready:
            return _Standing("open")
        return _Standing("unassigned", "a client that is ready, or consumes its inbox")
    lane = seen.lanes.get(p)
    if lane is None:  # nothing stands before what comes
        return _Standing("direct")
    why = seen.trouble(seen.names.backlog(p))
    if not why and lane.owner is not None and lane.owner_full:
        why = seen.trouble(seen.names.inbox(lane.owner)) or f"{lane.owner} to work off its inbox"
    return _Standing("waiting", why or "older messages to be given out first")
