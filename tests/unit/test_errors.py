"""A limit of the broker is told from what its codes mean else."""

import pytest

from partymq.amqp.errands import explained
from partymq.errors import BrokerError, ChannelClosedError, ForeignQueueError, LimitReachedError, LockedQueueError


@pytest.mark.parametrize(
    "text",
    [
        "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (1) is reached",
        "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in cluster (1) is reached",
        "PRECONDITION_FAILED - cannot declare exchange 'x' in vhost '/': exchange limit of 3 is reached",
        "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (0) is reached",
        "NOT_ALLOWED - connection refused: node connection limit (5) is reached",
        "NOT_ALLOWED - connection refused for user 'guest': user connection limit (5) is reached",
        "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit of (2)",
        "NOT_ALLOWED - number of channels opened (10) has reached the negotiated channel_max (10)",
    ],
)
def test_a_limit(text: str) -> None:
    error = LimitReachedError.said(text)
    assert error is not None
    assert text in str(error)
    assert error.reason == "BrokerLimit"


@pytest.mark.parametrize(
    "text",
    [
        "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received '5'",
        "NOT_ALLOWED - vhost shop not found",
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.",
    ],
)
def test_what_is_none(text: str) -> None:
    assert LimitReachedError.said(text) is None


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'", ForeignQueueError),
        (
            406,
            "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (1) is reached",
            LimitReachedError,
        ),
        (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'", LockedQueueError),
        (404, "NOT_FOUND - no queue 'q'", BrokerError),
        (541, "INTERNAL_ERROR", ChannelClosedError),
    ],
)
def test_what_a_refused_declaration_is(code: int, text: str, kind: type[BrokerError]) -> None:
    assert type(explained(ChannelClosedError(code, text), "queue 'q'")) is kind
