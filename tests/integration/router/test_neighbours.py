"""An innocent group in one process with groups whose brokers and management APIs mean harm goes on as before."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from partymq.core.report import GroupReport
from partymq.core.spec import BrokerAddress, DeletionPolicy, GroupConfig, GroupId, GroupSpec
from partymq.router.broker.memory_budget import MIB
from partymq.router.reporting import consumer_scan
from partymq.router.supervisor import Supervisor
from support.broker import unique
from support.conditions import eventually
from support.group import Group, address, group
from support.hostile_broker import APIS, HARMS
from support.hostile_process import hostile, memory

SECONDS = 12.0
RATE = 200


def hostile_group(name: str, broker: BrokerAddress) -> GroupConfig:
    group_id = GroupId(namespace="hostile", name=f"{name}-{unique('g')[-8:].lower().strip('-_.')}".replace("_", "-"))
    return GroupConfig(group=group_id, spec=GroupSpec(source_queue="partymq-nothing"), broker=broker)


def unreachable(reports: list[GroupReport]) -> bool:
    return any(report.consumers_safe.reason == "ManagementUnreachable" for report in reports)


async def lag(g: Group, seconds: float) -> int:
    """The most messages that were published and not yet acknowledged, while nothing else happens."""
    most, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        sent, done = g.spool.counts()
        most = max(most, sent - done)
        await asyncio.sleep(0.05)
    return most


@pytest.mark.alone
async def test_an_innocent_group_goes_on_beside_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY", 1.0)
    monkeypatch.setattr(consumer_scan, "LOOK_EVERY_MAX", 1.0)
    async with group(tmp_path) as g, hostile() as ports, hostile() as apis:  # each is busy with its own
        await g.route()
        await g.join("a")
        producer = await (await g.clients.producer(g.source, rate=RATE, keys=50)).started()
        await g.progress(RATE)
        before, used = await lag(g, 4.0), memory("VmRSS")
        assert g.supervisor is not None
        theirs = [hostile_group(kind, BrokerAddress(host="127.0.0.1", port=ports[kind])) for kind in HARMS]
        ours = [
            hostile_group(kind, replace(address(), management_uri=f"http://127.0.0.1:{apis[kind]}")) for kind in APIS
        ]
        said: dict[GroupId, list[GroupReport]] = {config.group: [] for config in (*theirs, *ours)}
        others = Supervisor(
            identity="neighbours",
            on_report=lambda name, report: said[name].append(report),
            on_notice=lambda _, __: None,
        )
        running = asyncio.create_task(others.run())
        for config in (*theirs, *ours):
            others.configure(config)
            others.set_pods(config.group, ())
        beside = await lag(g, SECONDS)
        peak = (memory("VmHWM") - used) / MIB
        for kind, config in zip(APIS, ours, strict=True):
            if kind != "few":
                await eventually(partial(unreachable, said[config.group]), f"{kind} was not looked at")
        for config in ours:
            await others.remove(config.group, DeletionPolicy.DELETE)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await g.audited(producer)
    for name, reports in said.items():
        for report in reports:
            for condition in (report.ready, report.broker_connected, report.consumers_safe, report.queues_safe):
                assert condition.message.isprintable()
                assert condition.reason != "InternalError", f"{name}: {condition.message}"
    assert beside < max(3 * before, RATE), f"{beside} messages waited, {before} before"
    assert peak < 300, f"{peak:.0f} MiB"
