"""What people are told to do for another number of partitions works, in order and without a loss."""

from dataclasses import replace
from pathlib import Path

from partymq.core.spec import DeletionPolicy
from support.conditions import eventually
from support.group import group


async def test_a_group_that_is_drained_and_deleted_comes_back_with_more_partitions(tmp_path: Path) -> None:
    async with group(tmp_path, partitions=4) as g:
        await g.route()
        clients = [await g.join(name, work=0.001) for name in ("a", "b")]
        await g.owners("a", "b")
        producer = await (await g.clients.producer(g.source, rate=300, keys=100)).started()
        await g.progress(300)
        assert g.supervisor is not None
        paused = replace(g.config, spec=replace(g.config.spec, paused=True))
        g.supervisor.configure(paused)
        await eventually(lambda: g.ready == "Paused", "it is not paused")
        before = -1

        def at_rest() -> bool:
            nonlocal before
            last, before = before, g.spool.counts()[1]
            return last == before and not g.report.backlog and not any(m.ready for m in g.report.members)

        await eventually(at_rest, "the pods do not work off what they have", every=0.5)
        confirmed, acked = g.spool.counts()
        assert confirmed > acked, "the source keeps nothing"
        assert await g.supervisor.remove(g.config.group, DeletionPolicy.DELETE_EMPTY) == ()
        for client in clients:
            await client.over()
        g.config = replace(g.config, spec=replace(g.config.spec, partitions=32))
        g.supervisor.configure(g.config)
        await g.restart("a", work=0.001)
        await g.restart("b", work=0.001)
        await g.owners("a", "b")
        assert g.report.partitions_total == 32
        await g.progress(300)
        await g.audited(producer)
