"""A member that hangs looks like one that works slowly, and one that is slow must not be called stuck."""

from random import Random

from partymq.core.taking import STUCK_AFTER, Taking


def test_who_takes_nothing_while_messages_stand_ready_is_stuck() -> None:
    taking = Taking()
    for second in range(60):
        taking.polled(published=4 if second < 10 else 0, ready=min(40, 4 * second + 4), uncounted=0, now=float(second))
    assert taking.stuck_since(29.0) is None
    assert taking.stuck_since(59.0) == 0.0


def test_an_empty_inbox_is_nobodys_fault() -> None:
    taking = Taking()
    for second in range(100):
        taking.polled(published=0, ready=0, uncounted=0, now=float(second))
    assert taking.stuck_since(100.0) is None


def test_a_slow_member_whose_inbox_grows_all_the_time_is_not_stuck() -> None:
    taking = Taking()
    for second in range(100):
        taking.polled(published=10, ready=5 * second + 5, uncounted=0, now=float(second))
    assert taking.stuck_since(100.0) is None


def test_what_a_poll_may_not_have_counted_is_no_sign_of_life() -> None:
    """Messages that were on their way look as if they had been taken, one poll later."""
    random, taking = Random(1), Taking()
    sent = uncounted = 0
    for step in range(200):
        published = random.randint(0, 5)
        sent += published
        uncounted = random.randint(0, published)
        seen = sent - random.randint(0, uncounted)
        taking.polled(published=published, ready=seen, uncounted=uncounted, now=step / 2)
    assert taking.stuck_since(100.0) is not None


def test_who_needs_long_for_a_message_is_given_longer() -> None:
    """Work of a minute for each message is no hang; it is noticed once."""
    taking, ready, stuck = Taking(), 100, []
    for second in range(600):
        if second and second % 60 == 0:
            ready -= 1
        taking.polled(published=0, ready=ready, uncounted=0, now=float(second))
        if taking.stuck_since(float(second)) is not None:
            stuck.append(second)
    assert min(stuck) == STUCK_AFTER
    assert max(stuck) < 60
