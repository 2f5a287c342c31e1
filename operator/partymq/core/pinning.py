"""Clients of the HTTP API in the ledger: they are bound, get ready, are given slots and partitions, and leave.

Invariant: a slot is pinned to at most one client, from the first message of it until that client leaves; and only slots
of *open* partitions are pinned: nobody owns them, and no message of them stands in a queue of ours. What a client that
leaves had no room for comes, of every partition that it may be of, before all else.

As in `ledger`: pure functions that raise where the change is not allowed; each is journaled before it takes effect.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from partymq.core.clients import Client, ClientKind, mask, slots_of, to_set
from partymq.core.ledger import Ledger, LedgerError, Partition, change
from partymq.core.names import SPREAD


class ConflictError(LedgerError):
    """A client asked for what its state does not allow; the message is for whoever wrote the client."""


class TooManyClientsError(ConflictError):
    """A group has as many clients as it may have."""


def bind(ledger: Ledger, *, name: str, kind: ClientKind) -> Ledger:
    """A client announces itself; one that is back keeps what it has."""
    client = ledger.clients.get(name)
    if client is not None and client.kind is not kind:
        raise ConflictError(f"{name} is bound as a {client.kind} client: unbind it first.")
    if kind is ClientKind.MANAGED:
        return ledger if client is not None else _with(ledger, name, Client(kind=kind, ready=True))
    if client is not None and not client.ready:
        raise ConflictError(f"{name} is pending already: bind its queue, then call ready; or unbind it first.")
    if client is None and name in ledger.members:
        raise ConflictError(f"{name} is a member with an inbox: wait until it has given up what it holds.")
    overflow = client.overflow if client is not None else ""
    return _with(ledger, name, Client(kind=kind, ready=False, overflow=overflow))


def check_room(known: Collection[str], name: str, most: int) -> None:
    """Raises TooManyClientsError where `name` would be one more than `most`."""
    if name not in known and len(known) >= most:
        raise TooManyClientsError(
            f"{len(known)} clients are bound to this group, or have an inbox of it, which is the limit `clients`: "
            "unbind those that are gone, wait until they expire, or raise it (docs/limits.md)."
        )


def ready(ledger: Ledger, *, name: str) -> Ledger:
    """The client's queue is bound: messages may be published to it."""
    client = ledger.clients.get(name)
    if client is None:
        raise ConflictError(
            f"{name} is unknown (never bound, unbound, expired, or forgotten with a lost journal): call bind first."
        )
    if client.kind is ClientKind.MANAGED:
        return ledger
    if client.ready:
        raise ConflictError(f"{name} is ready already.")
    return _with(ledger, name, replace(client, ready=True))


def leave(ledger: Ledger, names: Collection[str]) -> Ledger:
    """These clients are unbound: plain ones give up slots and partitions at once, managed ones are then emptied."""
    gone = frozenset(names) & ledger.clients.keys()
    plain = frozenset(name for name in gone if ledger.clients[name].kind is ClientKind.PLAIN)
    clients = {name: client for name, client in ledger.clients.items() if name not in gone}
    return replace(_stripped(ledger, plain), clients=clients)


def bereave(ledger: Ledger, names: Collection[str]) -> Ledger:
    """The queues of these plain clients are gone: they give all up; who is pending may still get ready."""
    pending = frozenset(name for name in names if name in ledger.clients and not ledger.clients[name].ready)
    return leave(_stripped(ledger, pending), frozenset(names) - pending)


def pin(ledger: Ledger, owners: Mapping[int, str]) -> Ledger:
    """Gives unused slots of open partitions to ready plain clients."""
    if not owners:
        return ledger
    taken, count = used(ledger), len(ledger.partitions)
    is_open = frozenset(open_partitions(ledger))
    takers = ledger.plain_ready
    new: dict[str, list[int]] = {}
    for slot, name in owners.items():
        if name not in takers or taken >> slot & 1 or slot % count not in is_open:
            raise LedgerError(f"slot {slot} cannot be pinned to {name}")
        new.setdefault(name, []).append(slot)
    added = {name: ledger.pins.get(name, 0) | to_set(slots, count) for name, slots in new.items()}
    return replace(ledger, pins={**ledger.pins, **added})


