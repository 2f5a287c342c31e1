"""The ledger's transitions, as a machine that makes random plans and carries them out."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from partymq.core import codec
from partymq.core import ledger as transitions
from partymq.core.ledger import Ledger, LedgerError, Phase
from partymq.core.names import SPREAD
from partymq.core.planner import Plan, plan

NAMES = ("a", "b", "c", "d")
PARTITIONS = 5


class Protocol(RuleBasedStateMachine):
    """A router's writes, in any order that the controller, the handoffs and the releases could make them.

    Beside the ledger the machine keeps what is true at the broker and among the members: a ledger that says otherwise
    has forgotten or invented something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = transitions.succeed(transitions.empty(PARTITIONS), writer="w")
        self.present: set[str] = set()
        self.keeping: set[str] = set()
        """Absent for a moment: not ready, or about to come back under their names."""
        self.count = 0
        self.owners: dict[int, str] = {}
        """Whose inbox the messages of a partition went to last."""
        self.segments: dict[int, list[str]] = {p: [] for p in range(SPREAD, PARTITIONS)}
        """Transfers that hold messages of a partition, the oldest first."""
        self.backlogged: set[int] = set()
        """Partitions with messages in their backlogs."""
        self.existing: set[str] = set()
        """Transfers that may exist on the broker."""
        self.deleted: set[str] = set()
        """Transfers whose deletion is confirmed, but not written down."""
        self.inboxes: set[str] = set()
        """Whose inboxes may exist on the broker."""

    @initialize(names=st.sets(st.sampled_from(NAMES)))
    def begins(self, names: set[str]) -> None:
        self.present |= names
        self.plans()

    @rule(name=st.sampled_from(NAMES))
    def comes(self, name: str) -> None:
        self.keeping.discard(name)
        self.present.add(name)

    @rule(name=st.sampled_from(NAMES))
    def goes(self, name: str) -> None:
        self.keeping.discard(name)
        self.present.discard(name)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def is_away_for_a_moment(self, data: st.DataObject) -> None:
        settled = not self.todo(self.ledger)
        name = data.draw(st.sampled_from(sorted(self.present)))
        self.present.remove(name)
        self.keeping.add(name)
        assert not settled or not self.todo(self.ledger), "the absence alone moves something"

    @rule()
    def plans(self) -> None:
        before, self.count = self.ledger, self.count + 10
        todo = self.todo(before)
        self.ledger = _carried_out(before, todo, number=self.count)
        self.owners |= todo.claims
        self.existing |= self.ledger.handoffs.keys()
        self.inboxes |= self.ledger.members
        for name in self.keeping:
            assert _intended(self.ledger, name) <= _intended(before, name), "one that is not there gets more"

    @precondition(lambda self: self.ledger.handoffs)
    @rule(data=st.data())
    def extracts(self, data: st.DataObject) -> None:
        handoff = data.draw(st.sampled_from(sorted(self.ledger.handoffs)))
        if self.ledger.handoffs[handoff].phase is Phase.DRAIN:
            found = data.draw(st.sets(st.integers(SPREAD, PARTITIONS - 1)))
            self.ledger = transitions.extracted(self.ledger, handoff_id=handoff, found=found)

    @precondition(lambda self: self.ledger.handoffs)
    @rule(data=st.data())
    def commits(self, data: st.DataObject) -> None:
        handoff = self.ledger.handoffs[data.draw(st.sampled_from(sorted(self.ledger.handoffs)))]
        gone = handoff.donor not in self.present | self.keeping
        self.ledger = transitions.commit(self.ledger, handoff_id=handoff.id, drop=gone)
        for p, target in handoff.targets.items():
            assert self.ledger.partition(p).backlog, "arrivals that waited are forgotten"
            self.owners.pop(p)
            if target is not None:
                self.owners[p] = target
        for p in handoff.found:
            self.segments[p].insert(0, handoff.id)
        if gone and self.ledger.names(handoff.donor):
            assert handoff.donor in self.ledger.members, "an inbox is dropped that messages may be sent to"

    @rule(partitions=st.sets(st.integers(SPREAD, PARTITIONS - 1), min_size=1))
    def lists_backlogs(self, partitions: set[int]) -> None:
        self.ledger = transitions.list_backlogs(self.ledger, partitions)
        self.backlogged |= partitions

    @precondition(lambda self: self.ledger.backlogs)
    @rule(data=st.data())
    def waits(self, data: st.DataObject) -> None:
        self.backlogged.add(data.draw(st.sampled_from(self.ledger.backlogs)))

    @rule(data=st.data())
    def empties(self, data: st.DataObject) -> None:
        p = data.draw(st.integers(SPREAD, PARTITIONS - 1))
        first = self.segments[p][:1]
        del self.segments[p][:1]
        if not self.segments[p] and p not in self.ledger.held:
            self.backlogged.discard(p)
        self.ledger = transitions.unlist(self.ledger, transfers={p: first}, backlogs=[p])
        if p in self.ledger.held:
            assert self.ledger.partition(p).backlog, "a held partition's arrivals have nowhere to wait"

    @precondition(lambda self: self.ledger.garbage)
    @rule(data=st.data())
    def deletes_garbage(self, data: st.DataObject) -> None:
        self.deleted.add(data.draw(st.sampled_from(sorted(self.ledger.garbage))))
        self.existing -= self.deleted

    @rule()
    def forgets_garbage(self) -> None:
        self.ledger = transitions.forget_garbage(self.ledger, self.deleted)
        assert not self.ledger.garbage & self.deleted, "it would be deleted again for ever"
        self.deleted = set()

    @precondition(lambda self: self.ledger.visitors)
    @rule(data=st.data())
    def deletes_an_inbox(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.ledger.visitors)))
        self.inboxes.remove(name)
        self.ledger = transitions.forget_visitor(self.ledger, name)

    @rule(data=st.data())
    def declares_an_inbox(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NAMES))
        self.ledger = transitions.expect(self.ledger, name)
        self.inboxes.add(name)

    @rule()
    def fails(self) -> None:
        self.ledger = transitions.succeed(codec.decode(codec.encode(self.ledger)), writer="w2")
        self.deleted = set()

    @invariant()
    def is_sound(self) -> None:
        ledger = self.ledger
        assert codec.decode(codec.encode(ledger)) == ledger
        held = [p for handoff in ledger.handoffs.values() for p in handoff.targets]
        assert len(held) == len(set(held)), "a partition is in two handoffs"
        donors = [handoff.donor for handoff in ledger.handoffs.values()]
        assert len(donors) == len(set(donors)), "a donor is in two handoffs"
        assert not ledger.garbage & ledger.transfers, "a transfer that is needed would be deleted"
        assert not ledger.visitors & ledger.members, "an inbox that is needed would be deleted"
        for handoff in ledger.handoffs.values():
            assert all(ledger.partition(p).owner == handoff.donor for p in handoff.targets), "an owner changed early"
            assert all(ledger.partition(p).backlog for p in handoff.targets), "a held partition has no backlog"
        for partition in ledger.partitions:
            assert partition.owner is None or partition.owner in ledger.members, "an owner's inbox is not known"

    @invariant()
    def says_what_is_there(self) -> None:
        ledger = self.ledger
        owners = {p: partition.owner for p, partition in enumerate(ledger.partitions) if partition.owner is not None}
        assert owners == self.owners, "an owner changed without a claim or a handoff"
        for p, transfers in self.segments.items():
            assert ledger.partition(p).transfers == tuple(transfers), "messages of a transfer are lost or out of order"
        assert self.backlogged <= set(ledger.backlogs), "the messages of a backlog are lost"
        known = ledger.handoffs.keys() | ledger.transfers | ledger.garbage
        assert self.existing <= known, "a transfer stays on the broker for ever"
        assert self.inboxes <= ledger.members | ledger.visitors, "an inbox stays on the broker for ever"

    @invariant()
    def plans_come_to_an_end(self) -> None:
        ledger, present = self.ledger, self.present
        there = present | self.keeping
        for number in range(20):
            todo = self.todo(ledger)
            if not todo and not ledger.handoffs:
                break
            ledger = _carried_out(ledger, todo, number=10_000 + 10 * number)
            for running in list(ledger.handoffs.values()):
                ledger = transitions.commit(ledger, handoff_id=running.id, drop=running.donor not in there)
        else:
            raise AssertionError("plans go on for ever")
        owners = {partition.owner for partition in ledger.partitions}
        assert owners <= (there if present else there | {None})
        counts = [len(ledger.owned_by(name)) for name in present]
        assert not counts or max(counts) - min(counts) <= 1
        assert not counts or all(len(ledger.owned_by(name)) <= min(counts) + 1 for name in self.keeping)

    def todo(self, ledger: Ledger) -> Plan:
        """What the controller would have done to `ledger`."""
        leaving = ledger.members - self.present - self.keeping
        return plan(ledger, eligible=self.present, keeping=self.keeping, leaving=leaving)


