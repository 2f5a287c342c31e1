"""The same is to be seen on a terminal, with colours or none, and where there is no terminal."""

import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from demo.picture import NOBODY, NOTHING, Key, Member, Picture, Shares
from demo.view import View, behind, slower

MEMBERS = (
    Member(name="alpha", state="Active", partitions=(0, 1)),
    Member(name="bravo", state="Absent", partitions=(2,)),
)
PICTURE: Picture = replace(
    NOTHING,
    shares=Shares(
        says="Routing: messages are routed",
        members=MEMBERS,
        holders=("alpha", "alpha", "bravo", NOBODY),
        handoffs=("handoff 2.1 from bravo",),
    ),
    confirmed=120,
    acked=100,
    rate=50.0,
    source=3,
    ready={"alpha": 4, "bravo": None},
    handled={"alpha": 90, "bravo": 10},
    keys=(Key(name="customer-7", consumer="alpha", number=12),),
)
LOAD = (
    "    120 messages sent, 100 handled, 50 a second; 20 under way, 3 of them in the source, 4 in inboxes; 0 handoffs"
)


def shown(*, terminal: bool, colours: bool = False) -> str:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, no_color=not colours, width=100)
    with View(console, "PartyMQ", line_every=3600.0) as view:
        view.step("kill -9 [bravo]")
        view.note("    MemberAbsent: bravo is absent")
        for _ in range(3):
            view.show(PICTURE)
        view.show(replace(PICTURE, shares=replace(PICTURE.shares, members=MEMBERS[:1])))
        view.show(PICTURE)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_has_a_letter_for_each_partition_and_all_that_is_known(colours: bool) -> None:
    frame = shown(terminal=True, colours=colours)
    for text in (
        "aab·", "kill -9 [bravo]", "MemberAbsent", "Routing: messages are routed", "120 messages sent, 100 handled",
        "20 under way", "bravo", "Absent", "handoff 2.1", "customer-7: no. 12 by alpha",
    ):  # fmt: skip
        assert text in frame


def test_without_a_terminal_shares_are_a_line_when_they_change_and_the_load_one_now_and_then() -> None:
    lines = [line.partition(" s  ")[2] for line in shown(terminal=False).splitlines()]
    assert lines == [
        "kill -9 [bravo]",
        "    MemberAbsent: bravo is absent",
        "    partitions: alpha 2, bravo 1",
        LOAD,
        "    partitions: alpha 2",
        "    partitions: alpha 2, bravo 1",
    ]


def test_consumers_that_keep_up_are_no_remark_and_slow_ones_no_failure() -> None:
    assert slower(30, 0.4) == behind(30, 300.0) == behind(0, 0.0) == ""
    assert behind(4000, 80.0).startswith("4000 messages wait still, some 50 s at this pace: ")
    assert "at no pace" in behind(1, 0.0)
    remark = slower(5000, 12.34)
    assert remark.startswith("The consumers were slower than the producer here: 5000 messages waited")
    assert "12.3 s later" in remark
