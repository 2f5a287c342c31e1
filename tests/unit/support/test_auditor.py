"""The auditor finds every kind of broken promise when one is planted, and nothing in a history without."""

import tracemalloc
from collections import defaultdict
from collections.abc import Iterable, Sequence
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.auditor import audit
from support.events import CLOSED, KILLED, LOST, Event, Kind
from support.verdict import Verdict

SECOND = 1_000_000_000


class History:
    """A hand-made history: each step happens a millisecond after the one before, in its actor's stream."""

    def __init__(self) -> None:
        self.now = SECOND
        self.streams: dict[str, list[Event]] = defaultdict(list)

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def _tell(self, actor: str, kind: Kind, key: str = "", seq: int = 0, note: str = "") -> None:
        self.now += SECOND // 1000
        self.streams[actor].append(Event(self.now, kind, actor, key, seq, note))

    def send(self, key: str, *seqs: int, confirm: bool = True) -> None:
        for seq in seqs:
            self._tell("producer", Kind.SENT, key, seq)
            if confirm:
                self._tell("producer", Kind.CONFIRMED, key, seq)

    def receive(self, actor: str, key: str, *seqs: int) -> None:
        for seq in seqs:
            self._tell(actor, Kind.RECEIVED, key, seq)

    def ack(self, actor: str, key: str, *seqs: int) -> None:
        for seq in seqs:
            self._tell(actor, Kind.ACKED, key, seq)

    def handle(self, actor: str, key: str, *seqs: int) -> None:
        for seq in seqs:
            self.receive(actor, key, seq)
            self.ack(actor, key, seq)

    def gone(self, actor: str, how: str) -> None:
        self._tell(actor, Kind.GONE, note=how)

    def router(self, kind: Kind) -> None:
        self._tell("router", kind)

    def node(self, kind: Kind) -> None:
        self._tell("node", kind)

    def stray(self, actor: str, what: str) -> None:
        self._tell(actor, Kind.STRAY, note=what)

    def alive(self, actor: str) -> None:
        self._tell(actor, Kind.ALIVE)

    def verdict(self) -> Verdict:
        return audit(self.streams.values())


@pytest.fixture
def history() -> History:
    return History()


def test_a_history_that_keeps_every_promise_is_ok(history: History) -> None:
    history.send("k", 0, 1, 2)
    history.handle("a", "k", 0, 1, 2)
    verdict = history.verdict()
    assert verdict.ok, verdict.report()
    assert str(verdict) == "AUDIT ok"
    assert (verdict.messages, verdict.keys, verdict.deliveries) == (3, 1, 3)
    assert verdict.violations == ()


def test_an_empty_history_proves_nothing(history: History) -> None:
    verdict = history.verdict()
    assert not verdict.ok
    assert str(verdict) == "AUDIT failed: no message was confirmed"


def test_a_confirmed_message_that_is_never_delivered_is_lost(history: History) -> None:
    history.send("k", 0, 1)
    history.handle("a", "k", 0)
    verdict = history.verdict()
    assert verdict.lost == 1
    assert verdict.violations == ("message 1 of k was confirmed, but never delivered",)
    assert str(verdict) == "AUDIT failed: 1 lost"


def test_a_message_that_is_never_acknowledged_is_lost(history: History) -> None:
    history.send("k", 0)
    history.receive("a", "k", 0)
    verdict = history.verdict()
    assert verdict.lost == 1
    assert "never acknowledged: a was given it" in verdict.violations[0]


def test_a_message_that_was_never_confirmed_may_be_lost(history: History) -> None:
    history.send("k", 0)
    history.send("k", 1, confirm=False)
    history.handle("a", "k", 0)
    assert history.verdict().ok


def test_a_message_acknowledged_before_its_confirm_arrives_is_not_lost(history: History) -> None:
    history.send("k", 0, confirm=False)
    history.handle("a", "k", 0)
    history._tell("producer", Kind.CONFIRMED, "k", 0)
    assert history.verdict().ok