def _carried_out(ledger: Ledger, todo: Plan, *, number: int) -> Ledger:
    """The ledger after a plan's writes; its handoffs are numbered from `number` on."""
    ledger = transitions.claim(transitions.admit(ledger, todo.admissions), todo.claims)
    for handoff, targets in todo.retargets.items():
        ledger = transitions.retarget(ledger, handoff_id=handoff, targets=targets)
    for n, (donor, targets) in enumerate(todo.handoffs.items(), number):
        ledger = transitions.begin_handoff(
            ledger, handoff_id=f"1.{n}", donor=donor, targets=targets, since=1.25 * number
        )
    return ledger


def _intended(ledger: Ledger, name: str) -> set[int]:
    """What a member has, or is to have when the handoffs under way are done."""
    held = ledger.held
    owners = {p: partition.owner for p, partition in enumerate(ledger.partitions)}
    return {p for p, owner in owners.items() if (held[p].targets[p] if p in held else owner) == name}


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=300)


def _with_owner() -> Ledger:
    ledger = transitions.admit(transitions.empty(2), {"a", "b"})
    return transitions.claim(ledger, {0: "a", 1: "a"})


def test_an_owner_cannot_be_replaced_without_a_handoff() -> None:
    with pytest.raises(LedgerError):
        transitions.claim(_with_owner(), {0: "b"})


