"""What the clients API shows of a group: clients, partitions, keys.

Invariant: it is a picture of the journal and of the last polls, and says of everything that waits what it waits for.
"""

from collections import Counter, defaultdict
from typing import Any

from partymq.core import ranges
from partymq.core.clients import ClientKind, members_of, slots_of
from partymq.core.keys import partition_of, text
from partymq.core.ledger import Partition
from partymq.core.names import Names
from partymq.core.report import MemberState
from partymq.core.spec import ClientsSpec
from partymq.http.problems import ProblemError
from partymq.router.lanes import Mode
from partymq.router.routing import Routing


def client(name: str, routing: Routing, names: Names, spec: ClientsSpec) -> dict[str, Any]:
    """One client that is bound."""
    ledger = routing.journal.ledger
    bound = ledger.clients[name]
    shown: dict[str, Any] = {
        "hostname": name,
        "kind": bound.kind.value,
        "state": "ready" if bound.ready else "pending",
        "partitions": ranges.text(ledger.owned_by(name)),
    }
    if bound.kind is ClientKind.MANAGED:
        member = routing.controller.membership.members.get(name)
        state = member.state if member is not None else MemberState.JOINING
        if state is MemberState.IDLE and shown["partitions"]:  # it was looked at before the last plan
            state = MemberState.ACTIVE
        shown |= {"queue": names.inbox(name), "state": state.value.lower()}
        if trouble := routing.troubles.of(names.inbox(name)):
            shown["waitingFor"] = trouble
    else:
        slots = ledger.pins.get(name, 0).bit_count()
        shown |= {"routingKey": spec.routing_key(name), "exchange": spec.exchange, "slots": slots}
        if trouble := routing.troubles.of(f"client {name}"):
            shown["waitingFor"] = trouble
    return shown


def partitions(routing: Routing) -> list[dict[str, Any]]:
    """All partitions; `slots` says how many of a partition are pinned to whom."""
    ledger = routing.journal.ledger
    pinned: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for name, slots in ledger.pins.items():
        for slot in members_of(slots):
            pinned[slot % len(ledger.partitions)][name] += 1
    return [
        {"partition": p, "owner": part.owner, "slots": dict(pinned[p]), **_state(routing, p, part)}
        for p, part in enumerate(ledger.partitions)
    ]


def key(value: str, routing: Routing) -> dict[str, Any]:
    """Where the messages of a key go."""
    encoded = text(value)
    if encoded is None:
        raise ProblemError(422, "That is no key: an empty text, or one without a UTF-8 form, counts as missing.")
    ledger = routing.journal.ledger
    count = len(ledger.partitions)
    slot = partition_of(encoded, slots_of(count))
    p = slot % count
    shown: dict[str, Any] = {"key": value, "partition": p, "slot": slot}
    for name, slots in ledger.pins.items():
        if slots >> slot & 1:
            return {**shown, "owner": name, "state": "pinned"}
    return {**shown, "owner": ledger.partitions[p].owner, **_state(routing, p, ledger.partitions[p])}


def _state(routing: Routing, p: int, part: Partition) -> dict[str, str]:
    handoff = routing.journal.ledger.held.get(p)
    if handoff is not None:
        progress = routing.handoffs.running.get(handoff.donor)
        why = progress.waiting_for if progress is not None else "its handoff to go on"
        return {"state": "held", "waitingFor": f"{why} ({handoff.donor} hands off)"}
    if part.owner is None:
        if part.direct and routing.journal.ledger.plain_ready:
            return {"state": "open"}
        return {"state": "unassigned", "waitingFor": "a client that is ready, or consumes its inbox"}
    lane = routing.lanes.get(p)
    if lane is None or lane.mode is Mode.DIRECT:  # without a lane nothing has come yet, and nothing stands before it
        return {"state": "direct"}
    names, owner = routing.names, lane.owner
    why = routing.troubles.of(names.backlog(p))
    if not why and owner is not None and owner.full:
        why = routing.troubles.of(names.inbox(owner.name)) or f"{owner.name} to work off its inbox"
    return {"state": "waiting", "waitingFor": why or "older messages to be given out first"}
