"""Figures, round by round.

Invariant: a ratio is the median of the ratios of single rounds, so both sides of it were measured within moments of
each other; rounds of figures that are compared go in the same order.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log10
from typing import Any


@dataclass(slots=True, kw_only=True)
class Figure:
    """One measured thing: a value for every round."""

    name: str
    unit: str
    section: str
    rounds: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.rounds)


@dataclass(slots=True)
class Results:
    """All figures of a run, and which of them are compared."""

    section: str = ""
    """The section that is being measured."""
    _figures: dict[str, Figure] = field(default_factory=dict)
    _comparisons: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, name: str, unit: str, *values: float) -> None:
        """Notes a round's value, or those of several rounds."""
        figure = self._figures.setdefault(name, Figure(name=name, unit=unit, section=self.section))
        figure.rounds.extend(values)

    def compare(self, name: str, others: Mapping[str, str]) -> None:
        """Says what a figure is compared with: labels, and the figures behind them."""
        self._comparisons.setdefault(name, {}).update(others)

    def repeat(self, name: str, other: str) -> None:
        """Notes a figure under a second name."""
        self.add(other, self._figures[name].unit, *self._figures[name].rounds)

    def value(self, name: str) -> float:
        """A figure's median so far."""
        return self._figures[name].value

    def section_results(self, section: str) -> list[dict[str, Any]]:
        """The section's figures as they stand in the JSON file."""
        return [self._as_json(figure) for figure in self._figures.values() if figure.section == section]

    def _as_json(self, figure: Figure) -> dict[str, Any]:
        others = {
            label: self._figures[other]
            for label, other in self._comparisons.get(figure.name, {}).items()
            if other in self._figures
        }
        return {
            "name": figure.name,
            "section": figure.section,
            "unit": figure.unit,
            "value": short(figure.value),
            "rounds": [short(value) for value in figure.rounds],
            "min": short(min(figure.rounds)),
            "median": short(figure.value),
            "max": short(max(figure.rounds)),
            "compared_with": {label: short(other.value) for label, other in others.items()},
            "ratios": {label: short(_ratio(figure, other)) for label, other in others.items()},
        }


def _ratio(one: Figure, other: Figure) -> float:
    return statistics.median(a / b if b else 0.0 for a, b in zip(one.rounds, other.rounds, strict=False))


def short(value: float, digits: int = 4) -> float:
    """The value with so many significant digits, as an integer where that is what is left."""
    if not value:
        return 0
    rounded = round(value, digits - 1 - floor(log10(abs(value))))
    return int(rounded) if rounded == int(rounded) else rounded


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the values lie; of an ordered list that is not empty."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
