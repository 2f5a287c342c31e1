"""How many bytes of messages this process may have under way, and who of its groups may read on.

Invariant: a group that has something under way reads on only while it has no more than is left of the whole. So the sum
stays below the budget, whatever messages weigh; a group alone takes half of it, n groups an (n + 1)th each; and one
that is slow to get rid of its messages leaves to every other as much as it has itself. A group that has nothing under
way always reads on, at least until a message is whole: else none larger than its part would ever come.

Counted is what was read from sources and is not confirmed yet, by chunks: the path of a message has no part in it.
"""

from collections.abc import Callable
from typing import Final

from partymq.router.broker.holdings import Holdings

MIB: Final = 1024 * 1024
DEFAULT: Final = 256 * MIB
INBOXES: Final = 4
"""Of so many parts of the budget, one is what a group's inboxes may hold: takeovers have that in memory."""


class Budget:
    """What all groups of a process share."""

    def __init__(self, total: int = DEFAULT, *, wholes: int | None = None) -> None:
        """`total` bytes for what can wait at the broker, and `wholes` for what cannot, as many where not given."""
        self.total = total
        self.free = total
        """May be less than nothing, where groups read a message that is larger than what is left."""
        self._waiting: set[Share] = set()
        self.wholes = Holdings(total if wholes is None else wholes)
        """What cannot wait at the broker: as much again at most."""

    @property
    def inboxes(self) -> int:
        """Bytes that all inboxes of a group may hold together: a rebuild of its journal takes all of them over."""
        return self.total // INBOXES

    def share(self, hold: Callable[[bool], None]) -> "Share":
        """A group's part; `hold` is called with True when it is to read no more, with False when it may again."""
        return Share(self, hold, self._waiting)

    def look(self) -> None:
        """Something has become free: whoever waits for that may read on."""
        for share in tuple(self._waiting):
            share.look()


class Share:
    """One group's part of the budget."""

    __slots__ = ("_budget", "_hold", "_idle", "_waiting", "held")

    def __init__(self, budget: Budget, hold: Callable[[bool], None], waiting: set["Share"]) -> None:
        self._budget = budget
        self._hold = hold
        self._waiting = waiting
        self._idle = True
        self.held = 0

    def holds(self, held: int, *, idle: bool) -> None:
        """So many bytes are under way; `idle` when no whole message is."""
        budget, freed = self._budget, self.held - held
        budget.free += freed
        self.held = held
        self._idle = idle
        if held > budget.free or self in self._waiting:
            self.look()
        if freed > 0 and self._waiting:
            budget.look()

    def look(self) -> None:
        """Reads on, or stops reading."""
        stop = not self._idle and self.held > self._budget.free
        if stop is not (self in self._waiting):
            (self._waiting.add if stop else self._waiting.discard)(self)
            self._hold(stop)

    def let_go(self) -> None:
        """Reads on, whatever is under way."""
        self.holds(self.held, idle=True)

    def close(self) -> None:
        """Nothing is under way any more."""
        self.holds(0, idle=True)
