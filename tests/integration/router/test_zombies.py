"""A client that dies while its inbox is taken over, with messages in its hands.

RabbitMQ 4.3 serves it again once the takeover leaves: see `partymq.router.takeover`.
"""

from pathlib import Path

import pytest

from support.conditions import eventually
from support.group import group

HELD = "the donor's consumer"


@pytest.mark.parametrize("router", ["goes on", "restarts"])
async def test_whoever_died_while_it_was_taken_over_is_served_no_more(tmp_path: Path, router: str) -> None:
    async with group(tmp_path) as g:
        await g.route()
        first = await g.join("a", prefetch=10, hold_after=20)
        producer = await (await g.clients.producer(g.source, rate=200, keys=50)).started()
        await eventually(lambda: g.waiting_in_inbox("a") > 20, "nothing waits behind what the client holds")
        await g.join("b")
        await eventually(lambda: HELD in g.waiting_for, "no handoff waits for the client")
        if router == "restarts":
            await g.stop()
            await g.route()
            await eventually(lambda: HELD in g.waiting_for, "no handoff waits for the client")
        await first.kill()
        await eventually(lambda: g.report.balanced.ok and "b" in g.active(), lambda: f"the handoff does not end: {g.report}")
        await g.restart("a", prefetch=10)
        await g.owners("a", "b")
        await g.progress(300)
        second = await g.join("c")
        await g.owners("a", "b", "c")
        await second.kill()
        g.set_pod("c", None)
        await g.owners("a", "b")
        await g.progress(300)
        await producer.stop()
        await g.settled()
    verdict = g.spool.audit()
    assert verdict.ok, verdict.report()
