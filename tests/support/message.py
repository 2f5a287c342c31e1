"""The messages of the load: what a producer puts in and what a consumer must find.

Invariant: the body alone says which message it is, so that nothing that happens to headers on the way can hide a
mix-up.
"""

import json
from collections.abc import Mapping

from support.events import Kind, now
from support.options import KEY_HEADER


def body_of(key: str, seq: int, size: int) -> bytes:
    """A JSON body of at least `size` bytes."""
    text = json.dumps({"key": key, "seq": seq}, separators=(",", ":"))
    padding = size - len(text) - len(',"pad":""')
    return (f'{text[:-1]},"pad":"{"x" * padding}"}}' if padding > 0 else text).encode()


def identify(body: bytes, headers: Mapping[str, object]) -> tuple[str, int] | None:
    """The key and the number that the body names; None when it is not one of ours or contradicts its header."""
    try:
        values = json.loads(body)
        key, seq = values["key"], values["seq"]
    except (ValueError, TypeError, KeyError):
        return None
    header = headers.get(KEY_HEADER, key)
    if isinstance(header, bytes):
        header = header.decode(errors="replace")
    return (key, seq) if isinstance(key, str) and isinstance(seq, int) and header == key else None


def received(body: bytes, headers: Mapping[str, object], *, redelivered: bool) -> tuple[tuple[str, int] | None, str]:
    """Which message this is, and the line that reports it as received now."""
    ident = identify(body, headers)
    if ident is None:
        return None, now(Kind.STRAY, note=repr((body[:80], dict(headers)))[:400])
    return ident, now(Kind.REDELIVERED if redelivered else Kind.RECEIVED, *ident)
