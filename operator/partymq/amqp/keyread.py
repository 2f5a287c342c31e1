"""Finding a message's key without decoding the message.

Invariant: the same key text comes out wherever a key stands (`core.keys.text`); whatever is malformed is a missing key,
never an error: a router that stops at one message stops for all.
"""

import struct
from collections.abc import Callable

import orjson

from partymq.amqp.frames import body_payload
from partymq.amqp.tables import NAMES, MalformedError, find, properties, value_of
from partymq.core.keys import text
from partymq.core.spec import KeyFrom, KeySpec
from partymq.errors import InvalidSpecError

KeyReader = Callable[[bytes, bytes, bytes], bytes | None]
"""Content header, body frames, origin (as the deliver method has it) -> the key."""


def key_reader(spec: KeySpec) -> KeyReader:
    """The reader of a group's keys; raises `InvalidSpecError` for a property that does not exist."""
    match spec.source:
        case KeyFrom.HEADER:
            return _from_header(spec.name.encode())
        case KeyFrom.PROPERTY:
            return _from_property(spec.name)
        case KeyFrom.ROUTING_KEY:
            return _from_routing_key
        case KeyFrom.BODY:
            return _from_body(_path(spec.name))


def _from_header(name: bytes) -> KeyReader:
    # As it stands in a table: length, name, type S. What is found so may also stand in a value or a nested table: only
    # where it is the table's first entry it is certain without a walk.
    entry = bytes((len(name),)) + name + b"S"
    size, skip = len(entry), len(entry) + 4

    def read(header: bytes, _body: bytes, _origin: bytes) -> bytes | None:
        if header.startswith(entry, 18) and not header[12] & 0xC0 and header[12] & 0x20:
            at = 18 + size
            return header[18 + skip : 18 + skip + int.from_bytes(header[at : at + 4], "big")] or None
        try:
            found = find(header, name)
            return None if found is None else text(value_of(header, found))
        except (MalformedError, ValueError, struct.error):
            return None

    return read


def _from_property(name: str) -> KeyReader:
    flag = NAMES.get(name.replace("-", "_"))
    if flag is None:
        raise InvalidSpecError(f"key.name: there is no AMQP property {name!r}; there are {', '.join(sorted(NAMES))}")

    def read(header: bytes, _body: bytes, _origin: bytes) -> bytes | None:
        try:
            for present, start, end in properties(header):
                if present == flag:
                    raw = header[start:end]
                    if flag in (NAMES["delivery_mode"], NAMES["priority"], NAMES["timestamp"]):
                        return text(int.from_bytes(raw, "big"))
                    return raw[1:] or None
        except MalformedError:
            pass
        return None

    return read


def _from_routing_key(_header: bytes, _body: bytes, origin: bytes) -> bytes | None:
    return origin[2 + origin[0] :] or None


def _path(name: str) -> tuple[str, ...]:
    """The steps of a JSON pointer (RFC 6901), or of a top-level field's name."""
    if not name.startswith("/"):
        return (name,)
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in name[1:].split("/"))


def _from_body(path: tuple[str, ...]) -> KeyReader:
    def read(_header: bytes, body: bytes, _origin: bytes) -> bytes | None:
        try:
            value = orjson.loads(body_payload(body))
            for step in path:
                if isinstance(value, list):
                    if not step.isdecimal() or (step[0] == "0" and step != "0"):
                        return None
                    value = value[int(step)]
                else:
                    value = value[step]
            return text(value)
        except (ValueError, KeyError, IndexError, TypeError):
            return None

    return read