def test_a_handoff_takes_all_that_the_donor_owns() -> None:
    with pytest.raises(LedgerError):
        transitions.begin_handoff(_with_owner(), handoff_id="1.1", donor="a", targets={0: "b"})


def test_nobody_gets_partitions_before_its_inbox_is_known() -> None:
    with pytest.raises(LedgerError):
        transitions.begin_handoff(_with_owner(), handoff_id="1.1", donor="a", targets={0: "x", 1: "a"})


def test_a_handoffs_name_is_used_once() -> None:
    ledger = transitions.begin_handoff(_with_owner(), handoff_id="1.1", donor="a", targets={0: "b", 1: "a"})
    ledger = transitions.commit(
        transitions.extracted(ledger, handoff_id="1.1", found={0}), handoff_id="1.1", drop=False
    )
    with pytest.raises(LedgerError):
        transitions.begin_handoff(ledger, handoff_id="1.1", donor="a", targets={1: "b"})


def test_when_a_handoff_began_outlives_the_session_and_its_steps() -> None:
    ledger = transitions.begin_handoff(
        _with_owner(), handoff_id="1.1", donor="a", targets={0: "b", 1: "a"}, since=1764340000.25
    )
    ledger = transitions.retarget(transitions.succeed(ledger, writer="w2"), handoff_id="1.1", targets={0: "a", 1: "a"})
    ledger = transitions.extracted(ledger, handoff_id="1.1", found={0})
    assert codec.decode(codec.encode(ledger)).handoffs["1.1"].since == 1764340000.25


def test_a_journal_that_does_not_say_when_a_handoff_began_is_read() -> None:
    ledger = transitions.begin_handoff(
        _with_owner(), handoff_id="1.1", donor="a", targets={0: "b", 1: "a"}, since=1764340000.25
    )
    body = orjson.loads(codec.encode(ledger))
    del body["handoffs"][0]["since"]
    assert codec.decode(orjson.dumps(body)).handoffs["1.1"].since == 0.0


def test_a_committed_handoff_has_no_new_targets() -> None:
    ledger = transitions.begin_handoff(_with_owner(), handoff_id="1.1", donor="a", targets={0: "b", 1: "a"})
    ledger = transitions.commit(ledger, handoff_id="1.1", drop=False)
    with pytest.raises(LedgerError):
        transitions.retarget(ledger, handoff_id="1.1", targets={0: "a", 1: "a"})


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "epoch": 3}'])
def test_what_is_no_ledger_is_refused(data: bytes) -> None:
    with pytest.raises(codec.UnknownFormatError):
        codec.decode(data)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_the_newer_ledger_wins(epoch: int, version: int) -> None:
    older = Ledger(partitions=(), epoch=epoch, version=version)
    assert transitions.succeed(older, writer="w").stamp > older.stamp
