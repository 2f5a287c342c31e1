"""A router in a process of its own, for tests that kill it: `python -m support.router_process OPTIONS`.

Pods come as JSON lines on standard input, a list of what they are; a line that is a string names a point at which it is
to kill itself. Reports, notices and the commits of handoffs leave by standard output, one a line. SIGTERM stops it
gracefully.
On SIGUSR1 it says on standard error what its tasks wait for.
"""

import asyncio
import base64
import json
import logging
import os
import pickle
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from partymq.core.membership import Generation, Pod, PodState
from partymq.core.report import GroupReport, Notice
from partymq.core.spec import GroupConfig
from partymq.router.broker.memory_budget import Budget
from partymq.router.failpoints import Point
from partymq.router.supervisor import Supervisor
from support.events import Kind
from support.routers import ROUTER
from support.spool import Spool


def _say_what_is_waited_for() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def _log_to(path: Path) -> None:
    """What the router decides and why, for whoever reads the clients' reports; by the wall clock, as those."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(created).6f %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("partymq.router").setLevel(logging.DEBUG)


class _Process:
    def __init__(self, config: GroupConfig, directory: Path, kill_at: str, budget: int) -> None:
        self._spool = Spool(directory)
        _log_to(directory / f"router-{os.getpid()}.log")
        self._kill_at = kill_at
        self._config = config
        self._supervisor = Supervisor(
            identity=f"process {os.getpid()}",
            on_report=lambda _, report: self._say(report),
            on_notice=lambda _, notice: self._say(notice),
            checkpoint=self._checkpoint,
            budget=Budget(budget),
        )

    def _checkpoint(self, point: Point) -> None:
        if point == self._kill_at:
            self._spool.note(ROUTER, Kind.ROUTER_DOWN)
            os.kill(os.getpid(), signal.SIGKILL)
        if point is Point.COMMITTED:
            self._say(point)

    def _say(self, what: GroupReport | Notice | Point) -> None:
        os.write(1, base64.b64encode(pickle.dumps(what)) + b"\n")

    async def run(self) -> None:
        """Routes until SIGTERM, or until the named point is reached."""
        loop = asyncio.get_running_loop()
        routing = asyncio.create_task(self._supervisor.run())
        loop.add_signal_handler(signal.SIGTERM, routing.cancel)
        loop.add_signal_handler(signal.SIGUSR1, _say_what_is_waited_for)
        self._supervisor.configure(self._config)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        listening = asyncio.create_task(self._listen(reader))
        with suppress(asyncio.CancelledError):
            await routing
        listening.cancel()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            told = json.loads(line)
            if isinstance(told, str):
                self._kill_at = told
            else:
                self._supervisor.set_pods(self._config.group, tuple(map(_pod, told)))


def _pod(said: dict[str, Any]) -> Pod:
    generation = Generation(**said["generation"]) if said["generation"] else None
    return Pod(**{**said, "state": PodState(said["state"]), "generation": generation})


if __name__ == "__main__":
    uvloop.run(_Process(*pickle.loads(base64.b64decode(sys.argv[1]))).run())
