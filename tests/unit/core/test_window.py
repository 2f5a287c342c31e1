"""Too much credit makes handoffs long; too little makes a fast member wait for bookkeeping."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from partymq.core.window import MAX_GROWTH, MAX_WINDOW, Credit


def polled(window: int, *, ready: int, uncounted: int = 0) -> Credit:
    credit = Credit(window)
    credit.polled(ready=ready, uncounted=uncounted)
    return credit


def test_nothing_is_published_to_an_inbox_that_was_never_polled() -> None:
    """A returning pod's inbox may be full of messages."""
    credit = Credit(256)
    assert credit.left == 0
    assert not credit.may_release


def test_credit_is_the_window_less_what_the_inbox_may_hold() -> None:
    assert polled(256, ready=100, uncounted=30).left == 126
    assert polled(256, ready=300).left == -44


class Inbox:
    """A queue to which messages are on their way, and what its publisher knows of it."""

    def __init__(self, credit: Credit) -> None:
        self.credit = credit
        self.travelling = 0
        """Published, and not in the queue yet: a broker that is busy takes its time."""
        self.ready = 0
        self.unconfirmed = 0

    def publish(self, wanted: int) -> int:
        published = min(wanted, max(0, self.credit.left))
        self.credit.left -= published
        self.travelling += published
        self.unconfirmed += published
        return published

    def go_on(self, *, arrive: int, confirm: int, consume: int) -> None:
        arrived = min(arrive, self.travelling)
        self.travelling -= arrived
        self.ready += arrived
        self.unconfirmed -= min(confirm, self.unconfirmed - self.travelling)
        self.ready -= min(consume, self.ready)


_COUNT = st.integers(0, 400)
_STEP = st.fixed_dictionaries({"arrive": _COUNT, "confirm": _COUNT, "consume": _COUNT})


@given(st.integers(1, 1000), st.lists(st.tuples(_COUNT, _STEP, _COUNT, _STEP, _COUNT, _STEP)))
def test_an_inbox_never_holds_more_than_its_window(window: int, history: list[tuple[Any, ...]]) -> None:
    """Whatever happens while a poll is under way, however late its answer is and however long publishes take."""
    inbox = Inbox(Credit(window))
    for before, first, since, second, later, third in history:
        inbox.publish(before)
        inbox.go_on(**first)
        uncounted = inbox.unconfirmed
        uncounted += inbox.publish(since)
        inbox.go_on(**second)
        counted = inbox.ready
        uncounted += inbox.publish(later)
        inbox.go_on(**third)
        inbox.credit.polled(ready=counted, uncounted=uncounted)
        inbox.publish(window)
        assert inbox.ready + inbox.travelling <= window


def test_a_full_inbox_is_released_only_when_half_of_it_is_free() -> None:
    assert not polled(256, ready=129).may_release
    assert polled(256, ready=128, uncounted=100).may_release


def test_the_window_grows_to_a_tenth_of_a_second_of_a_fast_members_work() -> None:
    credit = polled(256, ready=0)
    for _ in range(1000):
        credit.observe_rate(consumed=200, seconds=0.01)
    assert 1990 <= credit.window <= 2000
    assert credit.left == credit.window


def test_the_window_shrinks_to_the_configured_one_when_the_member_slows_down() -> None:
    credit = polled(256, ready=0)
    credit.observe_rate(consumed=20_000, seconds=1.0)
    assert credit.window == 2000
    credit.observe_rate(consumed=10, seconds=1.0)
    assert credit.window == 256
    assert credit.left == 256


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(-1000, 1_000_000), st.floats(0, 100)), max_size=50),
    st.integers(0, 10_000),
)
def test_the_window_stays_within_its_bounds(window: int, history: list[tuple[int, float]], ready: int) -> None:
    credit = polled(window, ready=ready)
    for consumed, seconds in history:
        credit.observe_rate(consumed=consumed, seconds=seconds)
        assert window <= credit.window <= min(window * MAX_GROWTH, MAX_WINDOW)
        assert credit.left == credit.window - ready
        assert credit.rate >= 0


def test_polls_in_quick_succession_do_not_make_a_rate_up() -> None:
    """A hundred messages are a hundred in about a second, however close the polls that show them."""
    for seconds in (0.0, 5e-324, 1e-9):
        credit = polled(256, ready=0)
        credit.observe_rate(consumed=100, seconds=seconds)
        assert credit.rate == 100.0


def test_of_large_messages_the_window_has_as_many_as_there_is_room_for() -> None:
    credit = polled(256, ready=0)
    credit.weigh(messages=4, weight=4_000_000, room=10_000_000)
    credit.polled(ready=4, uncounted=0)
    assert (credit.window, credit.left) == (10, 6)
    credit.observe_rate(consumed=10_000, seconds=1.0)
    assert credit.window == 10, "however fast its member is"


def test_one_message_is_always_let_in() -> None:
    credit = polled(256, ready=0)
    credit.weigh(messages=1, weight=16_000_000, room=1_000_000)
    credit.polled(ready=0, uncounted=0)
    assert credit.left == 1


def test_a_large_message_is_noticed_at_once_and_forgotten_slowly() -> None:
    credit = polled(256, ready=0)
    credit.weigh(messages=1, weight=1_000_000, room=10_000_000)
    assert credit.fits == 10
    credit.weigh(messages=128, weight=128_000, room=10_000_000)
    assert credit.fits == 20
    credit.weigh(messages=0, weight=0, room=10_000_000)
    assert credit.fits == 20
    credit.weigh(messages=256, weight=256_000, room=10_000_000)
    credit.observe_rate(consumed=0, seconds=1.0)
    assert credit.window == 256
