"""A rollout under load moves each partition once; what nobody owns waits for nobody; who hangs is named."""

from pathlib import Path
from time import monotonic

import pytest

from partymq.core.membership import PodState
from partymq.core.report import MemberState
from support.conditions import eventually
from support.group import Group, group
from support.processes import Client


async def _join(g: Group, name: str, generation: str) -> Client:
    g.set_pod(name, PodState.STARTING, generation=generation)
    await eventually(lambda: name in g.inboxes, f"no inbox for {name}")
    client = await g.clients.in_pod(g.names.inbox(name), name=name, work=0.001)
    g.set_pod(name, generation=generation)
    return client


async def test_a_rollout_moves_each_partition_once_and_is_told_as_one_thing(tmp_path: Path) -> None:
    async with group(tmp_path) as g:
        await g.route()
        old = {f"o{n}": await _join(g, f"o{n}", "1") for n in range(4)}
        await g.owners(*old)
        producer = await (await g.clients.producer(g.source, rate=300, keys=200)).started()
        await g.progress(200)
        told = len(g.notices)
        for n, (name, leaver) in enumerate(old.items()):
            await _join(g, f"n{n}", "2")
            await _comes_to(g, f"n{n}", MemberState.WAITING)
            g.set_pod(name, PodState.TERMINATING, generation="1")
            leaver.terminate()
            await _comes_to(g, f"n{n}", MemberState.ACTIVE)
            assert sum(len(m.partitions) for m in g.report.members if m.name == f"n{n}") == 4
            g.set_pod(name, None)
            await g.progress(100)
        await g.owners(*(f"n{n}" for n in range(4)))
        done = await g.notice("RolloutDone")
        assert "16 partitions moved in 4 handoffs" in done.message
        assert {notice.reason for notice in g.notices[told:]} <= {"RolloutStarted", "RolloutProgress", "RolloutDone"}
        await g.audited(producer)


async def _comes_to(g: Group, name: str, state: MemberState) -> None:
    def there() -> bool:
        return any(member.name == name and member.state is state for member in g.report.members)

    await eventually(there, lambda: f"{name} does not become {state}: {g.report.members}")


@pytest.mark.alone
async def test_the_first_consumer_is_given_what_nobody_owns_at_once(tmp_path: Path) -> None:
    """A group whose pods were all gone must not stand still for `rebalance.delaySeconds`, nor for a slow poll."""
    async with group(tmp_path, rebalance_delay=60.0) as g:
        await g.route()
        g.set_pod("a")
        await eventually(lambda: "a" in g.inboxes, "no inbox for the pod")
        await g.clients.in_pod(g.names.inbox("a"), name="a")
        began = monotonic()
        await eventually(lambda: g.report.partitions_assigned == 16, "it is given nothing", 5.0, every=0.005)
        assert monotonic() - began < 0.3, "a tenth of a second, and what the report takes"


async def test_who_hangs_is_named_with_what_waits_for_it(tmp_path: Path) -> None:
    async with group(tmp_path, inbox_window=32) as g:
        await g.route()
        await g.join("good")
        await g.join("bad", hold_after=0)
        await g.owners("good", "bad")
        producer = await (await g.clients.producer(g.source, rate=100, keys=64)).started()
        began = monotonic()
        notice = await g.notice("MemberStuck", deadline=60.0)
        assert monotonic() - began < 60
        assert notice.warning
        assert "bad has acknowledged nothing since" in notice.message
        (bad,) = [member for member in g.report.members if member.name == "bad"]
        assert bad.state is MemberState.STUCK
        assert bad.ready > 0
        await eventually(lambda: _backlog(g, "bad") > 50, "nothing is seen to wait for it", 30.0)
        assert _backlog(g, "good") == 0
        assert (g.report.working.ok, g.report.working.reason) == (False, "Stuck")
        await g.restart("bad")
        await eventually(lambda: g.report.working.ok, "it is called stuck although it works", 30.0)
        await g.audited(producer)
        await eventually(lambda: _backlog(g, "bad") == 0, "what was handed on counts as waiting", 30.0)


def _backlog(g: Group, name: str) -> int:
    return sum(member.backlog for member in g.report.members if member.name == name)
