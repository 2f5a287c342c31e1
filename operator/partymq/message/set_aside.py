"""How a message that the broker refuses to take again looks in the dead queue.

Invariant: what is set aside keeps its body, its stamp and the reason; of everything else it keeps as much as the broker
takes. Nobody knows what it is that a broker does not like, so there are several forms: whole, without one of its
headers, without all of them, and with nothing that is not ours.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from partymq.amqp.frames import plain_header
from partymq.message.rewrite import OURS
from partymq.message.stamp import Stamper, read_stamp
from partymq.message.tables import (
    FLAGS_AT,
    HEADERS,
    MESSAGE_ID,
    MalformedHeaderError,
    entries,
    find_header,
    find_property,
    properties,
    value_at,
)

_REFUSED: Final = b"x-partymq-refused"
_LONGEST: Final = 300
"""Bytes of a reason that are kept."""
_ONE_BY_ONE: Final = 16
"""Headers that are tried to be left out alone: each try may take a connection."""
_BODY_SIZE: Final = slice(4, 12)


def set_aside(header: bytes, why: str, origin: bytes) -> Iterator[tuple[bytes, str]]:
    """Content headers to try, one after the other, and what each leaves out.

    `origin` is where the message was first published: exchange and routing key as two short strings.
    """
    with suppress(MalformedHeaderError):
        yield _with_reason(header, why, lambda _: True), ""
        foreign = [name for name in _names(header) if not name.startswith(OURS)]
        for name in foreign[:_ONE_BY_ONE] if len(foreign) > 1 else ():
            left_out = f"its header {name.decode(errors='backslashreplace')!r}"
            yield _with_reason(header, f"{why}; left out: {left_out}", name.__ne__), left_out
        if foreign:
            yield (
                _with_reason(header, f"{why}; left out: its headers", lambda name: name.startswith(OURS)),
                "its headers",
            )
    stamp = read_stamp(header)
    plain = plain_header(int.from_bytes(header[_BODY_SIZE], "big"))
    if stamp is not None:
        plain = Stamper(stamp.partition, stamp.epoch).stamp(plain, stamp.seq, origin)
    left_out = "its headers and properties"
    yield _with_reason(plain, f"{why}; left out: {left_out}", lambda _: True), left_out


def why_refused(header: bytes) -> str:
    """The broker's words, where a message was set aside because the broker refused it; else empty."""
    at = find_header(header, _REFUSED)
    value = value_at(header, at) if at >= 0 else None
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def message_id(header: bytes) -> str:
    """The property that its producer may have given it; else empty."""
    found = find_property(header, MESSAGE_ID)
    return "" if found is None else header[found.start + 1 : found.stop].decode(errors="replace")


def _names(header: bytes) -> list[bytes]:
    found = find_property(header, HEADERS)
    rows = entries(header, found.start, found.stop) if found is not None else ()
    return [header[entry.start + 1 : entry.kind_at] for entry in rows]


def _with_reason(header: bytes, why: str, keeps: Callable[[bytes], bool]) -> bytes:
    text = why.encode()[:_LONGEST]
    found: dict[int, bytes] = {}
    rows = b""
    for flag, start, stop in properties(header):
        if flag == HEADERS:
            rows = b"".join(
                header[entry.start : entry.stop]
                for entry in entries(header, start, stop)
                if keeps(header[entry.start + 1 : entry.kind_at])
            )
        else:
            found[flag] = header[start:stop]
    rows += bytes((len(_REFUSED),)) + _REFUSED + b"S" + len(text).to_bytes(4, "big") + text
    found[HEADERS] = len(rows).to_bytes(4, "big") + rows
    return header[:FLAGS_AT] + sum(found).to_bytes(2, "big") + b"".join(found[flag] for flag in sorted(found)[::-1])
