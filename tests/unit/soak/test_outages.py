"""How long a fault of a node lasted, from reports."""

from soak.outages import Outage, interruptions
from support.events import Event, Kind

_S = 1_000_000_000


def _acked(*seconds: float) -> list[Event]:
    return [Event(int(at * _S), Kind.ACKED, "c", "key", seq) for seq, at in enumerate(seconds)]


def test_what_clients_still_work_off_is_no_sign_of_its_end() -> None:
    outage = Outage(name="node killed", began=10 * _S, routed=15 * _S)
    assert interruptions([outage], _acked(9, 11, 14, 17, 18)) == {"node killed": [7.0]}


def test_a_session_that_needs_nothing_of_the_node_is_not_interrupted() -> None:
    outage = Outage(name="node frozen", began=10 * _S, routed=10 * _S)
    assert interruptions([outage], _acked(9, 10.5)) == {"node frozen": [0.5]}


def test_a_fault_after_which_nobody_acknowledges_is_left_out() -> None:
    outage = Outage(name="node killed", began=10 * _S, routed=10 * _S)
    assert interruptions([outage], _acked(9)) == {}
