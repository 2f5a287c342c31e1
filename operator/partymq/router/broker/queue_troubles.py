"""What is wrong with single queues of a group, as people are told of it.

Invariant: the trouble of one queue is its member's or its partition's: it stands in the conditions for as long as it
lasts, and there is one Event for each cause, however often it is met.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from partymq.core.report import Notice
from partymq.errors import BrokerError

REFUSES: Final = "QueueRefuses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A CamelCase word and a sentence that names the queue, what happened and what to do."""

    reason: str
    message: str


class Troubles:
    """The troubles of one session, by what they are about."""

    def __init__(self, *, on_notice: Callable[[Notice], None], on_change: Callable[[], None]) -> None:
        self._on_notice = on_notice
        self._on_change = on_change
        self._now: dict[str, Trouble] = {}
        self._told: set[tuple[str, Trouble]] = set()

    @property
    def statistics(self) -> Mapping[str, Trouble]:
        """All that last, by what they are about."""
        return dict(self._now)

    def of(self, what: str) -> str:
        """The sentence about this; empty when nothing is wrong with it."""
        return self._now[what].message if what in self._now else ""

    def refused(self, what: str, error: BrokerError, *, effect: str) -> None:
        """The broker has refused what is needed for this; `effect` is a sentence that says who waits."""
        self.meet(what, reason=error.reason, message=f"{effect}: {error}")

    def meet(self, what: str, *, reason: str, message: str) -> None:
        """Something is wrong with this."""
        trouble = Trouble(reason=reason, message=message)
        if self._now.get(what) == trouble:
            return
        self._now[what] = trouble
        self._on_change()
        if (what, trouble) not in self._told:
            self._told.add((what, trouble))
            self._on_notice(Notice(warning=True, reason=reason, message=message))

    def over(self, what: str) -> None:
        """Nothing is wrong with this any more."""
        if self._now.pop(what, None) is not None:
            self._on_change()


def refuses(queue: str) -> str:
    """What is said of a queue that refuses messages."""
    return (
        f"{queue} refuses messages (basic.nack): a policy with max-length and reject-publish matches it "
        "(`rabbitmqctl list_policies`), or it has failed (`rabbitmq-queues quorum_status`)"
    )