def overflow(ledger: Ledger, *, name: str, overflow_id: str) -> Ledger:
    """Lets what this plain client's queue has no room for wait in a segment of its own, which is new."""
    if name not in ledger.plain or ledger.clients[name].overflow:
        raise LedgerError(f"{name} is no plain client, or has an overflow")
    return _with(ledger, name, replace(ledger.clients[name], overflow=overflow_id))


def subside(ledger: Ledger, *, name: str) -> Ledger:
    """The client's overflow is proven empty, and nothing is sent there any more."""
    overflow_id = ledger.overflows.get(name)
    if overflow_id is None:
        return ledger
    after = _with(ledger, name, replace(ledger.clients[name], overflow=""))
    return replace(after, garbage=after.garbage | {overflow_id})


def may_overflow(ledger: Ledger, name: str) -> frozenset[int]:
    """The partitions that messages for a plain client are of."""
    count, pins = len(ledger.partitions), ledger.pins.get(name, 0)
    pinned = (p for p in range(count) if pins & mask([p], count))
    return frozenset([SPREAD, *pinned, *ledger.owned_by(name)])


def open_partitions(ledger: Ledger) -> Iterable[int]:
    """Partitions of which unused slots may be pinned."""
    held = ledger.held
    return (p for p, part in enumerate(ledger.partitions) if part.owner is None and part.direct and p not in held)


def used(ledger: Ledger) -> int:
    """All slots that are pinned, as a set."""
    slots = 0
    for pinned in ledger.pins.values():
        slots |= pinned
    return slots


class Spread:
    """Shares out unused slots so that in the end all clients have the same number.

    A client's part of them is what it lacks of its share of everything. As keys are spread evenly over slots, every
    client then gets the same part of the keys that are new, though some of these fall on slots that are used.
    """

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def choose(self, ledger: Ledger, slots: Collection[int]) -> Mapping[int, str]:
        """Who gets which of these unused slots; nobody where there is no ready plain client."""
        names = sorted(ledger.plain_ready)
        if not names:
            return {}
        weights = self._lacking(ledger, names)
        total = sum(weights.values())
        self._credit = {name: self._credit.get(name, 0.0) for name in names}
        chosen = {}
        for slot in slots:
            for name in names:
                self._credit[name] += weights[name] / total
            best = max(names, key=self._credit.__getitem__)
            self._credit[best] -= 1.0
            chosen[slot] = best
        return chosen

    @staticmethod
    def _lacking(ledger: Ledger, names: Collection[str]) -> dict[str, float]:
        count = len(ledger.partitions)
        whole = slots_of(count) // count
        owned = [part.owner for part in ledger.partitions]
        have = {name: ledger.pins.get(name, 0).bit_count() + whole * owned.count(name) for name in names}
        free = (mask(open_partitions(ledger), count) & ~used(ledger)).bit_count()
        share = (sum(have.values()) + free) / len(names)
        lacking = {name: max(0.0, share - have[name]) for name in names}
        # Nothing is free, or all have the same: turns are as good as anything.
        return lacking if any(lacking.values()) else dict.fromkeys(names, 1.0)


def _with(ledger: Ledger, name: str, client: Client) -> Ledger:
    return replace(ledger, clients={**ledger.clients, name: client})


def _stripped(ledger: Ledger, names: Collection[str]) -> Ledger:
    """The ledger in which these plain clients have nothing and are promised nothing."""
    if not names:
        return ledger
    ledger = _inherited(ledger, names)
    return replace(
        ledger,
        pins={name: slots for name, slots in ledger.pins.items() if name not in names},
        partitions=tuple(replace(part, owner=None) if part.owner in names else part for part in ledger.partitions),
        handoffs={
            handoff_id: replace(h, targets={p: None if to in names else to for p, to in h.targets.items()})
            for handoff_id, h in ledger.handoffs.items()
        },
    )


def _inherited(ledger: Ledger, names: Collection[str]) -> Ledger:
    """The ledger in which these clients' overflows are transfers."""
    for name, overflow_id in ledger.overflows.items():
        if name in names:
            changes = {p: _before(ledger.partition(p), overflow_id) for p in may_overflow(ledger, name)}
            client = replace(ledger.clients[name], overflow="")
            ledger = _with(change(ledger, changes), name, client)
    return ledger


def _before(part: Partition, transfer: str) -> Partition:
    return replace(part, transfers=(transfer, *part.transfers), backlog=True)
