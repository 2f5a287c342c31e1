"""What the demo shows while it runs: a live picture on a terminal, a line now and then where there is none.

Invariant: it only shows; whatever it is told it takes from the resource's status and from the reports, never from the
operator.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from support.stage import condition
from support.verdict import Verdict

_LINE_EVERY = 5.0


@dataclass(slots=True)
class Picture:
    """What is known at the moment."""

    group: Mapping[str, Any] = field(default_factory=dict)
    confirmed: int = 0
    acked: int = 0
    rate: float = 0.0
    """Acknowledged messages a second, lately."""
    source: int | None = None
    """Ready messages in the source."""
    ready: dict[str, int | None] = field(default_factory=dict)
    """Ready messages in the members' inboxes."""
    handoffs: int = 0
    longest_handoff: float = 0.0
    """Seconds, by the operator's Events."""

    @property
    def status(self) -> Mapping[str, Any]:
        """The resource's status; empty while there is none."""
        status: Mapping[str, Any] = self.group.get("status") or {}
        return status


class View:
    """`with View(console) as view`: then `step`, `note` and `show`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = monotonic()
        self._step = ""
        self._notes: deque[str] = deque(maxlen=8)
        self._picture = Picture()
        self._line_due = 0.0
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, what: str) -> None:
        """A new step of the demo begins."""
        self._step = what
        self.note(what)

    def note(self, what: str) -> None:
        """Something happened."""
        line = f"{self._age():6.1f} s  {what}"
        self._notes.append(line)
        if self._live is None:
            self._console.print(line, highlight=False, soft_wrap=True)
        else:
            self._live.update(self._render())

    def show(self, picture: Picture) -> None:
        """The picture has changed."""
        self._picture = picture
        if self._live is not None:
            self._live.update(self._render())
        elif monotonic() >= self._line_due and picture.confirmed:
            self._line_due = monotonic() + _LINE_EVERY
            self._console.print(f"{self._age():6.1f} s    {self._summary()}", highlight=False, soft_wrap=True)

    def _age(self) -> float:
        return monotonic() - self._started

    def _summary(self) -> str:
        picture = self._picture
        status = picture.status
        partitions = status.get("partitions") or {}
        return (
            f"{status.get('memberCount', 0)} members, "
            f"{partitions.get('assigned', 0)}/{partitions.get('total', 0)} partitions "
            f"({partitions.get('held', 0)} changing hands), "
            f"source {picture.source}, inboxes {sum(ready or 0 for ready in picture.ready.values())}, "
            f"in flight {picture.confirmed - picture.acked}, {picture.rate:.0f} msg/s, {picture.handoffs} handoffs"
        )

    def _render(self) -> Panel:
        ready = condition(self._picture.group, "Ready")
        head = Text.assemble(
            (self._step, "bold"),
            f"\n{self._summary()}\n",
            f"{ready.get('reason', 'waiting')}: {ready.get('message', '')}",
        )
        notes = Text("\n".join(self._notes), "dim")
        parts = Group(head, "", self._members(), *self._handoffs(), "", notes)
        return Panel(parts, title="PartyMQ", border_style="blue")

    def _members(self) -> Table:
        members = Table("member", "state", "count", "partitions", "ready", expand=True, box=None, header_style="bold")
        for member in self._picture.status.get("members") or []:
            name, ranges, state = member["name"], member.get("partitions", ""), member["state"]
            colour = {"Active": "green", "Leaving": "red", "Absent": "red"}.get(state, "yellow")
            ready = self._picture.ready.get(name)
            members.add_row(name, Text(state, colour), str(count(ranges)), ranges, str(ready or 0))
        return members

    def _handoffs(self) -> list[Text]:
        handoffs = self._picture.status.get("handoffs") or []
        return [
            Text(f"handoff {one['id']} from {one['donor']}: {one.get('phase')}, {one.get('waitingFor')}", "cyan")
            for one in handoffs
        ]


def count(ranges: str) -> int:
    """How many numbers there are in `0-3,7`."""
    total = 0
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def table(verdict: Verdict, picture: Picture) -> Table:
    """The auditor's table."""
    rows = Table(title="What the clients saw", show_header=False, title_justify="left")
    for name, value in verdict.rows():
        rows.add_row(name, value)
    rows.add_row("longest handoff", f"{picture.longest_handoff * 1000:.0f} ms of {picture.handoffs}")
    return rows