def test_an_older_message_delivered_first_after_a_newer_one_is_out_of_order(history: History) -> None:
    history.send("k", 0, 1, 2)
    history.handle("a", "k", 0, 2, 1)
    verdict = history.verdict()
    assert verdict.out_of_order == 1
    assert verdict.stale == 1
    assert "a was given message 1 of k" in verdict.violations[0]
    assert "a had been given message 2" in verdict.violations[0]


def test_disorder_across_consumers_is_found(history: History) -> None:
    history.send("k", 0, 1)
    history.handle("b", "k", 1)
    history.handle("a", "k", 0)
    assert history.verdict().out_of_order == 1


def test_keys_have_no_order_among_each_other(history: History) -> None:
    history.send("k", 0)
    history.send("l", 0)
    history.handle("a", "l", 0)
    history.handle("a", "k", 0)
    assert history.verdict().ok


def test_an_old_message_seen_last_leaves_its_key_stale_even_when_the_repeat_is_excused(history: History) -> None:
    history.send("k", 0, 1)
    history.receive("a", "k", 0, 1)
    history.ack("a", "k", 1)
    history.gone("a", KILLED)
    history.handle("b", "k", 0)
    verdict = history.verdict()
    assert verdict.repeated == 0
    assert verdict.stale == 1
    assert verdict.violations == ("the last message of k, seen by b, is 0, not 1",)


def test_two_consumers_with_messages_of_one_key_are_found(history: History) -> None:
    history.send("k", 0, 1)
    history.receive("a", "k", 0)
    history.receive("b", "k", 1)
    history.ack("a", "k", 0)
    history.ack("b", "k", 1)
    verdict = history.verdict()
    assert verdict.held_twice == 1
    assert "b was given message 1 of k" in verdict.violations[0]
    assert "while a held 0 of it" in verdict.violations[0]


def test_a_key_is_free_once_its_holder_has_acknowledged_all_of_it(history: History) -> None:
    history.send("k", 0, 1, 2)
    history.receive("a", "k", 0, 1)
    history.ack("a", "k", 0, 1)
    history.handle("b", "k", 2)
    assert history.verdict().ok


@pytest.mark.parametrize("how", [CLOSED, KILLED, LOST])
def test_a_key_is_free_once_its_holder_is_gone_and_what_it_held_may_come_again(history: History, how: str) -> None:
    history.send("k", 0, 1)
    history.receive("a", "k", 0, 1)
    history.gone("a", how)
    history.handle("b", "k", 0, 1)
    verdict = history.verdict()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 2


def test_a_consumer_that_falls_silent_holds_until_its_last_sign_of_life(history: History) -> None:
    history.send("k", 0, 1)
    history.receive("a", "k", 0)
    history.handle("b", "k", 1)
    history.alive("a")
    history.handle("b", "k", 0)
    verdict = history.verdict()
    assert verdict.held_twice == 1
    assert verdict.excused_by_consumer == 1
    assert [c.ended for c in verdict.consumers] == ["silent", "silent"]


def test_a_stopped_consumer_holds_until_it_acknowledges_after_its_sleep(history: History) -> None:
    history.send("k", 0, 1)
    history.receive("a", "k", 0)
    history.wait(60)
    history.handle("b", "k", 1)
    history.ack("a", "k", 0)
    assert history.verdict().held_twice == 1


def test_messages_without_a_key_have_no_order_and_no_holder(history: History) -> None:
    history.send("", 0, 1, 2)
    history.receive("a", "", 2)
    history.receive("b", "", 0, 1)
    history.ack("a", "", 2)
    history.ack("b", "", 0, 1)
    assert history.verdict().ok


def test_a_repeat_without_an_excuse_is_found_however_old_the_message_is(history: History) -> None:
    history.send("k", 0, 1)
    history.handle("a", "k", 0)
    history.wait(3600)
    history.handle("a", "k", 1)
    history.handle("a", "k", 0, 1)
    verdict = history.verdict()
    assert verdict.repeated == 2
    assert "published again, although it was acknowledged long before" in verdict.violations[0]
    assert "although a was given it" in verdict.violations[1]


