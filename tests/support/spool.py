"""A directory of reports: one file per actor and writer, appended to while a test runs, audited when it is over.

Invariant: a report is in its file, whole, before the action that it announces: one `write` per batch of lines, no
buffer in the process, so that a process killed at any moment loses nothing that it had reported. A torn last line is
ignored.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from support.auditor import audit
from support.conditions import eventually
from support.events import OUTCOME_LETTERS, STRAY_LETTER, Event, Kind, from_line, now
from support.verdict import Verdict

_SUFFIX = ".events"
_SHOWN = 5


class Reports:
    """Appends one actor's lines to its file in the spool."""

    def __init__(self, directory: Path, actor: str, *, writer: str = "own") -> None:
        path = directory / f"{actor}@{writer}{_SUFFIX}"
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, lines: str) -> None:
        """Append whole lines."""
        os.write(self._fd, lines.encode())

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


class Spool:
    """The reports of all actors of one test."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._progress = _Progress(directory)

    def note(self, actor: str, kind: Kind, note: str = "") -> None:
        """Report for somebody else, now: a consumer about to be killed, a router about to be killed."""
        self.append(actor, now(kind, note=note), writer="test")

    def append(self, actor: str, lines: str, *, writer: str) -> None:
        """Append an actor's whole lines as this writer."""
        reports = Reports(self.directory, actor, writer=writer)
        reports.write(lines)
        reports.close()

    def unsettled(self) -> int:
        """How many messages are confirmed and not acknowledged, by what is reported up to now."""
        return self._progress.unsettled()

    @property
    def owed(self) -> str:
        """Those messages, for people, what was reported of the first one, and what was no message; read afresh."""
        progress = _Progress(self.directory)
        progress.unsettled()
        owed = sorted(progress.owed)
        many = f"{len(owed)} messages are confirmed, but not acknowledged"
        return "\n".join([many, *owed[:_SHOWN], *self._of(owed[:1])])

    def _of(self, idents: list[str]) -> list[str]:
        return [
            f"{path.name}: {line}"
            for path in sorted(self.directory.glob(f"*{_SUFFIX}"))
            for line in path.read_text().splitlines()
            if line.startswith(STRAY_LETTER) or any(f"\t{ident}\t" in line for ident in idents)
        ]

    def owes(self, key: str, seq: int) -> bool:
        """Whether that message is confirmed and not acknowledged, as of the last look."""
        return f"{key}\t{seq}" in self._progress.owed

    def counts(self) -> tuple[int, int]:
        """How many confirms and how many acks are reported up to now."""
        self._progress.unsettled()
        return self._progress.confirmed, self._progress.acked

    def acked_by(self, actor: str) -> int:
        """How many messages one consumer has acknowledged up to now."""
        self._progress.unsettled()
        return self._progress.acked_by[actor]

    @property
    def handled(self) -> Mapping[str, int]:
        """How many messages each consumer has acknowledged, as of the last look."""
        return self._progress.acked_by

    @property
    def newest(self) -> Mapping[str, tuple[int, str]]:
        """The newest message of each key that is acknowledged, as of the last look: its number, and by whom."""
        return self._progress.newest

    async def settled(self, stuck_after: float = 30.0) -> None:
        """Wait until every confirmed message is acknowledged, for as long as it goes on; producers must have ended.

        A slow consumer of a slow machine may take its time: it is an error only if no message is for so many seconds.
        """
        left = self.unsettled()

        def fewer() -> bool:
            return self.unsettled() < left

        while left:
            await eventually(fewer, lambda: self.owed, stuck_after)
            left = self.unsettled()

    def events(self) -> Iterator[Event]:
        """Everything reported, actor by actor."""
        return chain.from_iterable(_events(path) for path in sorted(self.directory.glob(f"*{_SUFFIX}")))

    def audit(self, *, in_doubt: float = 3.0) -> Verdict:
        """The verdict on everything reported; every actor must have ended, or hold nothing that matters."""
        return audit((_events(path) for path in sorted(self.directory.glob(f"*{_SUFFIX}"))), in_doubt=in_doubt)


def _events(path: Path) -> Iterator[Event]:
    actor = _actor(path)
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield from_line(line, actor)


def _actor(path: Path) -> str:
    return path.name.rpartition("@")[0]


class _Progress:
    """Follows the files and knows which confirmed messages await their ack; memory goes with what is in flight."""

    _OUTCOME = re.compile(rf"^([{''.join(OUTCOME_LETTERS)}])\t\d+\t([^\t\n]*\t\d+)\t[^\n]*$", re.MULTILINE)

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self.owed: set[str] = set()
        self._ahead: set[str] = set()
        self.confirmed = 0
        self.acked = 0
        self.acked_by: Counter[str] = Counter()
        self.newest: dict[str, tuple[int, str]] = {}

    def unsettled(self) -> int:
        for path in self._directory.glob(f"*{_SUFFIX}"):
            self._follow(path)
        return len(self.owed)

    def _follow(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        actor = _actor(path)
        confirmed, acked = OUTCOME_LETTERS
        for letter, ident in self._OUTCOME.findall(whole.decode()):
            if letter == confirmed:
                self.confirmed += 1
                self._pair(ident, self._ahead, self.owed)
            elif letter == acked:
                self.acked += 1
                self.acked_by[actor] += 1
                self._pair(ident, self.owed, self._ahead)
                key, _, number = ident.rpartition("\t")
                self.newest[key] = max(self.newest.get(key, (0, actor)), (int(number), actor))

    @staticmethod
    def _pair(ident: str, waiting: set[str], otherwise: set[str]) -> None:
        if ident in waiting:
            waiting.remove(ident)
        else:
            otherwise.add(ident)
