"""Partitions as people read them: `0-3,7`.

Invariant: `text` and `parse` are each other's inverse on ascending, distinct partitions.
"""

from collections.abc import Iterable, Mapping
from typing import Final

MOST: Final = 65_536
"""Partitions that are read: a few characters may name any number."""


def text(partitions: Iterable[int]) -> str:
    """Ascending runs joined by commas; order and repetitions of the input do not matter, none is the empty string."""
    runs: list[list[int]] = []
    for partition in sorted(set(partitions)):
        if runs and partition == runs[-1][1] + 1:
            runs[-1][1] = partition
        else:
            runs.append([partition, partition])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse(ranges: str) -> tuple[int, ...]:
    """The partitions of a text, ascending; ValueError for a text that `text` would not write."""
    partitions: list[int] = []
    for run in ranges.split(",") if ranges else ():
        first, _, last = run.partition("-")
        named = range(int(first), int(last or first) + 1)
        if len(partitions) + named.stop - named.start > MOST:
            raise ValueError(f"more than {MOST} partitions")
        partitions.extend(named)
    if text(partitions) != ranges:
        raise ValueError(f"{ranges!r} is not a list of partitions such as '0-3,7'")
    return tuple(partitions)


def handed_over(donor: str, targets: Mapping[int, str | None]) -> str:
    """What a handoff moves: `a hands over 0-3,7 to b, 4 to nobody`; what stays is left out."""
    moved: dict[str, list[int]] = {}
    for p, target in targets.items():
        if target != donor:
            moved.setdefault(target or "nobody", []).append(p)
    what = [f"{text(partitions)} to {target}" for target, partitions in sorted(moved.items())]
    return f"{donor} hands over {', '.join(what) or 'nothing'}"