def test_an_orderly_close_excuses_only_what_it_left_unacknowledged(history: History) -> None:
    history.send("k", 0, 1)
    history.handle("a", "k", 0)
    history.receive("a", "k", 1)
    history.gone("a", CLOSED)
    history.handle("b", "k", 0, 1)
    verdict = history.verdict()
    assert verdict.repeated == 1
    assert verdict.excused_by_consumer == 1


def test_an_ack_of_a_consumer_that_died_moments_later_may_not_have_left(history: History) -> None:
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.gone("a", KILLED)
    history.handle("b", "k", 0)
    verdict = history.verdict()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 1


def test_an_ack_in_doubt_is_so_until_somebody_consumes_again(history: History) -> None:
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.gone("a", KILLED)
    history.wait(20)
    history.send("other", 0)
    history.handle("b", "other", 0)
    history.handle("b", "k", 0)
    verdict = history.verdict()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_consumer == 1


def test_an_ack_long_before_the_death_of_its_consumer_excuses_nothing(history: History) -> None:
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.wait(4)
    history.gone("a", KILLED)
    history.handle("b", "k", 0)
    assert history.verdict().repeated == 1


def _acked_long_before_its_consumer_died(history: History, *, acked: bool = True, still: bool, later: float) -> None:
    history.send("k", 0)
    if still:
        history.node(Kind.NODE_STILL)
    history.receive("a", "k", 0)
    if acked:
        history.ack("a", "k", 0)
    history.wait(10)
    if still:
        history.node(Kind.NODE_BACK)
    history.wait(later)
    history.gone("a", KILLED)
    history.wait(10)
    history.receive("b", "k", 0)
    history.ack("b", "k", 0)


def test_an_ack_that_a_still_node_cannot_take_note_of_is_in_doubt(history: History) -> None:
    _acked_long_before_its_consumer_died(history, still=True, later=1.0)
    verdict = history.verdict()
    assert verdict.ok
    assert verdict.excused_by_consumer == 1


@pytest.mark.parametrize(("still", "later"), [(False, 1.0), (True, 4.0)])
def test_a_node_that_goes_on_excuses_nothing(history: History, still: bool, later: float) -> None:
    _acked_long_before_its_consumer_died(history, still=still, later=later)
    assert history.verdict().repeated == 1


def test_a_still_node_excuses_no_repeat_while_the_consumer_lives(history: History) -> None:
    history.send("k", 0)
    history.node(Kind.NODE_STILL)
    history.handle("a", "k", 0)
    history.receive("b", "k", 0)
    history.ack("b", "k", 0)
    history.node(Kind.NODE_BACK)
    history.alive("a")
    assert history.verdict().repeated == 1


def test_a_killed_router_excuses_repeats_of_what_was_in_flight(history: History) -> None:
    history.send("k", 0, 1, 2, 3)
    history.handle("a", "k", 0, 1)
    history.router(Kind.ROUTER_DOWN)
    history.send("k", 4)
    history.handle("a", "k", 2)
    history.router(Kind.ROUTER_UP)
    history.wait(60)
    history.handle("a", "k", 3, 4)
    history.handle("a", "k", 1, 2, 3, 4)
    verdict = history.verdict()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_router == 4


def test_a_killed_router_excuses_neither_what_was_settled_before_nor_what_was_sent_after(history: History) -> None:
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.wait(4)
    history.send("k", 1)
    history.handle("a", "k", 1)
    history.router(Kind.ROUTER_DOWN)
    history.router(Kind.ROUTER_UP)
    history.send("k", 2)
    history.handle("a", "k", 0, 2, 2)
    assert history.verdict().repeated == 2


def test_a_killed_router_excuses_neither_overlap_nor_disorder(history: History) -> None:
    history.send("k", 0, 1)
    history.router(Kind.ROUTER_DOWN)
    history.router(Kind.ROUTER_UP)
    history.receive("a", "k", 1)
    history.handle("b", "k", 0)
    history.ack("a", "k", 1)
    verdict = history.verdict()
    assert (verdict.held_twice, verdict.out_of_order) == (1, 1)


