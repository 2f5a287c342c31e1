"""Messages of any size: what the router holds of them is bounded, order is kept, and everything arrives."""

from pathlib import Path

import pytest

from support.conditions import eventually
from support.group import group

MIB = 1024 * 1024
LIMIT = 768
"""MiB that the chart gives to the operator."""
MEMBERS = ("a", "b", "c")
WITHOUT = 80
"""MiB that a router has in use which routes small messages, with some to spare."""


def peak_mib(pid: int) -> float:
    """The most memory that a process has had in use."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


@pytest.mark.parametrize(("size", "count"), [(1_000_000, 400), (16_000_000, 40)], ids=["1 MB", "16 MB"])
@pytest.mark.parametrize("work", [0.0, 0.1], ids=["fast", "slow"])
async def test_what_messages_weigh_does_not_matter(work: float, size: int, count: int, tmp_path: Path) -> None:
    """All of them wait in the source, and a member comes while they are under way."""
    async with group(tmp_path) as g:
        in_flight = max(2, 32 * MIB // size)
        producer = await g.clients.producer(g.source, size=size, count=count, keys=40, rate=0, in_flight=in_flight)
        await eventually(lambda: g.spool.counts()[0] >= count, "the source does not fill", 120.0)
        await g.spawn()
        for name in MEMBERS[:2]:
            await g.join(name, prefetch=4, work=work)
        await eventually(lambda: g.spool.counts()[1] >= count // 10, "nothing comes", 60.0)
        await g.join(MEMBERS[2], prefetch=4, work=work)
        await eventually(
            lambda: g.spool.counts()[1] >= count, lambda: f"{g.spool.counts()} of {count}, {g.report}", 120.0
        )
        peak = peak_mib(g.router_pid)
        await g.audited(producer)
        assert peak < LIMIT, f"{peak:.0f} MiB"


async def test_of_what_waits_in_backlogs_only_so_much_is_read(tmp_path: Path) -> None:
    """All 16 backlogs of a slow member are read, and hold far more than may be under way."""
    budget, size, count = 32 * MIB, 1_000_000, 400
    async with group(tmp_path) as g:
        producer = await g.clients.producer(g.source, size=size, count=count, keys=64, rate=0, in_flight=32)
        await g.spawn(budget=budget)
        await g.join("a", prefetch=4, work=0.02)
        await eventually(
            lambda: g.spool.counts()[1] >= count, lambda: f"{g.spool.counts()} of {count}, {g.report}", 120.0
        )
        peak = peak_mib(g.router_pid)
        await g.audited(producer)
        assert peak < WITHOUT + 2 * budget // MIB, f"{peak:.0f} MiB"
