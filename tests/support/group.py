"""A group for a test: its router in this process or in one of its own, its pods by hand, its queues gone afterwards.

Invariant: pods are what the test says they are; everything else is as in production.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from partymq.amqp.topology import Topology
from partymq.core.membership import Pod, PodState
from partymq.core.names import Names
from partymq.core.report import GroupReport, MemberState, Notice
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.router.supervisor import Supervisor
from support.broker import amqp_url, management_url, temporary_queue, unique
from support.conditions import eventually
from support.events import Kind
from support.processes import Client, Clients
from support.spool import Spool

_ROOT = Path(__file__).parent.parent
QUICK = 0.1
"""Seconds in which a test's rebalance follows a change."""


def address() -> BrokerAddress:
    """The tests' broker."""
    from yarl import URL

    url = URL(amqp_url())
    return BrokerAddress(
        host=url.host or "localhost",
        port=url.port or 5672,
        username=url.user or "guest",
        password=url.password or "guest",
        vhost=url.path.removeprefix("/") or "/",
        management_uri=management_url(),
    )


@dataclass(slots=True, kw_only=True)
class Group:
    """One group under test."""

    config: GroupConfig
    spool: Spool
    clients: Clients
    pods: dict[str, Pod] = field(default_factory=dict)
    reports: list[GroupReport] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    supervisor: Supervisor | None = None
    _task: asyncio.Task[None] | None = None
    _process: Process | None = None
    ever: set[str] = field(default_factory=set)

    @property
    def names(self) -> Names:
        """The group's names on the broker."""
        return Names(self.config.group)

    @property
    def source(self) -> str:
        """The source queue."""
        return self.config.spec.source_queue

    @property
    def report(self) -> GroupReport:
        """The last report of the router in this process."""
        return self.reports[-1]

    def active(self) -> set[str]:
        """Members that own partitions, by the last report."""
        return {m.name for m in self.report.members if m.state is MemberState.ACTIVE} if self.reports else set()

    @property
    def inboxes(self) -> set[str]:
        """Members whose inboxes exist, by the last report."""
        return {member.name for member in self.report.members} if self.reports else set()

    @property
    def waiting_for(self) -> str:
        """What the handoffs under way wait for, by the last report."""
        return "; ".join(handoff.waiting_for for handoff in self.report.handoffs)

    def seen(self, reason: str) -> bool:
        """Whether there was a notice of that reason."""
        return any(notice.reason == reason for notice in self.notices)

    # --- the router

    async def route(self) -> None:
        """Starts the router in this process."""
        self.supervisor = Supervisor(
            identity="test",
            on_report=lambda _, report: self.reports.append(report),
            on_notice=lambda _, notice: self.notices.append(notice),
        )
        self._task = asyncio.create_task(self.supervisor.run())
        self.supervisor.configure(self.config)
        self.supervisor.set_pods(self.config.group, tuple(self.pods.values()))

    async def stop(self) -> None:
        """Stops the router in this process gracefully."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            self.supervisor = None

    async def spawn(self, kill_at: str = "") -> None:
        """Starts the router in a process of its own, which kills itself when it first gets to a named point."""
        options = {"group": self.config.group.name, "spec": _spec(self.config.spec), "kill_at": kill_at}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.router_process",
            json.dumps(options),
            stdin=PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))},
            start_new_session=True,
        )
        self._tell()

    @property
    def router_pid(self) -> int:
        """The process of the router that was spawned."""
        assert self._process is not None
        return self._process.pid

    async def died(self, deadline: float = 30.0) -> None:
        """Waits until the router's process has killed itself."""
        assert self._process is not None
        async with asyncio.timeout(deadline):
            await self._process.wait()
        self.spool.note("router", Kind.ROUTER_DOWN)

    async def kill(self) -> None:
        """Kills the router's process without grace."""
        assert self._process is not None
        if self._process.returncode is None:
            self.spool.note("router", Kind.ROUTER_DOWN)
            self._process.kill()
        await self._process.wait()

    async def again(self) -> None:
        """Starts another router process after one has died."""
        await self.spawn()
        self.spool.note("router", Kind.ROUTER_UP)

    # --- its pods

    def set_pod(self, name: str, state: PodState | None = PodState.READY, *, returns: bool = False) -> None:
        """Says that a pod is in a state, or gone (None)."""
        if state is None:
            self.pods.pop(name, None)
        else:
            self.pods[name] = Pod(name=name, state=state, returns=returns)
            self.ever.add(name)
        self._tell()

    def _tell(self) -> None:
        pods = tuple(self.pods.values())
        if self.supervisor is not None:
            self.supervisor.set_pods(self.config.group, pods)
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            line = json.dumps([[pod.name, pod.state.value, pod.returns] for pod in pods])
            with suppress(ConnectionError):
                self._process.stdin.write(line.encode() + b"\n")

    async def join(self, name: str, **options: object) -> Client:
        """A pod that is ready and consumes."""
        self.set_pod(name)
        client = await self.clients.consumer(self.names.inbox(name), name=name, **options)  # type: ignore[arg-type]
        return await client.started()

    async def owners(self, *names: str, deadline: float = 20.0) -> None:
        """Waits until exactly these members own partitions and nothing moves."""
        await eventually(
            lambda: self.active() == set(names) and self.report.balanced.ok,
            f"{names} do not become the owners",
            deadline=deadline,
        )


def _spec(spec: GroupSpec) -> dict[str, object]:
    return {
        "source_queue": spec.source_queue,
        "partitions": spec.partitions,
        "inbox_window": spec.inbox_window,
        "rebalance_delay": spec.rebalance_delay,
        "rejoin_seconds": spec.rejoin_seconds,
    }


@asynccontextmanager
async def group(directory: Path, **settings: object) -> AsyncIterator[Group]:
    """A group with a source of its own; all its queues are deleted in the end."""
    url = amqp_url()
    spool = Spool(directory)
    source_arguments = settings.pop("source_arguments", None)
    async with temporary_queue(url, "source", source_arguments) as source, Clients(spool, url) as clients:  # type: ignore[arg-type]
        spec = GroupSpec(**{"source_queue": source, "partitions": 16, "rebalance_delay": QUICK, **settings})  # type: ignore[arg-type]
        made = Group(
            config=GroupConfig(group=GroupId(namespace="test", name=unique("g")), spec=spec, broker=address()),
            spool=spool,
            clients=clients,
        )
        try:
            yield made
        finally:
            await made.stop()
            if made._process is not None:
                await made.kill()
            await _delete_queues(made)


async def _delete_queues(made: Group) -> None:
    names, topology = made.names, await Topology.open(made.config.broker, name="tests")
    queues = [names.journal, names.dead, *(names.inbox(name) for name in made.ever)]
    queues += [names.backlog(p) for p in range(-1, made.config.spec.partitions)]
    await asyncio.gather(*(topology.delete(queue) for queue in queues))
    await topology.delete_exchange(names.dlx)
    await topology.close()