def test_two_copies_at_one_consumer_are_held_until_both_are_acknowledged(history: History) -> None:
    history.send("k", 0, 1)
    history.router(Kind.ROUTER_DOWN)
    history.router(Kind.ROUTER_UP)
    history.receive("a", "k", 0, 0)
    history.ack("a", "k", 0)
    history.receive("b", "k", 1)
    history.ack("a", "k", 0)
    history.ack("b", "k", 1)
    assert history.verdict().held_twice == 1


@pytest.mark.parametrize(("key", "seq"), [("k", 7), ("other", 0)])
def test_a_message_that_nobody_sent_is_a_stray(history: History, key: str, seq: int) -> None:
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.receive("a", key, seq)
    assert history.verdict().strays == 1


def test_a_marker_that_reaches_a_client_is_a_stray(history: History) -> None:
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.stray("a", "headers {'x-partymq-fence': '1'}")
    verdict = history.verdict()
    assert verdict.strays == 1
    assert "x-partymq-fence" in verdict.violations[0]


def test_the_longest_pause_names_its_key(history: History) -> None:
    history.send("slow", 0)
    history.wait(5)
    history.send("k", 0)
    history.handle("a", "k", 0)
    history.handle("a", "slow", 0)
    pauses = history.verdict().pauses
    assert pauses.longest_key == "slow"
    assert pauses.longest == pytest.approx(5, rel=0.01)
    assert pauses.p50 == pytest.approx(0.002, rel=0.03)


def test_a_flood_of_one_violation_does_not_hide_another(history: History) -> None:
    history.send("k", *range(100))
    history.handle("a", "k", *range(99))
    history.handle("a", "k", *range(98))
    verdict = history.verdict()
    assert (verdict.repeated, verdict.lost, verdict.stale) == (98, 1, 1)
    assert "message 99 of k was confirmed, but never delivered" in verdict.violations
    assert verdict.violations[-1] == "... and 93 more"


def test_a_producer_whose_numbers_do_not_grow_is_refused(history: History) -> None:
    history.send("k", 1, 0)
    with pytest.raises(ValueError, match="must grow"):
        history.verdict()


# -- against an oracle that follows the definitions and nothing else --------------------------------------------------


def oracle(events: Sequence[Event]) -> tuple[int, int, int, int, int]:
    """Lost, out of order, stale keys, keys held twice, repeats: by the definitions, in quadratic time."""
    received = [e for e in events if e.kind is Kind.RECEIVED]
    confirmed = {(e.key, e.seq) for e in events if e.kind is Kind.CONFIRMED}
    acked = {(e.key, e.seq) for e in events if e.kind is Kind.ACKED}
    out_of_order = repeated = 0
    twice, stale = set(), set()
    for e in received:
        earlier = [f for f in received if f.key == e.key and f.at < e.at]
        if all(f.seq != e.seq for f in earlier):
            out_of_order += any(f.seq > e.seq for f in earlier)
        else:
            before = max((f for f in earlier if f.seq == e.seq), key=lambda f: f.at)
            acked_at, gone_at, _ = end_of(before, events)
            left = gone_at is not None and gone_at < e.at and (acked_at is None or acked_at > gone_at)
            repeated += not left
        if any(f.actor != e.actor and hold_end(f, events) > e.at for f in earlier):
            twice.add(e.key)
    for key in {e.key for e in received}:
        seqs = [e.seq for e in received if e.key == key]
        if seqs[-1] != max(seqs):
            stale.add(key)
    return len(confirmed - acked), out_of_order, len(stale), len(twice), repeated


def end_of(delivery: Event, events: Iterable[Event]) -> tuple[int | None, int | None, bool]:
    later = [e for e in events if e.actor == delivery.actor and e.at > delivery.at]
    acks = [e.at for e in later if e.kind is Kind.ACKED and (e.key, e.seq) == (delivery.key, delivery.seq)]
    ends = [e.at for e in later if e.kind is Kind.GONE]
    return min(acks, default=None), min(ends, default=None), bool(later)


