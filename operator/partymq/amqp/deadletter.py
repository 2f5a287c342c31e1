"""What a message in a dead queue says of itself, and how it looks when it is published anew.

Invariant: `revived` gives what the producer published, as far as it can be published again: without a stamp, without
the traces of its death, byte for byte in all else. Nothing is decoded that is not asked for, so a message of any kind
can be shown and replayed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pamqp import decode

from partymq.amqp.frames import body_payload
from partymq.amqp.rewrite import OURS, REQUESTER
from partymq.amqp.setaside import why_refused
from partymq.amqp.stamp import read_stamp
from partymq.amqp.tables import (
    EXPIRATION,
    FLAGS_AT,
    HEADERS,
    PRIORITY,
    REPLY_TO,
    USER_ID,
    entries,
    find_header,
    properties,
    value_at,
)
from partymq.core.names import SPREAD, Names

KeyOf = Callable[[bytes, bytes, bytes], bytes | None]
"""Of content header, body frames and origin, as `keyread.key_reader` makes them."""

_OF_DEATH: Final = (b"x-death", b"x-first-death-", b"x-last-death-", b"x-delivery-count", b"x-acquired-count")
_COPIES: Final = (b"\x02CC", b"\x03BCC")
_REPLAYED: Final = b"x-replayed-exchange"
_NO_KEY: Final = "no-key"
_UNSTAMPED: Final = "unstamped"
_REFUSED: Final = "refused"
"""By the broker, when it was to be published again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """One message, as people choose it."""

    id: str
    """`<partition>:<epoch>:<seq>`, or empty without a stamp: the place that the router gave it."""
    partition: int | None
    """-1 for messages without a key, None without a stamp."""
    key: bytes | None
    reason: str
    """What the broker says (rejected, expired, delivery_limit), `no-key`, `unstamped`, or `refused`."""
    member: str | None
    """Whose inbox it was in."""
    died_at: float | None
    """Unix seconds; None for what no consumer ever had."""
    exchange: str
    routing_key: str
    """Where it was first published."""
    size: int
    """Bytes of the body."""
    why: str = ""
    """What the broker said of a message that it refused."""


def describe(names: Names, header: bytes, body_frames: bytes, key_of: KeyOf) -> DeadMessage:
    """Read a message of a group's dead queue."""
    stamp = read_stamp(header)
    exchange, routing_key = _text(header, b"x-partymq-exchange"), _text(header, b"x-partymq-routing-key")
    death = _death(header)
    queue, died = death.get("queue"), death.get("time")
    why = why_refused(header)
    undead = _REFUSED if why else _UNSTAMPED if stamp is None else _NO_KEY
    return DeadMessage(
        id="" if stamp is None else f"{stamp.partition}:{stamp.epoch}:{stamp.seq}",
        partition=None if stamp is None else stamp.partition,
        key=None if stamp is None or stamp.partition == SPREAD else key_of(header, body_frames, origin_of(header)),
        reason=str(death.get("reason", "unknown")) if death else undead,
        member=names.member_of(queue) if isinstance(queue, str) else None,
        died_at=died.timestamp() if isinstance(died, datetime) else None,
        exchange=exchange.decode(errors="replace"),
        routing_key=routing_key.decode(errors="replace"),
        size=len(body_payload(body_frames)),
        why=why,
    )


def routing_key_of(header: bytes) -> str:
    """The routing key that the message was first published with."""
    return _text(header, b"x-partymq-routing-key").decode(errors="replace")


def revived(header: bytes, username: str) -> bytes:
    """The content header to publish it with again, as `username`.

    `priority` is a property again, and `user-id` if it names us (the broker refuses another one). `expiration` and
    `CC`/`BCC` are not: who replays a message wants it handled, and the copies were sent. Nor is a `reply-to` that only
    the requester itself may publish. The exchange that it was first published to is kept in `x-replayed-exchange`.

    A message that we have not stamped may have any of these as they are: they are left out all the same.
    """
    found = {}
    rows: list[bytes] = []
    for flag, start, stop in properties(header):
        if flag == HEADERS:
            rows = _alive(header, start, stop)
        else:
            found[flag] = header[start:stop]
    found.pop(EXPIRATION, None)
    if found.get(REPLY_TO) == REQUESTER:
        del found[REPLY_TO]
    if found.get(USER_ID, b"")[1:] != username.encode():
        found.pop(USER_ID, None)
    priority = _value(header, b"x-partymq-priority")
    if isinstance(priority, int):
        found[PRIORITY] = bytes((priority,))
    user = _value(header, b"x-partymq-user-id")
    if user == username.encode():
        found[USER_ID] = bytes((len(user),)) + user
    exchange = _value(header, b"x-partymq-exchange")
    if isinstance(exchange, bytes) and find_header(header, _REPLAYED) < 0:
        rows.append(bytes((len(_REPLAYED),)) + _REPLAYED + b"S" + len(exchange).to_bytes(4, "big") + exchange)
    if rows:
        table = b"".join(rows)
        found[HEADERS] = len(table).to_bytes(4, "big") + table
    flags = sum(found)
    return header[:FLAGS_AT] + flags.to_bytes(2, "big") + b"".join(found[flag] for flag in sorted(found, reverse=True))


def _alive(header: bytes, start: int, stop: int) -> list[bytes]:
    return [
        header[entry.start : entry.stop]
        for entry in entries(header, start, stop)
        if not header.startswith((OURS, *_OF_DEATH), entry.start + 1)
        and header[entry.start : entry.kind_at] not in _COPIES
    ]


def _death(header: bytes) -> Mapping[str, object]:
    """The broker's record of the last death; empty if there is none."""
    at = find_header(header, b"x-death")
    if at < 0 or header[at : at + 1] != b"A":
        return {}
    deaths = decode.field_array(header[at + 1 :])[1]
    return deaths[0] if deaths and isinstance(deaths[0], dict) else {}


def origin_of(header: bytes) -> bytes:
    """Where the message was first published: exchange and routing key as two short strings."""
    places = (_text(header, b"x-partymq-exchange"), _text(header, b"x-partymq-routing-key"))
    return b"".join(bytes((len(place),)) + place for place in places)


def _text(header: bytes, name: bytes) -> bytes:
    value = _value(header, name)
    return value if isinstance(value, bytes) else b""


def _value(header: bytes, name: bytes) -> object:
    at = find_header(header, name)
    return value_at(header, at) if at >= 0 else None
