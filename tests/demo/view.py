"""What a person sees: a live picture on a terminal, a line now and then where there is none.

Invariant: it only shows, and a terminal without colours shows the same: whoever has a partition has a letter, too.
"""

from collections import deque
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.picture import NOBODY, NOTHING, Picture
from support.verdict import Verdict

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_STATES = {"Active": "green", "Leaving": "red", "Absent": "red", "Stuck": "red"}
_ROW = 64
"""Partitions in a row."""


class Legend:
    """A letter and a colour for each member, from when it is seen first."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def of(self, member: str) -> tuple[str, str]:
        """Its letter and its colour; a dot for nobody."""
        if member == NOBODY:
            return "·", "dim"
        number = self._number.setdefault(member, len(self._number))
        return chr(ord("a") + number % 26), _COLOURS[number % len(_COLOURS)]


class View:
    """`with View(console, title) as view`: then `step`, `note` and `show`."""

    def __init__(self, console: Console, title: str, *, line_every: float = 5.0) -> None:
        """`line_every` seconds there is a line about the load where there is no terminal."""
        self._console = console
        self._title = title
        self._line_every = line_every
        self._started = monotonic()
        self._step = ""
        self._notes: deque[str] = deque(maxlen=8)
        self._picture = NOTHING
        self._legend = Legend()
        self._counts = ""
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
        """A new step begins."""
        self._step = what
        self.note(what)

    def note(self, what: str) -> None:
        """Something happened."""
        self._notes.append(f"{self._age():6.1f} s  {what}")
        if self._live is None:
            self._print(what)
        else:
            self._live.update(self._render())

    def show(self, picture: Picture) -> None:
        """The picture has changed."""
        self._picture = picture
        if self._live is not None:
            self._live.update(self._render())
            return
        if (counts := picture.shares.counts()) != self._counts:
            self._counts = counts
            self._print(f"    partitions: {counts or 'nobody has any'}")
        if monotonic() >= self._line_due and picture.confirmed:
            self._line_due = monotonic() + self._line_every
            self._print(f"    {self._summary()}")

    def _print(self, what: str) -> None:
        self._console.print(f"{self._age():6.1f} s  {what}", highlight=False, markup=False, soft_wrap=True)

    def _age(self) -> float:
        return monotonic() - self._started

    def _summary(self) -> str:
        picture = self._picture
        inboxes = sum(ready or 0 for ready in picture.ready.values())
        return (
            f"{picture.confirmed} messages sent, {picture.acked} handled, {picture.rate:.0f} a second; "
            f"{picture.under_way} under way, {picture.source or 0} of them in the source, {inboxes} in inboxes; "
            f"{picture.handoffs} handoffs"
        )

    def _render(self) -> Panel:
        shares = self._picture.shares
        parts: list[RenderableType] = [
            Text(self._step, "bold"),
            Text(self._summary()),
            Text(shares.says),
            Text(),
            *self._partitions(),
            self._members(),
            *(Text(handoff, "cyan") for handoff in shares.handoffs),
            *self._keys(),
            Text(),
            Text("\n".join(self._notes), "dim"),
        ]
        return Panel(Group(*parts), title=self._title, border_style="blue")

    def _partitions(self) -> list[Text]:
        """A cell for each."""
        holders = self._picture.shares.holders
        rows = []
        for start in range(0, len(holders), _ROW):
            row = Text()
            for holder in holders[start : start + _ROW]:
                row.append(*self._legend.of(holder))
            rows.append(row)
        return rows

    def _members(self) -> Table:
        table = Table("", "member", "state", "partitions", "handled", "waiting", box=None, header_style="bold")
        for member in self._picture.shares.members:
            letter, colour = self._legend.of(member.name)
            table.add_row(
                Text(letter, colour),
                member.name,
                Text(member.state, _STATES.get(member.state, "yellow")),
                str(len(member.partitions)),
                str(self._picture.handled.get(member.name, 0)),
                str(self._picture.ready.get(member.name) or 0),
            )
        return table

    def _keys(self) -> list[Text]:
        keys = self._picture.keys
        if not keys:
            return []
        seen = "   ".join(f"{key.name}: no. {key.number} by {key.consumer}" for key in keys)
        return [Text(), Text(f"handled last   {seen}", overflow="ellipsis", no_wrap=True)]


def table(verdict: Verdict, picture: Picture) -> Table:
    """The auditor's table."""
    rows = Table(title="What the clients saw", show_header=False, title_justify="left")
    for name, value in verdict.rows():
        rows.add_row(name, value)
    rows.add_row("longest handoff", f"{picture.longest_handoff * 1000:.0f} ms of {picture.handoffs}")
    return rows


_KEEPS_UP = 2.0
"""Seconds in which what is under way is handled, if consumers keep up."""


def behind(waiting: int, rate: float) -> str:
    """How long it takes to handle what waits, at so many a second, in a sentence; empty if consumers keep up."""
    if waiting <= _KEEPS_UP * rate:
        return ""
    lasts = f"some {waiting / rate:.0f} s at this pace" if rate else "at no pace to be seen yet"
    return f"{waiting} messages wait still, {lasts}: the consumers are slower than the producer"


def slower(waiting: int, seconds: float) -> str:
    """That consumers did not keep up, in a sentence; empty if they did.

    `waiting` messages were not handled when the producer stopped, and that took so many seconds.
    """
    if seconds < _KEEPS_UP:
        return ""
    return (
        f"The consumers were slower than the producer here: {waiting} messages waited when it stopped, and the last "
        f"was handled {seconds:.1f} s later. Order and delivery do not suffer from that, the times above do."
    )
