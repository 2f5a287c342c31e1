"""How often something may be asked for.

Invariant: over any stretch of time nobody gets more than his burst, and one for each interval in it; and what is
remembered of those who ask is no more than those who asked lately.
"""

from dataclasses import dataclass

from partymq.errors import PartyMQError


class TooOftenError(PartyMQError):
    """Somebody asks again and again; `after` says in how many seconds he may."""

    def __init__(self, what: str, after: float) -> None:
        super().__init__(f"{what}: ask again in {after:.0f} seconds.")
        self.after = after


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many at once, and one more every so many seconds."""

    burst: int
    every: float


class Allowance:
    """Who has taken how much of a rate; each by his name."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at: dict[str, float] = {}
        """When each has his whole burst again; in that order, but for those who took several."""

    def wait(self, name: str, now: float) -> float:
        """Seconds until he may have one; 0 for at once."""
        spent = max(0.0, self._full_at.get(name, now) - now)
        return max(0.0, spent - (self._rate.burst - 1) * self._rate.every)

    def take(self, name: str, now: float) -> None:
        """He has one."""
        self._full_at[name] = max(self._full_at.pop(name, now), now) + self._rate.every
        while self._full_at:  # whoever has his whole burst again is forgotten
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now:
                break
            del self._full_at[oldest]

    def __len__(self) -> int:
        return len(self._full_at)
