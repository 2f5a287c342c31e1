"""What grows with partitions, members and groups.

A plan is the whole comparison of ledger and membership, for a member that comes and for one that goes; ledger and
status are sized as they are written, after fifty random changes (ranges are then short). Idle groups have a source, two
members that consume, and no messages; the process that routes them is measured, and the broker beside it.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from statistics import median

from benchmarks.harness import Run, clock, cpu_seconds, resident_mib
from benchmarks.load import idle
from benchmarks.processes import clients, routers
from partymq.core.assignment import assign
from partymq.core.codec import encode
from partymq.core.ledger import Ledger, Partition
from partymq.core.planner import plan
from partymq.core.report import Condition, Counters, GroupReport, MemberReport, MemberState
from partymq.kube.status import View, render
from support.broker import unique

PARTITIONS = (16, 64, 256, 1024, 4096)
MEMBERS = (2, 10, 50, 200)
GROUPS = (1, 20, 200)
GROUP_PARTITIONS = 16
_PODS = ("a", "b")
_PLANS = 15
_CHANGES = 50
_SEED = 6
_AT_ONCE = 50
_CALM = 10.0
"""Seconds after which a group has nothing unfinished: it is looked at less often from then on."""
_SPAN = 20.0
"""Seconds; what a router does now and then is due in each span, but for one look in a minute."""


async def measure(run: Run) -> None:
    """First what needs no broker."""
    run.say("scale: plans, ledgers, statuses")
    random.seed(_SEED)
    for partitions in PARTITIONS:
        for members in MEMBERS:
            if members <= partitions:
                _sizes(run, partitions, members)
    for groups in GROUPS:
        count = max(1, groups // 20) if run.quick else groups
        run.say(f"scale: {count} idle groups")
        await _idle_groups(run, f"idle.{groups}groups", count)


def _sizes(run: Run, partitions: int, members: int) -> None:
    size, names = f"{partitions}x{members}", [f"orders-{n:08x}-{n:05x}" for n in range(members + 1)]
    ledger = _ledger(_worn(partitions, names[:members]), names[:members])
    run.results.add(f"plan.{size}", "ms", *(_plan_ms(ledger, names) for _ in range(_PLANS)))
    run.results.add(f"ledger.{size}", "KiB", len(encode(ledger)) / 1024)
    run.results.add(f"status.{size}", "KiB", _status_bytes(ledger) / 1024)


def _worn(partitions: int, names: Sequence[str]) -> Sequence[str | None]:
    """Owners after many changes of members."""
    owners: Sequence[str | None] = assign((None,) * partitions, names)
    for _ in range(_CHANGES):
        away = set(random.sample(names, max(1, len(names) // 10)))
        owners = assign(owners, [name for name in names if name not in away] or names)
        owners = assign(owners, names)
    return owners


def _ledger(owners: Sequence[str | None], names: Sequence[str]) -> Ledger:
    return Ledger(
        epoch=7, version=3, writer="operator", members=frozenset(names), partitions=tuple(map(_owned, owners))
    )


def _owned(owner: str | None) -> Partition:
    return Partition(owner=owner)


def _plan_ms(ledger: Ledger, names: Sequence[str]) -> float:
    """The mean of a plan for one that comes and one for one that goes."""
    begun = time.perf_counter()
    plan(ledger, eligible=names, keeping=(), leaving=())
    plan(ledger, eligible=names[1:-1], keeping=(), leaving=names[:1])
    return (time.perf_counter() - begun) / 2 * 1000


def _status_bytes(ledger: Ledger) -> int:
    fine = Condition(ok=True, reason="Routing", message="messages are routed")
    members = tuple(
        MemberReport(
            name=name, state=MemberState.ACTIVE, partitions=ledger.owned_by(name), ready=12, since=1_700_000_000.0
        )
        for name in sorted(ledger.members)
    )
    report = GroupReport(
        routing=True, epoch=7, partitions_total=len(ledger.partitions), partitions_assigned=len(ledger.partitions),
        partitions_held=0, source_ready=0, backlog=0, members=members, handoffs=(), ready=fine, broker_connected=fine,
        balanced=fine, counters=Counters(),
    )  # fmt: skip
    view = View(identity="partymq-0", generation=1, report=report, problem=None)
    return len(json.dumps(render(view, {}, 1_700_000_000.0)))


async def _idle_groups(run: Run, name: str, count: int) -> None:
    calm, span = (0.5, 0.5) if run.quick else (_CALM, _SPAN)
    async with AsyncExitStack() as stack:
        consumers = await stack.enter_async_context(clients(run))
        router = await stack.enter_async_context(routers(run))
        groups = [f"g{n}" for n in range(count)]
        sources = [unique("source") for _ in groups]
        stack.push_async_callback(_delete, run, sources)
        await _in_batches(sources, run.topology.declare_quorum)
        begun = clock()
        for group, source in zip(groups, sources, strict=True):
            router.configure(group, _PODS, source_queue=source, partitions=GROUP_PARTITIONS, rebalance_delay=1.0)
        for group in groups:
            await router.known(group)
            for pod in _PODS:
                inbox = router.names(group).inbox(pod)
                await consumers.do("consume", queue=inbox, name=inbox, prefetch=1, timed=False)
        for group in groups:
            await router.settled(group)
        run.results.add(f"{name}.start", "s", clock() - begun)
        await idle(run)
        await asyncio.sleep(calm)
        await _watch(run, name, router.pid, span)
        run.results.add(f"{name}.rss", "MiB", resident_mib(router.pid))
        run.results.add(f"{name}.sessions", "a group", median(router.state[group]["sessions"] for group in groups))


async def _watch(run: Run, name: str, pid: int, seconds: float) -> None:
    """CPU over three spans of some seconds, as shares of a core."""
    for _ in range(3):
        begun, own, broker = clock(), cpu_seconds(pid), cpu_seconds(run.broker_pid)
        await asyncio.sleep(seconds)
        passed = clock() - begun
        run.results.add(f"{name}.cpu", "of a core", (cpu_seconds(pid) - own) / passed)
        if run.broker_pid is not None:
            run.results.add(f"{name}.cpu.broker", "of a core", (cpu_seconds(run.broker_pid) - broker) / passed)


async def _delete(run: Run, queues: Sequence[str]) -> None:
    await _in_batches(queues, run.topology.delete)


async def _in_batches(queues: Sequence[str], do: Callable[[str], Awaitable[object]]) -> None:
    for start in range(0, len(queues), _AT_ONCE):
        await asyncio.gather(*(do(queue) for queue in queues[start : start + _AT_ONCE]))
