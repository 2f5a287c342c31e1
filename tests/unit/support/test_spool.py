"""What a spool says while a test runs is what was reported."""

from pathlib import Path

from support.events import Event, Kind, to_line
from support.spool import Spool


def reported(spool: Spool, actor: str, kind: Kind, key: str, seq: int) -> None:
    spool.append(actor, to_line(Event(1, kind, actor, key, seq)), writer="own")


def test_who_handled_how_many_and_the_newest_of_a_key_whoever_is_read_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for seq in range(3):
        reported(spool, "p", Kind.CONFIRMED, "k", seq)
    reported(spool, "a", Kind.ACKED, "k", 2)
    reported(spool, "b", Kind.ACKED, "k", 0)
    reported(spool, "b", Kind.ACKED, "k", 1)
    reported(spool, "b", Kind.RECEIVED, "k", 2)
    assert spool.counts() == (3, 3)
    assert dict(spool.handled) == {"a": 1, "b": 2}
    assert dict(spool.newest) == {"k": (2, "a")}
    reported(spool, "b", Kind.ACKED, "other", 0)
    assert spool.acked_by("b") == 3
