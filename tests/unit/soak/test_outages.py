"""How long a fault of a node lasted, from reports."""

from soak.outages import Outage, interruptions
from support.events import Event, Kind

_S = 1_000_000_000


def _message(seq: int, *, sent: float, acked: float) -> list[Event]:
    return [
        Event(int(sent * _S), Kind.SENT, "p", "key", seq),
        Event(int(acked * _S), Kind.ACKED, "c", "key", seq),
    ]


def test_what_was_sent_before_the_fault_is_no_sign_of_its_end() -> None:
    events = [*_message(0, sent=9, acked=11), *_message(1, sent=12, acked=14)]
    outage = Outage(name="node frozen", began=10 * _S, routed=10 * _S)
    assert interruptions([outage], events) == {"node frozen": [4.0]}


def test_nor_is_what_the_dying_session_still_routed() -> None:
    events = [*_message(0, sent=10.1, acked=10.2), *_message(1, sent=11, acked=17)]
    outage = Outage(name="node restarted", began=10 * _S, routed=15 * _S)
    assert interruptions([outage], events) == {"node restarted": [7.0]}


def test_a_fault_after_which_nothing_was_sent_is_left_out() -> None:
    outage = Outage(name="node killed", began=10 * _S, routed=10 * _S)
    assert interruptions([outage], _message(0, sent=9, acked=11)) == {}
