"""The processes of a run: routers that are measured, and clients that are their load.

Invariant: none outlives its `async with` block, and a group's queues go with its router.
"""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.harness import Run
from partymq.core.names import Names
from partymq.core.spec import GroupId
from support.broker import management_url, unique
from support.conditions import eventually

_ROOT = Path(__file__).parent.parent
_AT_ONCE = 100
_COMMITTED = re.compile(r"in (\d+) ms$")


@asynccontextmanager
async def process(run: Run, module: str, *arguments: str) -> AsyncIterator[Process]:
    """A module of the suite in a process of its own; killed in the end."""
    log = run.directory / f"{unique(module)}.log"
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"benchmarks.{module}", *arguments,
            stdin=PIPE, stdout=PIPE, stderr=errors, limit=2**24, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    try:
        yield child
    except BaseException as error:
        if text := log.read_text().strip():
            error.add_note(f"{module} said: {text[-2000:]}")
        raise
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


class Clients:
    """Clients in one process."""

    def __init__(self, child: Process) -> None:
        self._child = child
        self._turn = asyncio.Lock()

    async def do(self, command: str, **options: Any) -> dict[str, Any]:
        """Gives a command and waits until it is carried out."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        async with self._turn:
            self._child.stdin.write(json.dumps({"command": command, **options}).encode() + b"\n")
            line = await self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a client process ended over the command {command}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def count(self) -> int:
        """Messages that its consumers have taken."""
        return int((await self.do("count"))["count"])


@asynccontextmanager
async def clients(run: Run) -> AsyncIterator[Clients]:
    """A process for clients."""
    async with process(run, "client_process") as child:
        yield Clients(child)


class Routers:
    """A process that routes groups."""

    def __init__(self, child: Process) -> None:
        self.namespace = unique("bench")
        self.pods: dict[str, list[str]] = {}
        self.state: dict[str, dict[str, Any]] = {}
        self.commits: list[float] = []
        """Milliseconds from plan to commit, as the routers report them."""
        self._child = child

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    def names(self, group: str) -> Names:
        """A group's names on the broker."""
        return Names(GroupId(namespace=self.namespace, name=group))

    def configure(self, group: str, pods: Collection[str], **spec: Any) -> None:
        """Starts a group with these pods."""
        self.pods[group] = [*pods]
        self._tell(group, spec={"key": "header", **spec})

    def set_pods(self, group: str, pods: Collection[str]) -> None:
        """Says which pods a group has now."""
        self.pods[group] = [*pods]
        self._tell(group)

    def _tell(self, group: str, **more: Any) -> None:
        assert self._child.stdin is not None
        command = {"namespace": self.namespace, "group": group, "pods": self.pods[group], **more}
        self._child.stdin.write(json.dumps(command).encode() + b"\n")

    async def until(
        self, group: str, holds: Callable[[dict[str, Any]], bool], what: str, deadline: float = 60.0
    ) -> None:
        """Waits until a group's last report is as it should be."""
        await eventually(
            lambda: holds(self.state.get(group, {})),
            lambda: f"{group}: {what}; its last report is {self.state.get(group)}",
            deadline,
            every=0.01,
        )

    async def known(self, group: str) -> None:
        """Waits until all pods are members; on a busy broker an inbox may come later."""
        await self.until(group, lambda state: {*self.pods[group]} <= {*state.get("known", ())}, "not all are known")

    async def settled(self, group: str) -> None:
        """Waits until all pods own their share."""
        pods = {*self.pods[group]}
        await self.until(
            group, lambda state: bool(state.get("balanced")) and {*state["active"]} == pods, f"{pods} own nothing"
        )

    async def read(self) -> None:
        """Reads what the process says until it ends."""
        assert self._child.stdout is not None
        while line := await self._child.stdout.readline():
            said = json.loads(line)
            if "reason" not in said:
                self.state[said["group"]] = said
            elif said["reason"] == "HandoffCommitted":
                found = _COMMITTED.search(said["message"])
                assert found is not None
                self.commits.append(float(found[1]))


@asynccontextmanager
async def routers(run: Run) -> AsyncIterator[Routers]:
    """A router process; its groups' queues are deleted in the end."""
    async with process(run, "router_process") as child:
        made = Routers(child)
        reading = asyncio.create_task(made.read())
        try:
            yield made
        finally:
            child.kill()
            await reading
            await _delete_queues(run, made)


async def _delete_queues(run: Run, made: Routers) -> None:
    prefix = f"partymq.{made.namespace}."
    url = f"{management_url()}/api/queues?columns=name&disable_stats=true"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        answer.raise_for_status()
        queues = [queue["name"] for queue in await answer.json()]
    ours = [queue for queue in queues if queue.startswith(prefix)]
    for start in range(0, len(ours), _AT_ONCE):
        await asyncio.gather(*(run.topology.delete(queue) for queue in ours[start : start + _AT_ONCE]))
    await asyncio.gather(*(run.topology.delete_exchange(made.names(group).dlx) for group in made.pods))
