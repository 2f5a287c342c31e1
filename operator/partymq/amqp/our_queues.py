"""What our own queues are declared with.

Invariant: what a promise rests on is demanded; what is better to have is a wish, and a queue that an older version has
declared without it is taken as it is.
"""

from collections.abc import Mapping
from typing import Final

from partymq.amqp.frames import Arguments

DELIVERY_LIMIT: Final = 1_000_000
CONSUMER_TIMEOUT: Final = 31_536_000_000
"""Milliseconds: a year."""
DISCONNECTED_TIMEOUT: Final = 0
"""Milliseconds for which a queue keeps what the consumer of a lost node holds, where the broker knows that (4.3).

Before 4.3 there is no such time either. While it lasts, any consumer that attaches beside a takeover that waits wedges
the queue (`amqp.lost_nodes`), and the client of a lost node comes to another one at once.
"""
SINGLE_ACTIVE: Final = "x-single-active-consumer"

QUORUM: Final[Mapping[str, int | str]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-consumer-timeout": CONSUMER_TIMEOUT,
}
WISHES: Final[Mapping[str, int | str]] = {
    "x-consumer-disconnected-timeout": DISCONNECTED_TIMEOUT,
    "x-queue-leader-locator": "balanced",
}


def without(arguments: Arguments, refused: str, *, wishes: frozenset[str]) -> Arguments | None:
    """The arguments without the wish that a refusal names; None if it names none."""
    wish = next((each for each in wishes if each in arguments and f"'{each}'" in refused), None)
    return None if wish is None else {name: value for name, value in arguments.items() if name != wish}
