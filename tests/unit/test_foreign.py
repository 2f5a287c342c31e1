"""Foreign text is one printable line of bounded length wherever it gets to, and logs hold nothing that is obeyed."""

import json
import logging
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.amqp.causes import cause
from partymq.core.report import MESSAGE, Condition, Notice
from partymq.errors import InvalidSpecError
from partymq.foreign import multiline, shown
from partymq.limits import Limits, load_limits, names
from partymq.logs import LINE, JsonFormatter, TextFormatter

ANY_TEXT = st.text(st.characters(), max_size=400)


@given(ANY_TEXT | st.binary(max_size=400), st.integers(4, 300))
def test_whatever_it_is_one_printable_line_comes_out(text: str | bytes, most: int) -> None:
    found = shown(text, most)
    assert found.isprintable()
    assert len(found) <= most
    found.encode()


@given(st.text("abcäöü漢字 '\"\\", max_size=100))
def test_what_is_printable_and_short_stays_as_it_is(text: str) -> None:
    assert shown(text) == text
    assert shown(text.encode()) == text


def test_what_is_escaped_says_which_character_it_was() -> None:
    assert shown("\x1b\x9b\u202e\U000e0001\ud800\n") == r"\x1b\x9b\u202e\U000e0001\ud800\x0a"
    assert shown(b"\xff\x1b") == r"\xff\x1b"
    assert shown("x" * 301) == "x" * 297 + "..."


@given(ANY_TEXT)
def test_of_several_lines_only_the_breaks_stay(text: str) -> None:
    found = multiline(text, 200)
    assert not set(found) & {"\x1b", "\r", "\x9b", "\x7f", "\u202e", "\u2028", "\x00"}


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_log_line_holds_nothing_that_a_terminal_obeys(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("\x1b[31m\r\n\x9b" + "x" * 100_000)
    except ValueError as error:
        seen = (type(error), error, error.__traceback__)
    record = logging.LogRecord(
        "name", logging.ERROR, "f", 1, "said: %s", ("\x1b]0;t\x07\r\n\u202e" + "y" * 100_000,), seen
    )
    text = formatter.format(record)
    assert not set(text) & {"\x1b", "\r", "\x07", "\x9b", "\u202e"}
    assert len(text) < 10 * LINE
    if isinstance(formatter, JsonFormatter):
        assert json.loads(text)["level"] == "error"


@given(ANY_TEXT)
def test_conditions_and_events_are_one_printable_line(text: str) -> None:
    for said in (Condition(ok=False, reason="R", message=text), Notice(warning=True, reason="R", message=text)):
        assert said.message.isprintable()
        assert len(said.message) <= MESSAGE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 5672)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)"), "no TLS"),
        (UnicodeEncodeError("utf-8", "hush\udcff", 4, 5, "surrogates not allowed"), "UnicodeEncodeError"),
        (ValueError("hush"), "ValueError"),
    ],
)
def test_why_a_call_failed_is_said_in_our_words(error: Exception, words: str) -> None:
    assert words in cause(error)
    assert "hush" not in cause(error)


def test_limits_come_from_flags_variables_and_defaults() -> None:
    environ = {"PARTYMQ_LIMIT_MESSAGE": "64Mi", "PARTYMQ_LIMIT_GROUPS_IN_NAMESPACE": "5"}
    found = load_limits(["message=32Mi", "clients=7"], environ)
    assert (found.message, found.clients, found.groups_in_namespace) == (32 * 2**20, 7, 5)
    assert load_limits([], {}) == Limits()
    assert found.answer == Limits().answer


@pytest.mark.parametrize(
    "given_",
    [
        "message",
        "message=",
        "message=x",
        "message=0",
        "message=-1",
        "clients=1Mi",
        "nothing=1",
        "=1",
        "answer=1",
        "\x1b=1",
    ],
)
def test_a_limit_that_is_none_is_refused(given_: str) -> None:
    if given_ == "message=":
        assert load_limits([given_], {}) == Limits()
        return
    with pytest.raises(InvalidSpecError, match="--limit") as caught:
        load_limits([given_], {})
    assert str(caught.value).isprintable()


def test_the_message_limit_is_at_least_the_brokers_own() -> None:
    assert Limits().message >= 16 * 2**20
    assert "message" in names()
