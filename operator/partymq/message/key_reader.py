"""A message's key, straight from its bytes.

Invariant: the same value gives the same key wherever it stands: `core.keys.text` alone says what a value's text is and
which values are none. What cannot be read is a missing key and never an error: a router that stops at one message stops
for all. Strings are taken as the bytes that they are. Of JSON's numbers, one that is written without a point and an
exponent is an integer, of any size; any other is the double that is nearest to it.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Callable
from decimal import Decimal
from typing import Final

import orjson

from partymq.amqp.frames import body_payload
from partymq.core.keys import text
from partymq.core.schema import KEY_PROPERTIES, is_pointer
from partymq.core.spec import KeyFrom, KeySpec
from partymq.errors import InvalidSpecError
from partymq.message import tables
from partymq.message.tables import (
    FLAGS_AT,
    HEADERS,
    MalformedHeaderError,
    find_header,
    find_property,
    table_at,
    value_at,
)

KeyReader = Callable[[bytes, bytes, bytes], bytes | None]
"""Gets the content header's payload, the body's frames, and exchange and routing key as two short strings."""

_PROPERTIES: Final = {
    "content_type": tables.CONTENT_TYPE,
    "content_encoding": tables.CONTENT_ENCODING,
    "priority": tables.PRIORITY,
    "correlation_id": tables.CORRELATION_ID,
    "reply_to": tables.REPLY_TO,
    "message_id": tables.MESSAGE_ID,
    "type": tables.TYPE,
    "user_id": tables.USER_ID,
    "app_id": tables.APP_ID,
}
"""Where each of KEY_PROPERTIES stands."""
_HAS_HEADERS: Final = HEADERS >> 8
_BEYOND: Final = 2.0**63
"""A number of at least this size that orjson reads as a double may have been written as an integer."""
_INFINITE: Final = "infinity"
"""In orjson's word for a number that is no double, wherever in the document it stands."""


def key_reader(spec: KeySpec) -> KeyReader:
    """The reader for a group's key; raises when no message could have such a key."""
    match spec.source:
        case KeyFrom.HEADER:
            return _header_reader(spec.name)
        case KeyFrom.PROPERTY:
            return _property_reader(spec.name)
        case KeyFrom.ROUTING_KEY:
            return _routing_key
        case KeyFrom.BODY:
            return _pointer_reader(spec.name) if spec.name.startswith("/") else _path_reader((spec.name,))


def _routing_key(_header: bytes, _body: bytes, origin: bytes) -> bytes | None:
    return origin[2 + origin[0] :] or None


def _header_reader(name: str) -> KeyReader:
    encoded = name.encode()
    if not 0 < len(encoded) < 256:
        raise InvalidSpecError(
            f"key.name is the name of a header: 1 to 255 bytes, and {name[:60]!r} has {len(encoded)}."
        )

    first = bytes((len(encoded),)) + encoded + b"S"
    size_at = 4 + len(first)

    def read(header: bytes, _body: bytes, _origin: bytes) -> bytes | None:
        try:
            # Mostly it is the first header, and a string: then there is nothing to walk over.
            at = table_at(header)
            if header.startswith(first, at + 4) and header[FLAGS_AT] & _HAS_HEADERS:
                start = at + size_at + 4
                stop = start + int.from_bytes(header[at + size_at : start], "big")
                if stop <= at + 4 + int.from_bytes(header[at : at + 4], "big") <= len(header):
                    return header[start:stop] or None
            at = find_header(header, encoded)
        except MalformedHeaderError:
            return None
        return text(value_at(header, at)) if at >= 0 else None

    return read


def _property_reader(name: str) -> KeyReader:
    flag = _PROPERTIES.get(name.replace("-", "_"))
    if flag is None:
        known = ", ".join(KEY_PROPERTIES)
        raise InvalidSpecError(f"key.name {name!r} is not a property that can be a key; these are: {known}.")
    start = 0 if flag == tables.PRIORITY else 1

    def read(header: bytes, _body: bytes, _origin: bytes) -> bytes | None:
        try:
            found = find_property(header, flag)
        except MalformedHeaderError:
            return None
        if found is None:
            return None
        content = header[found.start + start : found.stop]
        return content or None if start else text(content[0])

    return read


def _pointer_reader(pointer: str) -> KeyReader:
    if not is_pointer(pointer):
        raise InvalidSpecError(f"key.name {pointer!r} is no JSON pointer: after `~` comes 0 (for `~`) or 1 (for `/`).")
    return _path_reader(tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]))


def _path_reader(path: tuple[str, ...]) -> KeyReader:
    def read(_header: bytes, body: bytes, _origin: bytes) -> bytes | None:
        payload = body_payload(body)
        try:
            found = _at(orjson.loads(payload), path)
        except orjson.JSONDecodeError as error:
            return text(_second_look(payload, path, error))
        if type(found) is float and abs(found) >= _BEYOND:
            found = _exactly(payload, path)
        return text(found)

    return read


def _at(found: object, path: tuple[str, ...]) -> object:
    for step in path:
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list) and _is_index(step) and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def _second_look(payload: bytes, path: tuple[str, ...], error: orjson.JSONDecodeError) -> object:
    """What orjson does not read although it is JSON to others: a byte order mark first, or numbers beyond a double."""
    if payload.startswith(BOM_UTF8):
        payload = payload[len(BOM_UTF8) :]
        try:
            found = _at(orjson.loads(payload), path)
        except orjson.JSONDecodeError as another:
            error = another
        else:
            return _exactly(payload, path) if type(found) is float and abs(found) >= _BEYOND else found
    return _exactly(payload, path) if _INFINITE in error.msg else None


def _exactly(payload: bytes, path: tuple[str, ...]) -> object:
    """The value with all of its digits where it is an integer: orjson rounds what is beyond 64 bits to a double."""
    try:
        return _at(json.loads(payload.decode(), parse_int=Decimal, parse_constant=_no_number), path)
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_index(step: str) -> bool:
    return step == "0" or (step.isascii() and step.isdigit() and not step.startswith("0"))
