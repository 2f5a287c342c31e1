"""Handoffs that meet each other: targets that die, donors that come back, many at once; and what must move nothing."""

from pathlib import Path

from partymq.core.membership import PodState
from support.conditions import eventually
from support.group import Group, group


async def _handing_off(g: Group, donor: str) -> None:
    await eventually(
        lambda: any(h.donor == donor and h.phase == "drain" for h in g.report.handoffs), f"{donor} does not hand off"
    )


async def _stuck(g: Group, name: str, after: int = 10) -> None:
    """A member that acknowledges some and then holds what it was given."""
    await g.join(name, prefetch=10, hold_after=after)


async def _freed(g: Group, name: str) -> None:
    """The stuck client of `join` is killed, and its container starts again."""
    await g.restart(name, prefetch=20, work=0.001)


async def test_the_target_dies_before_the_commit(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await _stuck(g, "a")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(10)
        target = await g.join("b", work=0.001)
        await _handing_off(g, "a")
        await target.kill()
        g.set_pod("b", None)
        await g.join("c", work=0.001)
        await _freed(g, "a")
        await g.owners("a", "c")
        await g.progress(300)
        await g.audited(producer)


async def test_the_target_dies_after_the_commit(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=8) as g:
        await g.route()
        await g.join("a", prefetch=10, work=0.002)
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(100)
        target = await g.join("b", prefetch=1, hold_after=0)
        await g.notice("HandoffCommitted", "from a")
        await target.kill()  # what was given to it, and what it was to be given next, stands in a's old transfer
        g.set_pod("b", None)
        await g.notice("HandoffCommitted", "from b")
        await g.owners("a")
        await g.progress(300)
        await g.audited(producer)


async def test_a_donor_that_waits_delays_no_other(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await _stuck(g, "a")
        await g.join("b", work=0.001)
        await g.join("c", work=0.001)
        await g.owners("a", "b", "c")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(100)
        before = len(g.notices)
        for name in ("a", "b"):
            g.set_pod(name, PodState.TERMINATING)
        await g.notice("HandoffCommitted", "from b", after=before)
        await eventually(lambda: [handoff.donor for handoff in g.report.handoffs] == ["a"], "a does not wait")
        await g.progress(200)
        await _freed(g, "a")
        g.set_pod("a", PodState.TERMINATING)
        await g.owners("c")
        await g.audited(producer)


async def test_a_donor_comes_back_during_its_own_handoff(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await _stuck(g, "a")
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(100)
        g.set_pod("a", PodState.TERMINATING)
        await _handing_off(g, "a")
        await _freed(g, "a")
        await g.owners("a", "b")
        await g.progress(300)
        await g.audited(producer)


async def test_a_crash_loop_moves_nothing(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        await g.join("a", work=0.002)
        await g.join("b", work=0.002)
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        moved = g.report.counters.handoffs
        for _ in range(4):
            await g.progress(50)
            await g.restart("a", work=0.002)
        await g.progress(100)
        await g.audited(producer)
        assert g.report.counters.handoffs == moved


async def test_a_pod_that_returns_in_time_moves_nothing(tmp_path: Path) -> None:
    async with group(tmp_path, rejoin_seconds=60.0) as g:
        await g.route()
        g.set_pod("a", returns=True)
        leaver = await g.join("a", returns=True, work=0.002)
        await g.join("b", work=0.002)
        await g.owners("a", "b")
        before = {member.name: member.partitions for member in g.report.members}
        moved = g.report.counters.handoffs
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(100)
        g.set_pod("a", PodState.TERMINATING, returns=True)
        await leaver.stop()
        g.set_pod("a", None)
        await g.progress(100)
        await g.restart("a", returns=True, work=0.002)
        await g.progress(300)
        await g.audited(producer)
        assert {member.name: member.partitions for member in g.report.members} == before
        assert g.report.counters.handoffs == moved


async def test_more_members_than_partitions(tmp_path: Path) -> None:
    async with group(tmp_path, partitions=2) as g:
        await g.route()
        clients = {name: await g.join(name, work=0.001) for name in ("a", "b", "c", "d")}
        await eventually(lambda: len(g.active()) == 2 and g.report.balanced.ok, "two of four do not own partitions")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(100)
        gone = min(g.active())
        g.set_pod(gone, PodState.TERMINATING)
        clients[gone].terminate()
        await eventually(lambda: gone not in g.active() and len(g.active()) == 2, "nobody takes over")
        await g.progress(200)
        await g.audited(producer)


async def test_all_members_leave_under_load_and_others_come(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        clients = [await g.join(name, work=0.001) for name in ("a", "b")]
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(200)
        for name in ("a", "b"):
            g.set_pod(name, PodState.TERMINATING)
        for client in clients:
            client.terminate()
        await g.owners()
        await eventually(lambda: (g.report.source_ready or 0) > 100, "messages do not wait in the source")
        for name in ("c", "d"):
            await g.join(name, work=0.001)
        await g.owners("c", "d")
        await g.progress(300)
        await g.audited(producer)
