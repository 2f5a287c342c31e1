"""What a message in a dead queue says of itself, and how it looks when it is published anew.

Invariant: `revived` gives what the producer published, as far as it can be published again: without a stamp, without
the traces of its death, byte for byte in all else. Nothing is decoded that is not asked for, and nothing raises, so a
message of any kind can be shown, as far as it can be read, and replayed. What is shown is printable.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from partymq.amqp.frames import body_payload, plain_header
from partymq.core.names import MAX_NAME, SPREAD, Names
from partymq.foreign import NAME, shown
from partymq.message.rewrite import OURS, REQUESTER
from partymq.message.set_aside import why_refused
from partymq.message.stamp import Stamp, read_fence, read_stamp
from partymq.message.tables import (
    EXPIRATION,
    FLAGS_AT,
    HEADERS,
    PRIORITY,
    REPLY_TO,
    USER_ID,
    MalformedHeaderError,
    entries,
    find_header,
    properties,
    table_in,
    time_at,
    value_at,
)

KeyOf = Callable[[bytes, bytes, bytes], bytes | None]
"""Of content header, body frames and origin, as `keyread.key_reader` makes them."""

_OF_DEATH: Final = (b"x-death", b"x-first-death-", b"x-last-death-", b"x-delivery-count", b"x-acquired-count")
_COPIES: Final = (b"\x02CC", b"\x03BCC")
_REPLAYED: Final = b"x-replayed-exchange"
_NO_KEY: Final = "no-key"
_UNSTAMPED: Final = "unstamped"
_YEAR_10000: Final = 253_402_300_800
_BODY_SIZE: Final = slice(4, 12)
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


def is_fence(header: bytes) -> bool:
    """Whether this is one of our own markers, and no message."""
    with suppress(MalformedHeaderError):
        return read_stamp(header) is None and read_fence(header) is not None
    return False


def describe(names: Names, header: bytes, body_frames: bytes, key_of: KeyOf) -> DeadMessage:
    """Read a message of a group's dead queue, as far as it can be read."""
    stamp, death, why = _stamp(header), _death(header), _why(header)
    undead = _REFUSED if why else _UNSTAMPED if stamp is None else _NO_KEY
    member = names.member_of(death.queue) if death is not None else None
    return DeadMessage(
        id="" if stamp is None else f"{stamp.partition}:{stamp.epoch}:{stamp.seq}",
        partition=None if stamp is None else stamp.partition,
        key=None if stamp is None or stamp.partition == SPREAD else key_of(header, body_frames, origin_of(header)),
        reason=undead if death is None else shown(death.reason, NAME) or "unknown",
        member=None if member is None else shown(member, MAX_NAME),
        died_at=None if death is None else death.at,
        exchange=shown(_text(header, b"x-partymq-exchange"), MAX_NAME),
        routing_key=shown(_text(header, b"x-partymq-routing-key"), MAX_NAME),
        size=len(body_payload(body_frames)),
        why=shown(why),
    )


def routing_key_of(header: bytes) -> bytes:
    """The routing key that the message was first published with, or that stands there in its place."""
    return _text(header, b"x-partymq-routing-key")[:MAX_NAME]


def revived(header: bytes, username: str) -> bytes:
    """The content header to publish it with again, as `username`.

    `priority` is a property again, and `user-id` if it names us (the broker refuses another one). `expiration` and
    `CC`/`BCC` are not: who replays a message wants it handled, and the copies were sent. Nor is a `reply-to` that only
    the requester itself may publish. The exchange that it was first published to is kept in `x-replayed-exchange`.

    A message that we have not stamped may have any of these as they are: they are left out all the same. One whose
    properties or headers cannot be read to their end has those before that.
    """
    try:
        return _revived(header, username)
    except MalformedHeaderError:
        return plain_header(int.from_bytes(header[_BODY_SIZE], "big"))


def _revived(header: bytes, username: str) -> bytes:
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
    if isinstance(priority, int) and 0 <= priority < 256:
        found[PRIORITY] = bytes((priority,))
    user = _value(header, b"x-partymq-user-id")
    if user == username.encode() and len(user) < 256:
        found[USER_ID] = bytes((len(user),)) + user
    exchange = _value(header, b"x-partymq-exchange")
    if isinstance(exchange, bytes) and _find(header, _REPLAYED) < 0:
        rows.append(bytes((len(_REPLAYED),)) + _REPLAYED + b"S" + len(exchange).to_bytes(4, "big") + exchange)
    if rows:
        table = b"".join(rows)
        found[HEADERS] = len(table).to_bytes(4, "big") + table
    flags = sum(found)
    return header[:FLAGS_AT] + flags.to_bytes(2, "big") + b"".join(found[flag] for flag in sorted(found, reverse=True))


def _alive(header: bytes, start: int, stop: int) -> list[bytes]:
    alive = []
    with suppress(MalformedHeaderError):  # an entry of an unknown type: nobody knows where it ends
        for entry in entries(header, start, stop):
            name = header[entry.start : entry.kind_at]
            if not header.startswith((OURS, *_OF_DEATH), entry.start + 1) and name not in _COPIES:
                alive.append(header[entry.start : entry.stop])
    return alive


class _Death(NamedTuple):
    queue: str
    reason: str
    at: float | None


def _death(header: bytes) -> _Death | None:
    """The broker's record of the last death; None if there is none that can be read.

    Read here, and only this deep: it may as well be a producer's, with tables in tables in tables.
    """
    at = _find(header, b"x-death")
    if at < 0:
        return None
    found: dict[bytes, object] = {}
    for name, kind_at in _rows(header, at):
        found[name] = value_at(header, kind_at) if name != b"time" else time_at(header, kind_at)
    queue, reason, died = (found.get(name) for name in (b"queue", b"reason", b"time"))
    if not found:
        return None
    return _Death(
        queue=queue[:MAX_NAME].decode(errors="backslashreplace") if isinstance(queue, bytes) else "",
        reason=reason[:MAX_NAME].decode(errors="backslashreplace") if isinstance(reason, bytes) else "unknown",
        at=died if isinstance(died, int) and 0 <= died < _YEAR_10000 else None,
    )


def _rows(header: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """The entries of the first table in an array, as far as they can be read: names, and where their types stand."""
    with suppress(MalformedHeaderError):
        found = table_in(header, at)
        for entry in entries(header, *found) if found is not None else ():
            yield header[entry.start + 1 : entry.kind_at], entry.kind_at


def origin_of(header: bytes) -> bytes:
    """Where the message was first published: exchange and routing key as two short strings."""
    places = (_text(header, name)[:MAX_NAME] for name in (b"x-partymq-exchange", b"x-partymq-routing-key"))
    return b"".join(bytes((len(place),)) + place for place in places)


def _text(header: bytes, name: bytes) -> bytes:
    value = _value(header, name)
    return value if isinstance(value, bytes) else b""


def _value(header: bytes, name: bytes) -> object:
    at = _find(header, name)
    return value_at(header, at) if at >= 0 else None


def _find(header: bytes, name: bytes) -> int:
    """Where a header's type stands; -1 where there is none as far as the headers can be read."""
    try:
        return find_header(header, name)
    except MalformedHeaderError:
        return -1


def _stamp(header: bytes) -> Stamp | None:
    try:
        return read_stamp(header)
    except MalformedHeaderError:
        return None


def _why(header: bytes) -> str:
    try:
        return why_refused(header)
    except MalformedHeaderError:
        return ""
