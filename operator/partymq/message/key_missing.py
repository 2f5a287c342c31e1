"""Why a message has no usable key, for people: who can fix it is the producer, who sees a key where we see none.

Invariant: the sentence's end is about the message alone, and of the same words for all messages of a kind, so that they
can be counted.
"""

from codecs import BOM_UTF8
from typing import Final

import orjson

from partymq.amqp.frames import body_payload
from partymq.core.spec import KeyFrom, KeySpec
from partymq.message.tables import CONTENT_ENCODING, HEADERS, MalformedHeaderError, find_header, find_property

LOOKED_AT: Final = 1 << 20
"""Bytes of a body that are worth it."""
_GZIP: Final = b"\x1f\x8b"
_PLAIN: Final = {b"", b"identity", b"utf-8", b"utf8"}
"""What stands in content-encoding of bodies that are encoded in no way; some libraries write the charset there."""
_CONSTANTS: Final = ("NaN", "Infinity")


def why_missing(spec: KeySpec, header: bytes, body: bytes) -> str:
    """What is missing, or wrong, by a message for which the group's key reader gave None."""
    try:
        match spec.source:
            case KeyFrom.HEADER:
                return _header(spec.name.encode(), header)
            case KeyFrom.PROPERTY:
                return "the property is not set, or empty"
            case KeyFrom.ROUTING_KEY:
                return "the routing key is empty"
            case KeyFrom.BODY:
                return _body(header, body)
    except MalformedHeaderError:
        return "the headers cannot be read"


def _header(name: bytes, header: bytes) -> str:
    if find_header(header, name) >= 0:
        return "the header is empty, or of a type that is no key (a time, a list, a table, null, NaN)"
    if find_property(header, HEADERS) is None:
        return "there are no headers"
    return "there is no header of that name"


def _body(header: bytes, body: bytes) -> str:
    found = find_property(header, CONTENT_ENCODING)
    encoding = b"" if found is None else header[found.start + 1 : found.stop]
    if encoding.lower() not in _PLAIN:
        return (
            f"the body is encoded (content-encoding {encoding.decode(errors='replace')[:40]}), and is not decoded here"
        )
    payload = body_payload(body) if len(body) <= LOOKED_AT else b""
    if not body:
        return "the body is empty"
    if not payload:
        return f"the body is larger than {LOOKED_AT} bytes, and was not looked at again"
    if payload.startswith(_GZIP):
        return "the body is compressed by gzip, and is not decoded here"
    try:
        orjson.loads(payload.removeprefix(BOM_UTF8))
    except orjson.JSONDecodeError as error:
        if error.doc.startswith(_CONSTANTS, error.pos):
            return "the body is no JSON: NaN and Infinity are no numbers there"
        return "the body is no JSON"
    return "there is nothing at that place in the body, or null, an empty string, a list or an object"
