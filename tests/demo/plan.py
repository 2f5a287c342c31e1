"""What happens in `make try`, as data.

Invariant: somebody consumes at each moment, and a name is used once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Act(Enum):
    """What becomes of a consumer."""

    JOIN = auto()
    LEAVE = auto()
    """It unbinds and finishes what it holds."""
    KILL = auto()
    """Its process gets SIGKILL, and nobody unbinds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change."""

    act: Act
    name: str

    def announced(self, rejoin: int) -> str:
        """What is about to happen, for people; a killed consumer is waited for so many seconds."""
        match self.act:
            case Act.JOIN:
                return f"scaling up: {self.name} joins and is given its share, the others keep the rest of theirs"
            case Act.LEAVE:
                return f"scaling down: {self.name} leaves, and hands over when it has finished what it holds"
            case Act.KILL:
                return f"kill -9 {self.name}: its keys wait for it for {rejoin} s, then the others have them"


FIRST: Final = ("alpha", "bravo", "charlie")
PLAN: Final = (
    Step(act=Act.JOIN, name="delta"),
    Step(act=Act.KILL, name="bravo"),
    Step(act=Act.LEAVE, name="alpha"),
)


def consumers(first: Iterable[str], steps: Iterable[Step]) -> frozenset[str]:
    """Who consumes after these steps; ValueError for steps that cannot be."""
    ever, now = set(first), set(first)
    for step in steps:
        if step.act is Act.JOIN:
            if step.name in ever:
                raise ValueError(f"{step.name} was there before")
            ever.add(step.name)
            now.add(step.name)
        elif step.name not in now or len(now) == 1:
            raise ValueError(f"{step.name} is not there, or the last one")
        else:
            now.remove(step.name)
    return frozenset(now)
