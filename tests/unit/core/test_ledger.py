"""The ledger's transitions, as a machine that makes random plans and carries them out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from partymq.core import codec
from partymq.core import ledger as transitions
from partymq.core.ledger import Ledger, LedgerError, Phase
from partymq.core.names import SPREAD
from partymq.core.planner import plan

NAMES = ("a", "b", "c", "d")
PARTITIONS = 5


class Protocol(RuleBasedStateMachine):
    """A router's writes, in any order that the controller, the handoffs and the releases could make them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = transitions.succeed(transitions.empty(PARTITIONS), writer="w")
        self.present: set[str] = set()
        self.count = 0

    @rule(name=st.sampled_from(NAMES))
    def comes(self, name: str) -> None:
        self.present.add(name)

    @rule(name=st.sampled_from(NAMES))
    def goes(self, name: str) -> None:
        self.present.discard(name)

    @rule()
    def plans(self) -> None:
        todo = plan(self.ledger, eligible=self.present, keeping=frozenset(), leaving=self.ledger.members - self.present)
        after = transitions.claim(transitions.admit(self.ledger, todo.admissions), todo.claims)
        for handoff, targets in todo.retargets.items():
            after = transitions.retarget(after, id=handoff, targets=targets)
        for donor, targets in todo.handoffs.items():
            self.count += 1
            after = transitions.begin_handoff(after, id=f"1.{self.count}", donor=donor, targets=targets)
        self.ledger = after

    @precondition(lambda self: self.ledger.handoffs)
    @rule(data=st.data())
    def extracts(self, data: st.DataObject) -> None:
        handoff = data.draw(st.sampled_from(sorted(self.ledger.handoffs)))
        if self.ledger.handoffs[handoff].phase is Phase.DRAIN:
            found = data.draw(st.sets(st.integers(SPREAD, PARTITIONS - 1)))
            self.ledger = transitions.extracted(self.ledger, id=handoff, found=found)

    @precondition(lambda self: self.ledger.handoffs)
    @rule(data=st.data())
    def commits(self, data: st.DataObject) -> None:
        handoff = self.ledger.handoffs[data.draw(st.sampled_from(sorted(self.ledger.handoffs)))]
        before = self.ledger
        gone = handoff.donor not in self.present
        self.ledger = transitions.commit(before, id=handoff.id, drop=gone)
        for p in handoff.targets:
            assert self.ledger.partition(p).backlog, "arrivals that waited are forgotten"
        for p in handoff.found:
            assert self.ledger.partition(p).transfers[0] == handoff.id, "something newer is given first"
        if gone and self.ledger.names(handoff.donor):
            assert handoff.donor in self.ledger.members, "an inbox is dropped that messages may be sent to"

    @rule(data=st.data())
    def empties(self, data: st.DataObject) -> None:
        p = data.draw(st.integers(SPREAD, PARTITIONS - 1))
        first = self.ledger.partition(p).transfers[:1]
        self.ledger = transitions.unlist(self.ledger, transfers={p: first}, backlogs=[p])
        if p in self.ledger.held:
            assert self.ledger.partition(p).backlog, "a held partition's arrivals have nowhere to wait"

    @rule()
    def fails(self) -> None:
        self.ledger = transitions.succeed(codec.decode(codec.encode(self.ledger)), writer="w2")

    @invariant()
    def is_sound(self) -> None:
        ledger = self.ledger
        assert codec.decode(codec.encode(ledger)) == ledger
        held = [p for handoff in ledger.handoffs.values() for p in handoff.targets]
        assert len(held) == len(set(held)), "a partition is in two handoffs"
        donors = [handoff.donor for handoff in ledger.handoffs.values()]
        assert len(donors) == len(set(donors)), "a donor is in two handoffs"
        assert not ledger.garbage & ledger.transfers, "a transfer that is needed would be deleted"
        for handoff in ledger.handoffs.values():
            assert all(ledger.partition(p).owner == handoff.donor for p in handoff.targets), "an owner changed early"
            assert all(ledger.partition(p).backlog for p in handoff.targets), "a held partition has no backlog"
        for partition in ledger.partitions:
            assert partition.owner is None or partition.owner in ledger.members, "an owner's inbox is not known"

    @invariant()
    def plans_come_to_an_end(self) -> None:
        ledger, present = self.ledger, self.present
        for number in range(20):
            todo = plan(ledger, eligible=present, keeping=frozenset(), leaving=ledger.members - present)
            ledger = transitions.claim(transitions.admit(ledger, todo.admissions), todo.claims)
            for handoff, targets in todo.retargets.items():
                ledger = transitions.retarget(ledger, id=handoff, targets=targets)
            for donor, targets in todo.handoffs.items():
                ledger = transitions.begin_handoff(ledger, id=f"9.{number}.{donor}", donor=donor, targets=targets)
            if not todo and not ledger.handoffs:
                break
            for running in list(ledger.handoffs.values()):
                ledger = transitions.commit(ledger, id=running.id, drop=running.donor not in present)
        else:
            raise AssertionError("plans go on for ever")
        owners = {partition.owner for partition in ledger.partitions}
        assert owners <= present or (not present and owners == {None})
        counts = [sum(p.owner == name for p in ledger.partitions) for name in present]
        assert not counts or max(counts) - min(counts) <= 1


TestProtocol = Protocol.TestCase


def _with_owner() -> Ledger:
    ledger = transitions.admit(transitions.empty(2), {"a", "b"})
    return transitions.claim(ledger, {0: "a", 1: "a"})


def test_an_owner_cannot_be_replaced_without_a_handoff() -> None:
    with pytest.raises(LedgerError):
        transitions.claim(_with_owner(), {0: "b"})


def test_a_handoff_takes_all_that_the_donor_owns() -> None:
    with pytest.raises(LedgerError):
        transitions.begin_handoff(_with_owner(), id="1.1", donor="a", targets={0: "b"})


def test_nobody_gets_partitions_before_its_inbox_is_known() -> None:
    with pytest.raises(LedgerError):
        transitions.begin_handoff(_with_owner(), id="1.1", donor="a", targets={0: "x", 1: "a"})


def test_a_handoffs_name_is_used_once() -> None:
    ledger = transitions.begin_handoff(_with_owner(), id="1.1", donor="a", targets={0: "b", 1: "a"})
    ledger = transitions.commit(transitions.extracted(ledger, id="1.1", found={0}), id="1.1", drop=False)
    with pytest.raises(LedgerError):
        transitions.begin_handoff(ledger, id="1.1", donor="a", targets={1: "b"})


def test_a_committed_handoff_has_no_new_targets() -> None:
    ledger = transitions.begin_handoff(_with_owner(), id="1.1", donor="a", targets={0: "b", 1: "a"})
    ledger = transitions.commit(ledger, id="1.1", drop=False)
    with pytest.raises(LedgerError):
        transitions.retarget(ledger, id="1.1", targets={0: "a", 1: "a"})


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "epoch": 3}'])
def test_what_is_no_ledger_is_refused(data: bytes) -> None:
    with pytest.raises(codec.UnknownFormatError):
        codec.decode(data)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_the_newer_ledger_wins(epoch: int, version: int) -> None:
    older = Ledger(partitions=(), epoch=epoch, version=version)
    assert transitions.succeed(older, writer="w").stamp > older.stamp
