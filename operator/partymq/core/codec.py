"""The ledger as the journal stores it: one JSON object, format version 1.

Invariant: `decode(encode(ledger)) == ledger`, and a reader refuses what it does not understand rather than guess.

    {"format": 1, "epoch": e, "version": v, "writer": "...",
     "names": ["a", ...],                   every member spoken of; the rest are indices into it, -1 is nobody
     "members": [0, ...],                   admitted members
     "owners": [0, 1, -1, ...],             one for each partition
     "transfers": {"<p>": ["<id>", ...]},   where there are any; partition -1 holds the keyless
     "backlogs": [p, ...],                  listed backlogs
     "handoffs": [{"id", "donor", "phase", "found": [p, ...], "targets": {"<p>": i}, "since": t}, ...],
     "garbage": ["<id>", ...],
     "visitors": ["<name>", ...],           no members, but their inboxes may exist, where there are any
     "clients": {"<name>": ["plain"|"managed", ready]},   of the HTTP API, where there are any; an overflow's id third
     "slots": n, "pins": {"<name>": "..."}}               slots as bits from the lowest on: deflated, base64
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from partymq.core.clients import Client, ClientKind, slots_of
from partymq.core.ledger import Handoff, Ledger, Partition, Phase
from partymq.core.names import SPREAD
from partymq.core.spec import MOST_PARTITIONS
from partymq.errors import PartyMQError
from partymq.foreign import NAME, shown

FORMAT = 1
_MOST_TABLES = 200_000
_MOST_VALUES = 2_000_000
"""In a ledger's JSON: a multiple of what 4096 partitions and a thousand clients take, and little enough to be read."""
_MOST_SLOTS = 16 * 1024
"""Bytes of the slots of a client; a group has 70,000 at most."""


class UnknownFormatError(PartyMQError):
    """The bytes are no ledger of this format: another version of PartyMQ, or not PartyMQ at all."""

    reason = "JournalUnreadable"


def encode(ledger: Ledger) -> bytes:
    """The ledger as JSON bytes."""
    names = sorted(
        ledger.members
        | {part.owner for part in ledger.partitions if part.owner is not None}
        | {target for h in ledger.handoffs.values() for target in h.targets.values() if target is not None}
        | set(ledger.donors)
    )
    index: dict[str | None, int] = {None: -1, **{name: i for i, name in enumerate(names)}}
    return orjson.dumps(
        {
            "format": FORMAT,
            "epoch": ledger.epoch,
            "version": ledger.version,
            "writer": ledger.writer,
            "names": names,
            "members": [index[name] for name in sorted(ledger.members)],
            "owners": [index[part.owner] for part in ledger.partitions],
            "transfers": {
                str(p): ledger.partition(p).transfers
                for p in (SPREAD, *range(len(ledger.partitions)))
                if ledger.partition(p).transfers
            },
            "backlogs": ledger.backlogs,
            "handoffs": [
                {
                    "id": h.id,
                    "donor": index[h.donor],
                    "phase": h.phase.value,
                    "found": sorted(h.found),
                    "targets": {str(p): index[target] for p, target in h.targets.items()},
                    "since": h.since,
                }
                for h in ledger.handoffs.values()
            ],
            "garbage": sorted(ledger.garbage),
            **({"visitors": sorted(ledger.visitors)} if ledger.visitors else {}),
            **_clients(ledger),
        }
    )


