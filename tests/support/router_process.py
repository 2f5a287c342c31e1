"""A router in a process of its own, for tests that kill it: `python -m support.router_process OPTIONS`.

Pods come as JSON lines on standard input: [[name, state, returns], ...]. SIGTERM stops it gracefully.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress

import uvloop

from partymq.core.membership import Pod, PodState
from partymq.core.spec import GroupConfig, GroupId, GroupSpec
from partymq.router.points import Point
from partymq.router.supervisor import Supervisor
from support.group import address


async def run(options: dict[str, object]) -> None:
    """Routes until SIGTERM, or until the named point is reached."""
    kill_at = options["kill_at"]

    def checkpoint(point: Point) -> None:
        if point == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    group = GroupId(namespace="test", name=str(options["group"]))
    supervisor = Supervisor(
        identity=f"process {os.getpid()}", on_report=lambda *_: None, on_notice=lambda *_: None, checkpoint=checkpoint
    )
    spec = GroupSpec(**options["spec"])  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    routing = asyncio.create_task(supervisor.run())
    loop.add_signal_handler(signal.SIGTERM, routing.cancel)
    supervisor.configure(GroupConfig(group=group, spec=spec, broker=address()))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    pods = asyncio.create_task(_read_pods(reader, supervisor, group))
    with suppress(asyncio.CancelledError):
        await routing
    pods.cancel()


async def _read_pods(reader: asyncio.StreamReader, supervisor: Supervisor, group: GroupId) -> None:
    while line := await reader.readline():
        pods = (Pod(name=name, state=PodState(state), returns=returns) for name, state, returns in json.loads(line))
        supervisor.set_pods(group, tuple(pods))


if __name__ == "__main__":
    uvloop.run(run(json.loads(sys.argv[1])))
