"""A router that is asked to stop repeats nothing, whatever it was reading."""

from pathlib import Path

import pytest

from support.broker import QUORUM
from support.group import group


@pytest.mark.parametrize("window", [256, 8], ids=["direct", "backlogs"])
@pytest.mark.parametrize("source", [None, QUORUM], ids=["classic", "quorum"])
async def test_restarts_under_load_repeat_nothing(
    tmp_path: Path, source: dict[str, object] | None, window: int
) -> None:
    async with group(tmp_path, source_arguments=source, inbox_window=window) as g:
        await g.route()
        await g.join("a", work=0.0005, prefetch=50)
        await g.join("b", work=0.0005, prefetch=50)
        producer = await (await g.clients.producer(g.source, rate=1500, keys=100)).started()
        for _ in range(6):
            await g.progress(300)
            await g.stop()
            await g.route()
        await g.progress(200)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()
    assert verdict.excused_by_router == 0
