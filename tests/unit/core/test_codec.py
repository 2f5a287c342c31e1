"""A journal may hold anything: it is a ledger, or refused in one sentence."""

import base64
import time
import tracemalloc
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.core.codec import UnknownFormatError, decode, encode
from partymq.core.ledger import empty, succeed

LEDGER: dict[str, Any] = orjson.loads(encode(succeed(empty(4), writer="w")))
BOMB = base64.b64encode(zlib.compress(bytes(100 * 2**20), 9)).decode()
NAMES = st.sampled_from(sorted(LEDGER))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


def refused(data: bytes) -> str:
    with pytest.raises(UnknownFormatError) as caught:
        decode(data)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 300
    return text


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "\x1b[31m" * 1000},
        {"epoch": "1"},
        {"version": None},
        {"writer": 5},
        {"names": [1]},
        {"owners": []},
        {"owners": [-1] * 4097},
        {"owners": [10**6]},
        {"transfers": []},
        {"handoffs": [1]},
        {"backlogs": 5},
        {"clients": {"a": ["odd", True]}},
        {"slots": 65_536, "pins": {"a": BOMB}},
        {"slots": 65_536, "pins": {"a": "no base64!"}},
        {"garbage": 1},
        {"visitors": [1]},
        {"visitors": 1},
        {"departed": [1]},
    ],
)
def test_rubbish_is_refused(changes: dict[str, Any]) -> None:
    assert decode(orjson.dumps(LEDGER)) is not None
    refused(orjson.dumps({**LEDGER, **changes}))


def test_who_had_left_by_an_older_ledger_is_a_visitor() -> None:
    assert decode(orjson.dumps({**LEDGER, "departed": ["a"]})).visitors == {"a"}


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"\xff", b"[" * 10**6, b"[" + b"[]," * 10**6 + b"0]", b"{" * 10**5]
)
def test_what_is_no_ledger_is_refused_soon_and_in_little_memory(data: bytes) -> None:
    began = time.process_time()
    tracemalloc.start()
    refused(data)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert time.process_time() - began < 1


def test_slots_are_unpacked_to_their_limit() -> None:
    tracemalloc.start()
    refused(orjson.dumps({**LEDGER, "slots": 65_536, "pins": {"a": BOMB}}))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.fuzz
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_whatever_stands_in_a_ledger_it_is_one_or_refused(changes: dict[str, Any]) -> None:
    try:
        decode(orjson.dumps({**LEDGER, **changes}))
    except UnknownFormatError as error:
        sentence(error)


@pytest.mark.fuzz
@given(st.binary(max_size=100))
def test_whatever_the_journal_holds_it_is_a_ledger_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except UnknownFormatError as error:
        sentence(error)


def sentence(error: Exception) -> None:
    assert str(error).isprintable()
