"""From a message's key to its partition.

Invariant: both functions are frozen. Changing the text of a value or the hash of a text moves keys between partitions
while messages of theirs are under way, so two members would hold one key. The golden vectors in the tests stand for
every release.
"""

import math
from decimal import Decimal

import mmh3


def text(value: object) -> bytes | None:
    """The text that stands for a key's value, or None for a missing key.

    Strings are UTF-8 and bytes stay as they are. A number has one text whatever its type: plain decimal, without
    exponent, trailing zeros or a negative zero, so `1`, `1.0` and `Decimal("1.00")` are one key and `1e-07` is
    `0.0000001`. A float's is the shortest that names it or, where it is integral, all digits of that integer. Booleans
    are `true` and `false`. An empty string is a missing key: a producer that sends one has no key, and all of its
    messages in one partition would be a surprise. So are strings without a UTF-8 form, NaN, infinities, null, arrays,
    objects and timestamps.
    """
    match value:
        case bytes():
            return value or None
        case bytearray():
            return bytes(value) or None
        case str():
            return _utf8(value)
        case bool():
            return b"true" if value else b"false"
        case int():
            return b"%d" % value
        case float() if math.isfinite(value):
            # An integral float is its exact integer: repr would round the digits of what does not fit 17 of them.
            return b"%d" % int(value) if value.is_integer() else _plain(Decimal(repr(value)))
        case Decimal() if value.is_finite():
            return _plain(value)
        case _:
            return None


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key's text: MurmurHash3 x86_32 with seed 0, unsigned, modulo the number of partitions."""
    return mmh3.hash(key, 0, signed=False) % partitions


def _utf8(value: str) -> bytes | None:
    try:
        return value.encode() or None
    except UnicodeEncodeError:  # a lone surrogate, which some JSON writers escape
        return None


def _plain(value: Decimal) -> bytes:
    """Digits without exponent; formatted rather than normalised, which would round to the context's precision."""
    digits = f"{value:f}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return b"0" if digits == "-0" else digits.encode()
