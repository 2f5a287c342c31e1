"""What plain clients have stays theirs until they leave, and is never somebody else's meanwhile."""

from collections import Counter
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from partymq.core import codec, pinning
from partymq.core import ledger as transitions
from partymq.core.clients import ClientKind, mask, members_of, slots_in, slots_of, to_set
from partymq.core.keys import partition_of
from partymq.core.ledger import Ledger, LedgerError, Phase
from partymq.core.names import SPREAD
from partymq.core.pinning import (
    ConflictError,
    Spread,
    bereave,
    bind,
    leave,
    open_partitions,
    overflow,
    pin,
    ready,
    subside,
    used,
)
from partymq.core.planner import plan

PARTITIONS = 4
PODS = ("a", "b")
CLIENTS = ("x", "y", "z")


def plain(ledger: Ledger, *names: str) -> Ledger:
    for name in names:
        ledger = ready(bind(ledger, name=name, kind=ClientKind.PLAIN), name=name)
    return ledger


class Clients(RuleBasedStateMachine):
    """Pods and plain clients of one group come and go while slots are used."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = transitions.empty(PARTITIONS)
        self.pods: set[str] = set()
        self.spread = Spread()
        self.count = 0
        self.inhabited: set[str] = set()
        """Overflows, and what they have become, that may still hold messages."""

    @rule(name=st.sampled_from(PODS))
    def toggles(self, name: str) -> None:
        self.pods ^= {name}

    @rule(name=st.sampled_from(CLIENTS))
    def binds(self, name: str) -> None:
        client = self.ledger.clients.get(name)
        if client is not None and not client.ready:
            with pytest.raises(ConflictError, match="pending already"):
                bind(self.ledger, name=name, kind=ClientKind.PLAIN)
            return
        before = self.ledger
        self.ledger = bind(before, name=name, kind=ClientKind.PLAIN)
        assert self.ledger.pins == before.pins, "who comes back keeps its keys"

    @rule(name=st.sampled_from(CLIENTS))
    def gets_ready(self, name: str) -> None:
        client = self.ledger.clients.get(name)
        if client is None or client.ready:
            with pytest.raises(ConflictError):
                ready(self.ledger, name=name)
        else:
            self.ledger = ready(self.ledger, name=name)

    @rule(name=st.sampled_from(CLIENTS))
    def leaves(self, name: str) -> None:
        before = self.ledger
        self.ledger = leave(before, [name])
        assert name not in self.ledger.clients
        self.passes_on(before, name)

    @rule(name=st.sampled_from(CLIENTS))
    def is_full(self, name: str) -> None:
        self.count += 1
        overflow_id = f"1.{self.count}"
        if name not in self.ledger.plain or name in self.ledger.overflows:
            with pytest.raises(LedgerError):
                overflow(self.ledger, name=name, overflow_id=overflow_id)
            return
        self.ledger = overflow(self.ledger, name=name, overflow_id=overflow_id)
        self.inhabited.add(overflow_id)

    @rule(name=st.sampled_from(CLIENTS))
    def has_room(self, name: str) -> None:
        self.inhabited.discard(self.ledger.overflows.get(name, ""))
        self.ledger = subside(self.ledger, name=name)
        assert name not in self.ledger.overflows

    def passes_on(self, before: Ledger, name: str) -> None:
        """What a client had no room for is the first thing that whoever gets its keys is given."""
        if (overflow_id := before.overflows.get(name)) is None:
            return
        concerned = {SPREAD, *before.owned_by(name)} | {s % PARTITIONS for s in members_of(before.pins.get(name, 0))}
        assert self.ledger.within(overflow_id) == concerned
        for p in concerned:
            assert self.ledger.partition(p).transfers[0] == overflow_id
            assert self.ledger.partition(p).backlog, "what is newer has nowhere to wait"

    @rule(name=st.sampled_from(CLIENTS))
    def is_bereaved(self, name: str) -> None:
        client, before = self.ledger.clients.get(name), self.ledger
        self.ledger = bereave(before, [name])
        self.passes_on(before, name)
        assert (name in self.ledger.clients) == (client is not None and not client.ready)
        assert name not in self.ledger.pins

    @rule(slots=st.sets(st.integers(0, 40), max_size=8))
    def slots_are_used(self, slots: set[int]) -> None:
        free = [
            s for s in slots if s % PARTITIONS in set(open_partitions(self.ledger)) and not used(self.ledger) >> s & 1
        ]
        self.ledger = pin(self.ledger, self.spread.choose(self.ledger, free))

    @rule()
    def plans(self) -> None:
        todo = plan(self.ledger, eligible=self.pods, keeping=(), leaving=self.ledger.members - self.pods)
        after = transitions.claim(transitions.admit(self.ledger, todo.admissions), todo.claims)
        for handoff, targets in todo.retargets.items():
            after = transitions.retarget(after, handoff_id=handoff, targets=targets)
        for donor, targets in todo.handoffs.items():
            assert donor not in self.ledger.plain, "a client's own queue is to be emptied"
            self.count += 1
            after = transitions.begin_handoff(after, handoff_id=f"1.{self.count}", donor=donor, targets=targets)
        self.ledger = after

    @precondition(lambda self: self.ledger.handoffs)
    @rule(data=st.data())
    def hands_off(self, data: st.DataObject) -> None:
        handoff = data.draw(st.sampled_from(sorted(self.ledger.handoffs)))
        if self.ledger.handoffs[handoff].phase is Phase.DRAIN:
            found = data.draw(st.sets(st.integers(SPREAD, PARTITIONS - 1)))
            self.ledger = transitions.extracted(self.ledger, handoff_id=handoff, found=found)
        else:
            donor = self.ledger.handoffs[handoff].donor
            self.ledger = transitions.commit(self.ledger, handoff_id=handoff, drop=donor not in self.pods)

    @rule(p=st.integers(SPREAD, PARTITIONS - 1))
    def empties(self, p: int) -> None:
        first = self.ledger.partition(p).transfers[:1]
        self.ledger = transitions.unlist(self.ledger, transfers={p: first}, backlogs=[p])
        if first and first[0] not in self.ledger.transfers:
            self.inhabited.discard(first[0])

    @invariant()
    def a_slot_has_one_client(self) -> None:
        counts = Counter(slot for slots in self.ledger.pins.values() for slot in members_of(slots))
        assert all(count == 1 for count in counts.values())
        assert self.ledger.pins.keys() <= self.ledger.plain

    @invariant()
    def who_is_gone_is_named_nowhere(self) -> None:
        there = self.ledger.members | self.ledger.plain
        assert {part.owner for part in self.ledger.partitions} - {None} <= there
        for handoff in self.ledger.handoffs.values():
            assert set(handoff.targets.values()) - {None} <= there

    @invariant()
    def what_had_no_room_is_somewhere(self) -> None:
        known = {*self.ledger.overflows.values(), *self.ledger.transfers}
        assert self.inhabited <= known, "messages are lost"
        assert not self.inhabited & self.ledger.garbage, "they would be deleted"

    @invariant()
    def the_journal_keeps_it(self) -> None:
        assert codec.decode(codec.encode(self.ledger)) == self.ledger


TestClients = Clients.TestCase


@given(st.integers(1, 4096), st.binary(min_size=1))
def test_a_key_is_in_its_partition_whatever_its_slot(partitions: int, key: bytes) -> None:
    assert partition_of(key, slots_of(partitions)) % partitions == partition_of(key, partitions)
    assert slots_of(partitions) >= 65_536


@settings(deadline=None)
@given(st.integers(1, 300), st.sets(st.integers(0, 299)))
def test_sets_of_slots(partitions: int, some: set[int]) -> None:
    assert set(members_of(to_set(some, partitions))) == some
    wanted = {p % partitions for p in some}
    assert set(members_of(mask(wanted, partitions))) == {s for p in wanted for s in slots_in(p, partitions)}


@pytest.mark.parametrize("alone", [0, 5_000, 20_000])
def test_new_keys_are_spread_evenly_though_the_first_client_has_used_slots(alone: int) -> None:
    ledger, spread, count = plain(transitions.empty(64), "x"), Spread(), slots_of(64)

    def arrive(ledger: Ledger, keys: range) -> tuple[Ledger, Counter[str]]:
        owners: Counter[str] = Counter()
        for start in range(keys.start, keys.stop, 50):
            slots = [partition_of(b"%d" % key, count) for key in range(start, min(start + 50, keys.stop))]
            fresh = dict.fromkeys(s for s in slots if not used(ledger) >> s & 1)
            ledger = pin(ledger, spread.choose(ledger, fresh))
            owners.update(next(n for n, pins in ledger.pins.items() if pins >> s & 1) for s in slots)
        return ledger, owners

    ledger, owners = arrive(ledger, range(alone))
    assert set(owners) <= {"x"}
    _, owners = arrive(plain(ledger, "y", "z"), range(100_000, 105_000))
    assert all(abs(n - 5_000 / 3) <= 0.1 * 5_000 / 3 for n in owners.values()), owners


def test_what_a_pod_owns_is_not_pinned_and_what_is_used_is_not_given_again() -> None:
    ledger = transitions.claim(transitions.admit(plain(transitions.empty(PARTITIONS), "x"), ["a"]), {0: "a"})
    with pytest.raises(LedgerError):
        pin(ledger, {0: "x"})
    ledger = pin(ledger, {1: "x"})
    with pytest.raises(LedgerError):
        pin(plain(ledger, "y"), {1: "y"})
    with pytest.raises(LedgerError):
        pin(bind(ledger, name="y", kind=ClientKind.PLAIN), {2: "y"})


def test_a_ledger_without_clients_is_written_as_before() -> None:
    written = codec.encode(transitions.empty(4))
    assert b"clients" not in written
    assert b"pins" not in written
    assert codec.decode(written).clients == {}


def test_managed_clients_are_ready_and_are_no_plain_ones() -> None:
    ledger = bind(transitions.empty(4), name="m", kind=ClientKind.MANAGED)
    assert bind(ledger, name="m", kind=ClientKind.MANAGED) == ledger == ready(ledger, name="m")
    with pytest.raises(ConflictError, match="unbind it first"):
        bind(ledger, name="m", kind=ClientKind.PLAIN)
    assert not ledger.plain
    assert pinning.leave(ledger, ["m"]).clients == {}


def test_25_000_pins_cost_a_write_little() -> None:
    ledger = plain(transitions.empty(64), "x", "y", "z")
    slots = sorted({partition_of(b"key-%d" % key, slots_of(64)) for key in range(25_000)})
    ledger = pin(ledger, Spread().choose(ledger, slots))
    best = 1.0
    unused = sorted(set(range(slots_of(64))).difference(slots))
    for place in range(0, 500, 100):
        before = perf_counter()
        changed = pin(ledger, Spread().choose(ledger, unused[place : place + 100]))
        written = codec.encode(changed)
        best = min(best, perf_counter() - before)
    assert len(written) < 30_000
    assert best < 0.02, f"{best * 1000:.1f} ms"


def test_a_member_of_a_plain_clients_name_is_not_admitted() -> None:
    """A partition's owner is a name: it must not mean an inbox and a client's own queue."""
    with pytest.raises(LedgerError, match="the name of a client"):
        transitions.admit(plain(transitions.empty(64), "x"), ["x"])
