"""A broker that delivers without end ends its own group's session, in bounded memory, and says what was too much."""

import asyncio
from functools import partial

import pytest

from partymq.core.membership import Pod, PodState
from partymq.core.report import GroupReport
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.router.broker.memory_budget import MIB, Budget
from partymq.router.supervisor import Supervisor
from support.conditions import eventually, stays
from support.flooding_broker import FLOODS, MEMBER, PARTITIONS, SOURCE
from support.hostile_process import forget_most, hostile, memory

BUDGET = 32 * MIB
MOST = 120 * MIB
"""Twice the budget, as it is documented, what is on its way through sockets, and what the allocator keeps."""
WAITS = ("backlog", "source")
"""What can wait at the broker is not an error: it is not read."""


def _ended(reports: list[GroupReport]) -> bool:
    return any(report.ready.reason in {"TooMuchAtOnce", "NotAmqp", "BrokerError"} for report in reports)


@pytest.mark.alone
@pytest.mark.parametrize("kind", FLOODS)
async def test_what_does_not_end_is_not_kept(kind: str) -> None:
    reports: list[GroupReport] = []
    async with hostile() as ports:
        supervisor = Supervisor(
            identity="test",
            on_report=lambda _, report: reports.append(report),
            on_notice=lambda _, __: None,
            budget=Budget(BUDGET),
        )
        config = GroupConfig(
            group=GroupId(namespace="hostile", name="g"),
            spec=GroupSpec(source_queue=SOURCE, partitions=PARTITIONS),
            broker=BrokerAddress(host="127.0.0.1", port=ports[kind]),
        )
        used = memory("VmRSS")
        forget_most()
        running = asyncio.create_task(supervisor.run())
        supervisor.configure(config)
        supervisor.set_pods(config.group, (Pod(name=MEMBER, state=PodState.READY),))
        try:
            if kind in WAITS:
                await stays(lambda: memory("VmHWM") - used < MOST, "too much memory", 5)
            else:
                await eventually(partial(_ended, reports), f"{reports}", 30)
        finally:
            await supervisor.release(config.group)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        took = memory("VmHWM") - used
    assert took < MOST, f"{took // MIB} MiB"
    for report in reports:
        assert report.ready.message.isprintable()
        assert report.ready.reason != "InternalError", report.ready.message
