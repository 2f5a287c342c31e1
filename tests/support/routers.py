"""A router in a process of its own, as a test sees it: told of pods, listened to, stopped in every way there is.

Invariant: whoever makes a router stop without grace has it reported to the auditor before it happens: `kill` and
`freeze` do, and a router that kills itself at a named point does so itself.
"""

import asyncio
import base64
import json
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from partymq.core.membership import Pod
from partymq.core.report import GroupReport, Notice
from partymq.core.spec import GroupConfig
from partymq.router.broker.memory_budget import DEFAULT
from partymq.router.failpoints import Point
from partymq.router.supervisor import STOP_WITHIN
from support.events import Kind
from support.spool import Spool

_ROOT = Path(__file__).parent.parent
STILL = 2.0
"""Seconds."""
STOPS_WITHIN = STOP_WITHIN + 10.0
"""Seconds for a graceful stop; 30 of them may go by until what was read is confirmed."""
ROUTER = "router"
"""The actor whose crashes excuse repeats."""


class Router:
    """One router process; make one with `start`."""

    def __init__(
        self,
        process: Process,
        spool: Spool,
        *,
        on_report: Callable[[GroupReport], None],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self._process = process
        self._spool = spool
        self._on_report = on_report
        self._on_notice = on_notice
        self._listening = asyncio.create_task(self._listen(), name=f"router {process.pid}")
        self.report: GroupReport | None = None
        self.handoffs = 0

    @classmethod
    async def start(
        cls,
        config: GroupConfig,
        spool: Spool,
        *,
        kill_at: str = "",
        budget: int = DEFAULT,
        on_report: Callable[[GroupReport], None] = lambda _: None,
        on_notice: Callable[[Notice], None] = lambda _: None,
    ) -> Self:
        """Start it, with so many bytes for messages; at `kill_at`, a named point, it kills itself."""
        options = pickle.dumps((config, spool.directory, kill_at, budget))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.router_process",
            base64.b64encode(options).decode(),
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))},
            start_new_session=True,
            limit=1 << 24,
        )
        return cls(process, spool, on_report=on_report, on_notice=on_notice)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = pickle.loads(base64.b64decode(line))
            if isinstance(said, Point):
                self.handoffs += said is Point.COMMITTED  # not all are told: a rollout is told as one thing
            elif isinstance(said, Notice):
                self._on_notice(said)
            else:
                self.report = said
                self._on_report(said)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.returncode is None

    @property
    def routing(self) -> bool:
        """Whether it said last that it is the group's router."""
        return self.running and self.report is not None and self.report.routing

    def tell(self, pods: Iterable[Pod]) -> None:
        """Hand over the whole list of pods."""
        self._say([asdict(pod) for pod in pods])

    def kill_at(self, point: Point | None) -> None:
        """Have it kill itself when it gets to the point next; None takes that back."""
        self._say("" if point is None else point.value)

    def _say(self, what: object) -> None:
        assert self._process.stdin is not None
        if self.running:
            with suppress(ConnectionError):
                self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def ended(self, deadline: float = 30.0) -> int:
        """Wait until it has ended by itself; its exit code."""
        async with asyncio.timeout(deadline):
            code = await self._process.wait()
            await self._listening
        return code

    async def _stopped(self, deadline: float) -> int:
        try:
            return await self.ended(deadline)
        except TimeoutError:
            self._process.send_signal(signal.SIGUSR1)
            with suppress(TimeoutError):  # until it has said what it waits for
                await self.ended(STILL)
            raise

    async def kill(self) -> None:
        """Kill it without grace."""
        if self.running:
            self._spool.note(ROUTER, Kind.ROUTER_DOWN)
            self._process.kill()
        await self.ended()

    async def stop(self, deadline: float = STOPS_WITHIN) -> None:
        """Stop it gracefully; it is an error if it fails."""
        if self.running:
            self._process.terminate()
        code = await self._stopped(deadline)
        # Killed before, or asked to stop before it had begun to listen for that.
        assert code in (0, -signal.SIGKILL, -signal.SIGTERM), f"the router ended with {code}"

    def freeze(self) -> None:
        """Let it do nothing more, with its connections open."""
        self._spool.note(ROUTER, Kind.ROUTER_DOWN)
        self.report = None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        self._process.send_signal(signal.SIGCONT)