def decode(data: bytes) -> Ledger:
    """The ledger that `encode` wrote; raises `UnknownFormatError`."""
    if data.count(b"[") + data.count(b"{") > _MOST_TABLES or data.count(b",") > _MOST_VALUES:
        raise UnknownFormatError("the journal holds something that is no ledger: it has more parts than any ledger")
    try:
        body = orjson.loads(data)
        if body["format"] != FORMAT:
            found = shown(repr(body["format"]), NAME)
            raise UnknownFormatError(f"the journal holds format {found}, this PartyMQ reads {FORMAT}")
        _check(body)
        names: list[str | None] = [*body["names"], None]
        backlogs = frozenset(body["backlogs"])
        transfers = {int(p): tuple(ids) for p, ids in body["transfers"].items()}
        handoffs = (
            Handoff(
                id=h["id"],
                donor=body["names"][h["donor"]],
                phase=Phase(h["phase"]),
                found=frozenset(h["found"]),
                targets={int(p): names[i] for p, i in h["targets"].items()},
                since=float(h.get("since", 0.0)),  # not written before
            )
            for h in body["handoffs"]
        )
        same: dict[Partition, Partition] = {}  # thousands of equal ones take the room of one
        return Ledger(
            epoch=body["epoch"],
            version=body["version"],
            writer=body["writer"],
            members=frozenset(body["names"][i] for i in body["members"]),
            partitions=tuple(
                same.setdefault(
                    part := Partition(owner=names[i], transfers=transfers.get(p, ()), backlog=p in backlogs), part
                )
                for p, i in enumerate(body["owners"])
            ),
            spread=Partition(transfers=transfers.get(SPREAD, ()), backlog=SPREAD in backlogs),
            handoffs={h.id: h for h in handoffs},
            garbage=frozenset(body["garbage"]),
            visitors=frozenset(_visitors(body)),
            clients={
                name: Client(kind=ClientKind(kind), ready=ready, overflow=overflow[0] if overflow else "")
                for name, (kind, ready, *overflow) in body.get("clients", {}).items()
            },
            pins=_read_pins(body),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError, AttributeError, zlib.error) as error:
        raise UnknownFormatError(f"the journal holds something that is no ledger ({type(error).__name__})") from error


def _check(body: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError where what everything else rests on is something else."""
    if not all(isinstance(body[name], int) and not isinstance(body[name], bool) for name in ("epoch", "version")):
        raise TypeError("epoch")
    if not all(isinstance(name, str) for name in (body["writer"], *body["names"], *_visitors(body))):
        raise TypeError("names")
    if not 0 < len(body["owners"]) <= MOST_PARTITIONS:
        raise ValueError("owners")


def _visitors(body: Mapping[str, Any]) -> Iterable[str]:
    """Not written before; first only those were who had left."""
    found: Iterable[str] = body.get("visitors", body.get("departed", ()))
    return found


def _clients(ledger: Ledger) -> dict[str, object]:
    if not ledger.clients:
        return {}
    return {
        "clients": {name: _client(client) for name, client in ledger.clients.items()},
        "slots": slots_of(len(ledger.partitions)),
        "pins": {name: _packed(slots) for name, slots in ledger.pins.items() if slots},
    }


def _client(client: Client) -> list[object]:
    # An older version refuses one with an overflow: it would lose what is in it.
    return [client.kind.value, client.ready, *filter(None, [client.overflow])]


@lru_cache(maxsize=1024)
def _packed(slots: int) -> str:
    """One client's slots; most clients' are as they were at the last write."""
    data = slots.to_bytes((slots.bit_length() + 7) // 8, "little")
    return b64encode(zlib.compress(data, 1)).decode()


def _read_pins(body: Mapping[str, Any]) -> dict[str, int]:
    pins = {
        name: int.from_bytes(_unpacked(b64decode(packed)), "little") for name, packed in body.get("pins", {}).items()
    }
    if pins and body["slots"] != slots_of(len(body["owners"])):
        raise UnknownFormatError(f"the journal counts {body['slots']} slots: another version of PartyMQ wrote it")
    return pins


def _unpacked(data: bytes) -> bytes:
    """As many slots as there may be: a few bytes could be gigabytes."""
    decompressing = zlib.decompressobj()
    slots = decompressing.decompress(data, _MOST_SLOTS)
    if decompressing.unconsumed_tail:
        raise ValueError("pins")
    return slots
