"""What has to be in memory as a whole, whatever it weighs: inboxes that are taken over, transfers, a journal.

Invariant: all sessions of a process together have no more of it than the budget's total. Where it is more, the tenant
who has most of it pays with its largest session, so nobody can take what another needs by having many groups.

The budget's other half is for what can wait at the broker (see `memory_budget`); this cannot, for a handoff has to see
the end of an inbox. A broker that means well sends no more than the inboxes' windows let in; one that does not, without
end.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from partymq.errors import TooMuchAtOnceError

MESSAGE: Final = 512
"""Bytes that a message takes besides its own."""


def weight(header: bytes, body: bytes) -> int:
    """Bytes that a message takes, about."""
    return len(header) + len(body) + MESSAGE


class Holdings:
    """Those of a process."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self.all: set[Holding] = set()

    def relieve(self) -> None:
        """Ends sessions until the rest is few enough."""
        while self.held > self.most and self.all:
            tenants = Counter[str]()
            for one in self.all:
                tenants[one.tenant] += one.held
            tenant, _ = tenants.most_common(1)[0]
            max((one for one in self.all if one.tenant == tenant), key=lambda one: one.held).end()


class Holding:
    """One session's."""

    __slots__ = ("_fail", "_of", "held", "tenant")

    def __init__(self, of: Holdings, tenant: str, fail: Callable[[Exception], None]) -> None:
        """`fail` ends the session, and so gives up all of it."""
        self._of = of
        self._fail = fail
        self.tenant = tenant
        self.held = 0
        of.all.add(self)

    def part(self) -> "Part":
        """Of one reader."""
        return Part(self)

    def add(self, change: int) -> None:
        """More is held, or less."""
        if self in self._of.all:
            self.held += change
            self._of.held += change
            if change > 0 and self._of.held > self._of.most:
                self._of.relieve()

    def end(self) -> None:
        """It was too much."""
        held = self.held
        self.close()
        self._fail(TooMuchAtOnceError(held, self._of.most))

    def close(self) -> None:
        """Nothing is held any more, and nothing counts."""
        if self in self._of.all:
            self._of.all.remove(self)
            self._of.held -= self.held
            self.held = 0


class Part:
    """What one reader holds."""

    __slots__ = ("_holding", "held")

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self.held = 0

    def holds(self, held: int) -> None:
        """So many bytes."""
        change, self.held = held - self.held, held
        if change:
            self._holding.add(change)

    def add(self, change: int) -> None:
        """So many more, or fewer."""
        self.held += change
        self._holding.add(change)
