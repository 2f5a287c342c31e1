"""What failed sessions teach: care at once, patience soon, and in the end to leave the source alone."""

import pytest

from partymq.errors import ChannelClosedError, ConnectionClosedError, ConnectionLostError
from partymq.router.poison import failed_sessions as module
from partymq.router.poison.failed_sessions import (
    AT_RISK,
    BACKOFF_MAX,
    LINGER,
    RARELY,
    STEADY,
    Advice,
    FailedSessions,
    Past,
)

REFUSED = ChannelClosedError(406, "PRECONDITION_FAILED")
CRASHED = ConnectionClosedError(541, "INTERNAL_ERROR")
LOST = ConnectionLostError("the network is gone")


def test_a_publish_that_was_refused_is_followed_by_care_at_once() -> None:
    failed_sessions = FailedSessions()
    pause = failed_sessions.ended(
        Past(reading=True, refused=True, returning=5, others=7, routed=1), error=REFUSED, seconds=1
    )
    assert failed_sessions.advice == Advice(careful=True, returning=5, others=7)
    assert pause < 1.0


def test_care_lasts_until_a_session_has_passed_what_was_under_way() -> None:
    failed_sessions = FailedSessions()
    failed_sessions.ended(Past(reading=True, refused=True, routed=1), error=REFUSED, seconds=1.0)
    failed_sessions.ended(Past(wary=True), error=LOST, seconds=1.0)
    assert failed_sessions.advice.careful
    failed_sessions.ended(Past(reading=True, routed=9), error=None, seconds=1.0)
    assert not failed_sessions.advice.careful


@pytest.mark.parametrize("error", [REFUSED, CRASHED, ValueError("a defect")])
def test_tries_that_fail_in_the_same_way_come_ever_more_rarely(error: Exception) -> None:
    failed_sessions = FailedSessions()
    pauses = [failed_sessions.ended(Past(reading=True, routed=1), error=error, seconds=1.0) for _ in range(8)]
    assert pauses[0] < 1.0
    assert RARELY / 2 <= pauses[-1] <= RARELY


def test_where_the_message_is_known_tries_do_not_become_rarer_but_care_lasts_longer() -> None:
    failed_sessions, lingers = FailedSessions(), list[float]()
    for _ in range(8):
        past = Past(reading=True, refused=True, routed=1, blamed=1)
        assert failed_sessions.ended(past, error=REFUSED, seconds=5.0) <= BACKOFF_MAX
        lingers.append(failed_sessions.advice.linger)
    assert lingers[0] == LINGER
    assert lingers == sorted(lingers)
    assert lingers[-1] == STEADY
    failed_sessions.ended(past, error=REFUSED, seconds=STEADY + 1)
    assert failed_sessions.advice.linger == LINGER


@pytest.mark.parametrize("past", [Past(reading=True, routed=1), Past()])
def test_the_network_is_tried_again_soon(past: Past) -> None:
    failed_sessions = FailedSessions()
    assert all(failed_sessions.ended(past, error=LOST, seconds=1.0) <= BACKOFF_MAX for _ in range(50))


def test_who_has_not_read_the_source_need_not_wait_for_long() -> None:
    failed_sessions = FailedSessions()
    assert all(failed_sessions.ended(Past(), error=CRASHED, seconds=1.0) <= BACKOFF_MAX for _ in range(2000))


def test_a_success_makes_up_for_failures() -> None:
    failed_sessions = FailedSessions()
    for _ in range(8):
        failed_sessions.ended(Past(reading=True, routed=1), error=CRASHED, seconds=1.0)
    assert failed_sessions.ended(Past(reading=True, routed=1), error=CRASHED, seconds=STEADY + 1) < 1.0


def test_the_source_is_left_alone_when_its_messages_come_back_again_and_again() -> None:
    failed_sessions = FailedSessions()
    for returns in range(AT_RISK + 1):
        assert not failed_sessions.advice.at_risk
        failed_sessions.ended(Past(reading=True, routed=1, returns=returns), error=LOST, seconds=1.0)
    assert "INTERNAL" not in failed_sessions.advice.at_risk
    assert f"come back {AT_RISK} times" in failed_sessions.advice.at_risk
    failed_sessions.ended(Past(), error=None, seconds=1000.0)
    assert failed_sessions.advice.at_risk
    failed_sessions.forget()
    assert not failed_sessions.advice.at_risk


def test_a_header_that_somebody_else_wrote_is_no_risk() -> None:
    failed_sessions = FailedSessions()
    for _ in range(20):
        failed_sessions.ended(Past(reading=True, routed=1, returns=500), error=LOST, seconds=1.0)
    assert not failed_sessions.advice.at_risk


def test_the_source_is_left_alone_when_nothing_can_be_read_of_it() -> None:
    failed_sessions = FailedSessions()
    for _ in range(AT_RISK + 1):
        assert not failed_sessions.advice.at_risk
        failed_sessions.ended(Past(reading=True), error=CRASHED, seconds=1.0)
    assert "541" in failed_sessions.advice.at_risk


def test_a_network_that_flaps_is_no_reason_to_leave_it() -> None:
    failed_sessions = FailedSessions()
    for _ in range(100):
        failed_sessions.ended(Past(reading=True), error=LOST, seconds=1.0)
    assert not failed_sessions.advice.at_risk
    assert module.kind_of(LOST) == ""
