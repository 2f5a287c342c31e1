"""One of six pods crashes again and again, or is restarted by its probe: it costs little, and others nothing."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time

import pytest

from partymq.core.keys import partition_of
from partymq.core.membership import PodState
from support import figures
from support.conditions import eventually
from support.group import Group, group

SECONDS = float(os.environ.get("PARTYMQ_FLAPPING", "40"))
REJOIN = 30.0 if SECONDS >= 300 else 10.0
"""Longer than a client needs to start on a busy machine: who is given up the first time costs some moves more."""
RUNS = 2.0
WAITS = 0.5
"""Seconds from which on a message waits: it takes no time otherwise, but for a busy machine."""
STARTS = 5.0
"""Seconds that a client may need to start, on a busy machine."""


@asynccontextmanager
async def six(directory: Path) -> AsyncIterator[Group]:
    """Six pods that share 64 partitions."""
    async with group(directory, partitions=64, rejoin_seconds=REJOIN) as g:
        await g.route()
        for n in range(6):
            await g.join(f"p{n}", work=0.002)
        await g.owners(*(f"p{n}" for n in range(6)))
        yield g


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["crash", "liveness"])
async def test_a_loop_of_one_of_six_pods(kind: str, tmp_path: Path) -> None:
    """As Kubernetes restarts it: after a pause that doubles, or at once."""
    async with six(tmp_path) as g:
        producer = await (await g.clients.producer(g.source, rate=300, keys=500)).started()
        await g.progress(300)
        (its,) = [set(member.partitions) for member in g.report.members if member.name == "p0"]
        began, told = time(), len(g.notices)
        until, pause = monotonic() + SECONDS, REJOIN / 3 if kind == "crash" else 0.1
        while monotonic() < until:
            await _end(g, crashes=kind == "crash")
            await asyncio.sleep(min(pause, max(0.0, until - monotonic())))
            pause *= 2 if kind == "crash" else 1
            await g.join("p0", work=0.002)
            await asyncio.sleep(RUNS)
        ended = time()
        await eventually(lambda: not g.report.handoffs, "a handoff does not end")
        moved = [notice for notice in g.notices[told:] if notice.reason == "HandoffCommitted"]
        assert sum(int(notice.message.split()[0]) for notice in moved) <= 20
        assert g.seen("MemberFlapping")
        await g.audited(producer)
        waited = figures.waited_in_all(g.spool.events(), after=began, least=WAITS)
        mine = {key: seconds for key, seconds in waited.items() if partition_of(key.encode(), 64) in its}
        assert max(mine.values()) <= 2 * REJOIN + STARTS
        others = {key: seconds for key, seconds in waited.items() if key not in mine}
        assert max(others.values(), default=0.0) <= 0.05 * (ended - began), "others wait for it"


async def _end(g: Group, *, crashes: bool) -> None:
    client = g.client_of("p0")
    await (client.kill() if crashes else client.stop())
    g.set_pod("p0", PodState.STARTING)
