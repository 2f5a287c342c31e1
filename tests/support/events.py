r"""What producers, consumers and tests report to the auditor, and how a report looks as a line of text.

Invariant: one actor's events are in the order of its own clock, and an event's stamp never makes a hold look longer
than it was: `SENT` is taken before the publish, `RECEIVED` once the client has the message, `ACKED` and `GONE` before
the ack or the close is sent. So two holds that overlap in the reports did overlap. Stamps are `time.time_ns()`: all
actors share one host and thus one clock; across hosts the verdict on overlaps is as good as the clocks.

A line is `letter \t nanoseconds \t key \t sequence number \t note`; keys hold no tab and no newline, the empty key
means "no key".
"""

from enum import IntEnum
from time import time_ns
from typing import Final, NamedTuple


class Kind(IntEnum):
    """What happened; at the same instant, what ends a hold comes before what starts one."""

    ACKED = 0
    """A consumer is about to acknowledge the message."""
    GONE = 1
    """A consumer holds nothing any more; the note is one of `CLOSED`, `KILLED`, `LOST`."""
    ROUTER_DOWN = 2
    """The router is about to be killed (not: stopped): what is in flight may come again."""
    ROUTER_UP = 3
    """The killed router is known to be dead and another one routes."""
    ALIVE = 4
    """A sign of life: what the actor held so far it still holds."""
    NODE_STILL = 5
    """A node of the broker is about to do nothing: what consumers acknowledge may have no effect before `NODE_BACK`."""
    NODE_BACK = 6
    SENT = 7
    CONFIRMED = 8
    RECEIVED = 9
    REDELIVERED = 10
    """Received with the broker's redelivered flag set."""
    STRAY = 11
    """A consumer was given something that no producer made; the note describes it."""


CLOSED: Final = "closed"
"""The consumer closes in an orderly way: its acks have taken effect, what it holds unacknowledged returns."""
KILLED: Final = "killed"
LOST: Final = "lost"
"""Its connection was closed on it, or it closes without regard to its last acks."""


class Event(NamedTuple):
    """One report. A plain tuple, as there are millions: they sort by time, then by kind."""

    at: int
    kind: Kind
    actor: str
    key: str = ""
    seq: int = 0
    note: str = ""


_LETTERS: Final = dict(zip(Kind, "AG!^+zZSCRDX", strict=True))
_KINDS: Final = {letter: kind for kind, letter in _LETTERS.items()}
OUTCOME_LETTERS: Final = (_LETTERS[Kind.CONFIRMED], _LETTERS[Kind.ACKED])
STRAY_LETTER: Final = _LETTERS[Kind.STRAY]


def now(kind: Kind, key: str = "", seq: int = 0, note: str = "") -> str:
    """A line for what happens now."""
    return f"{_LETTERS[kind]}\t{time_ns()}\t{key}\t{seq}\t{note}\n"


def to_line(event: Event) -> str:
    """The event as its actor's line."""
    return f"{_LETTERS[event.kind]}\t{event.at}\t{event.key}\t{event.seq}\t{event.note}\n"


def from_line(line: str, actor: str) -> Event:
    """The event that an actor's line (with or without its newline) tells of."""
    letter, at, key, seq, note = line.rstrip("\n").split("\t")
    return Event(int(at), _KINDS[letter], actor, key, int(seq), note)