def hold_end(delivery: Event, events: Sequence[Event]) -> int:
    acked_at, gone_at, _ = end_of(delivery, events)
    silent_at = max(e.at for e in events if e.actor == delivery.actor)
    return min(at for at in (acked_at, gone_at, silent_at) if at is not None)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Any nonsense that three consumers may report about two keys; consumers go in an orderly way, and only once."""
    events: list[Event] = []
    present = {"a", "b", "c"}
    sent = {"k": 0, "l": 0}
    held: list[tuple[str, str, int]] = []

    def tell(actor: str, kind: Kind, key: str = "", seq: int = 0, note: str = "") -> None:
        events.append(Event(len(events) + 1, kind, actor, key, seq, note))

    for _ in range(draw(st.integers(1, 40))):
        step = draw(st.sampled_from(["send", "receive", "receive", "ack", "ack", "gone", "alive"]))
        key = draw(st.sampled_from(["k", "l"]))
        actor = draw(st.sampled_from(sorted(present))) if present else ""
        if step == "send":
            tell("producer", Kind.SENT, key, sent[key])
            if draw(st.booleans()):
                tell("producer", Kind.CONFIRMED, key, sent[key])
            sent[key] += 1
        elif step == "receive" and actor and sent[key]:
            seq = draw(st.integers(0, sent[key] - 1))
            if (actor, key, seq) not in held:
                tell(actor, Kind.RECEIVED, key, seq)
                held.append((actor, key, seq))
        elif step == "ack" and held:
            one = draw(st.sampled_from(held))
            held.remove(one)
            tell(one[0], Kind.ACKED, *one[1:])
        elif step == "gone" and actor and len(events) > 5:
            tell(actor, Kind.GONE, note=CLOSED)
            present.remove(actor)
            held = [one for one in held if one[0] != actor]
        elif step == "alive" and actor:
            tell(actor, Kind.ALIVE)
    return events


@settings(max_examples=500, deadline=None)
@given(histories())
def test_it_agrees_with_the_definitions(events: list[Event]) -> None:
    streams: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        streams[event.actor].append(event)
    # An ALIVE keeps every consumer's silence until after the last event: silence has a test of its own.
    for actor in {e.actor for e in events} - {"producer"} - {e.actor for e in events if e.kind is Kind.GONE}:
        streams[actor].append(Event(len(events) + 1, Kind.ALIVE, actor))
    everything = sorted(e for stream in streams.values() for e in stream)
    verdict = audit(streams.values())
    found = (verdict.lost, verdict.out_of_order, verdict.stale, verdict.held_twice, verdict.repeated)
    assert found == oracle(everything), verdict.report()


def steady_load(messages: int, keys: int) -> list[Iterable[Event]]:
    """A message a microsecond, handled by three consumers: streams as long as one likes."""

    def produced() -> Iterable[Event]:
        for n in range(messages):
            yield Event(n * 1000 + 1, Kind.SENT, "p", f"k{n % keys}", n // keys)
            yield Event(n * 1000 + 2, Kind.CONFIRMED, "p", f"k{n % keys}", n // keys)

    def consumed(actor: str, share: int) -> Iterable[Event]:
        for n in range(messages):
            if n % keys % 3 == share:
                yield Event(n * 1000 + 500_000, Kind.RECEIVED, actor, f"k{n % keys}", n // keys)
                yield Event(n * 1000 + 900_000, Kind.ACKED, actor, f"k{n % keys}", n // keys)

    return [produced(), *(consumed(name, share) for share, name in enumerate("abc"))]


def test_a_million_events_take_seconds() -> None:
    started = process_time()
    verdict = audit(steady_load(250_000, 2000), in_doubt=0.01)
    assert verdict.ok, verdict.report()
    assert verdict.messages == 250_000
    assert process_time() - started < 20


def test_memory_goes_with_keys_and_messages_in_flight_not_with_all_messages() -> None:
    tracemalloc.start()
    try:
        assert audit(steady_load(100_000, 100), in_doubt=0.001).ok
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
