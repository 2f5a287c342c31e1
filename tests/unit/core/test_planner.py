"""What waits for an owner must get one at once; what has one can wait until everybody has come who comes."""

from partymq.core.ledger import Ledger, admit, begin_handoff, claim, empty
from partymq.core.planner import Plan, plan


def owned(*owners: str) -> Ledger:
    ledger = admit(empty(len(owners)), set(owners))
    return claim(ledger, dict(enumerate(owners)))


def planned(ledger: Ledger, *, eligible: set[str], leaving: set[str] = frozenset()) -> Plan:  # type: ignore[assignment]
    return plan(ledger, eligible=eligible, keeping=(), leaving=leaving)


def test_who_comes_waits_for_others_and_what_nobody_owns_does_not() -> None:
    joining = planned(owned("a", "a", "b", "b"), eligible={"a", "b", "c"})
    assert joining.handoffs
    assert not joining.urgent(())
    first = planned(empty(4), eligible={"a"})
    assert first.urgent(()) == first


def test_what_a_leaver_had_goes_at_once_and_who_stays_gives_nothing_yet() -> None:
    todo = planned(owned("a", "a", "a", "b", "b", "b"), eligible={"a", "c"}, leaving={"b"})
    urgent = todo.urgent({"b"})
    assert urgent.handoffs.keys() == {"b"}
    assert urgent.admissions == {"c"}, "who is given something is admitted"


def test_a_handoff_to_somebody_who_leaves_is_given_another_target_at_once() -> None:
    ledger = admit(owned("a", "a", "b", "b"), {"c"})
    ledger = begin_handoff(ledger, handoff_id="1", donor="a", targets={0: "c", 1: "c"})
    todo = planned(ledger, eligible={"b"}, leaving={"a", "c"})
    assert todo.urgent({"a", "c"}).retargets == {"1": {0: "b", 1: "b"}}
