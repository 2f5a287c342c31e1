"""A key's text and its partition never change: a release that moves keys lets two members hold one."""

import math
from datetime import UTC, datetime
from decimal import Decimal

import mmh3
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.core.keys import partition_of, text

# The vectors that implementations of MurmurHash3 x86_32 share (made with SMHasher's test): they show which hash it is.
REFERENCE = [
    ("", 0, 0x00000000),
    ("", 1, 0x514E28B7),
    ("", 0xFFFFFFFF, 0x81F16F39),
    ("ffffffff", 0, 0x76293B50),
    ("21436587", 0, 0xF55B516B),
    ("21436587", 0x5082EDEE, 0x2362F9DE),
    ("214365", 0, 0x7E4A8634),
    ("2143", 0, 0xA0F7B07A),
    ("21", 0, 0x72661CF4),
    ("00000000", 0, 0x2362F9DE),
    ("000000", 0, 0x85F0B427),
    ("0000", 0, 0x30F4C306),
    ("00", 0, 0x514E28B7),
]


def murmur3(data: bytes, seed: int = 0) -> int:
    """The algorithm as published, written down a second time."""
    mask = 0xFFFFFFFF

    def mixed(block: int) -> int:
        block = block * 0xCC9E2D51 & mask
        return (block << 15 | block >> 17) * 0x1B873593 & mask

    state = seed
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        state ^= mixed(int.from_bytes(data[at : at + 4], "little"))
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & mask
    state ^= mixed(int.from_bytes(data[whole:], "little")) ^ len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        state = (state ^ state >> shift) * factor & mask
    return state


@pytest.mark.parametrize(("data", "seed", "expected"), REFERENCE)
def test_the_hash_is_the_published_one(data: str, seed: int, expected: int) -> None:
    assert mmh3.hash(bytes.fromhex(data), seed, signed=False) == expected
    assert murmur3(bytes.fromhex(data), seed) == expected


@given(st.binary(max_size=40))
def test_the_library_keeps_hashing_as_published(data: bytes) -> None:
    assert mmh3.hash(data, 0, signed=False) == murmur3(data)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
@pytest.mark.parametrize("partitions", [1, 2, 3, 64, 4096, 65536])
def test_a_partition_is_the_unsigned_remainder(key: bytes, hashed: int, partitions: int) -> None:
    assert partition_of(key, partitions) == hashed % partitions


@pytest.mark.parametrize(
    ("key", "of_64", "of_4096"),
    [
        ("customer-1", 36, 676),
        ("customer-2", 39, 1767),
        ("42", 54, 1078),
        (42, 54, 1078),
        (42.0, 54, 1078),
        ("-7", 20, 1172),
        (True, 50, 3954),
        ("true", 50, 3954),
        (2.5, 22, 150),
        ("Zürich", 17, 2385),
        ("日本", 2, 2370),
        (b"\x00\xff", 20, 3732),
    ],
)
def test_keys_stay_in_their_partition(key: object, of_64: int, of_4096: int) -> None:
    """Computed with `murmur3` above from texts written by hand, not with the functions under test."""
    hashed = text(key)
    assert hashed is not None
    assert (partition_of(hashed, 64), partition_of(hashed, 4096)) == (of_64, of_4096)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("orders", b"orders"),
        (" ", b" "),
        ("Ä", b"\xc3\x84"),
        (b"\xff\x00", b"\xff\x00"),
        (bytearray(b"ab"), b"ab"),
        (True, b"true"),
        (False, b"false"),
        (0, b"0"),
        (-1, b"-1"),
        (2**63, b"9223372036854775808"),
        (1.0, b"1"),
        (-0.0, b"0"),
        (0.1, b"0.1"),
        (-2.5, b"-2.5"),
        (1e-07, b"0.0000001"),
        (1.5e300, b"%d" % int(1.5e300)),
        (1e22, b"10000000000000000000000"),
        (5e-324, b"0." + b"0" * 323 + b"5"),
        (Decimal("1.00"), b"1"),
        (Decimal("1E+3"), b"1000"),
        (Decimal(100), b"100"),
        (Decimal("-0.00"), b"0"),
        (Decimal("0E-10"), b"0"),
        (Decimal("-1.50"), b"-1.5"),
        (Decimal("12345678901234567890123456789012345678.90"), b"12345678901234567890123456789012345678.9"),
    ],
)
def test_the_text_of_a_value_is_frozen(value: object, expected: bytes) -> None:
    assert text(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        b"",
        bytearray(),
        None,
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        {},
        {"a": 1},
        [],
        ["a"],
        datetime(2024, 1, 1, tzinfo=UTC),
        "\ud800",
    ],
)
def test_what_is_no_key_is_missing(value: object) -> None:
    assert text(value) is None


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_number_is_one_key_whatever_its_type(number: int) -> None:
    assert text(number) == text(float(number)) == text(Decimal(number)) == text(str(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_read_back_from_its_text(number: float) -> None:
    written = text(number)
    assert written is not None
    assert b"e" not in written
    assert float(written) == number


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text())
def test_a_json_body_and_a_header_give_the_same_key(value: object) -> None:
    assert text(orjson.loads(orjson.dumps(value))) == text(value)


@given(st.binary(min_size=1), st.integers(1, 65536))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
