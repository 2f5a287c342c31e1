"""Routers of any number of groups in a process of their own: `python -m benchmarks.router_process`.

Commands come as JSON lines on standard input; what the groups report goes out as JSON lines on standard output. It
ends with its standard input.
"""

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import uvloop

from partymq.core.membership import Pod, PodState
from partymq.core.report import GroupReport, MemberState, Notice
from partymq.core.spec import GroupConfig, GroupId, GroupSpec, KeyFrom, KeySpec
from partymq.router.supervisor import Supervisor
from support.group import address


def _reported(group: GroupId, report: GroupReport) -> None:
    _say(
        group,
        routing=report.routing,
        balanced=report.balanced.ok,
        ready=report.ready.message,
        known=[member.name for member in report.members],
        active=[member.name for member in report.members if member.state is MemberState.ACTIVE],
        backlog=report.backlog,
        routed=report.counters.routed,
        sessions=report.counters.sessions,
    )


def _noticed(group: GroupId, notice: Notice) -> None:
    _say(group, reason=notice.reason, message=notice.message)


def _say(group: GroupId, **what: Any) -> None:
    print(json.dumps({"group": group.name, **what}), flush=True)


def _spec(*, key: str, **settings: Any) -> GroupSpec:
    return GroupSpec(key=KeySpec(source=KeyFrom(key)), **settings)


async def main() -> None:
    """Routes until standard input ends."""
    supervisor = Supervisor(identity="benchmark", on_report=_reported, on_notice=_noticed)
    routing = asyncio.create_task(supervisor.run())
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        group = GroupId(namespace=command["namespace"], name=command["group"])
        if "spec" in command:
            supervisor.configure(GroupConfig(group=group, spec=_spec(**command["spec"]), broker=address()))
        supervisor.set_pods(group, tuple(Pod(name=name, state=PodState.READY) for name in command["pods"]))
    routing.cancel()
    with suppress(asyncio.CancelledError):
        await routing


if __name__ == "__main__":
    uvloop.run(main())
