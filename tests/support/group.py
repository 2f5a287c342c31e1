"""A group for a test: its router in this process or in one of its own, its pods by hand, its queues gone afterwards.

Invariant: pods are what the test says they are; everything else is as in production.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from partymq.amqp.address import parse_uri
from partymq.amqp.topology import Topology
from partymq.core.membership import Generation, Pod, PodState
from partymq.core.names import Names
from partymq.core.report import GroupReport, MemberState, Notice
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.router.broker.memory_budget import DEFAULT
from partymq.router.failpoints import Point
from partymq.router.supervisor import Supervisor
from support.broker import amqp_url, management_url, temporary_queue, unique
from support.conditions import eventually
from support.events import Kind
from support.processes import Client, Clients
from support.routers import ROUTER, Router
from support.spool import Spool
from support.verdict import Verdict

QUICK = 0.1
"""Seconds in which a test's rebalance follows a change."""
SOURCE = "source"
"""What the names of sources begin with."""


def address() -> BrokerAddress:
    """The tests' broker."""
    return parse_uri(amqp_url(), management_uri=management_url())


@dataclass(slots=True, kw_only=True)
class Group:
    """One group under test."""

    config: GroupConfig
    spool: Spool
    clients: Clients
    pods: dict[str, Pod] = field(default_factory=dict)
    reports: list[GroupReport] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    """What the router in this process has passed."""
    supervisor: Supervisor | None = None
    _task: asyncio.Task[None] | None = None
    _router: Router | None = None
    _routers: list[Router] = field(default_factory=list)
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

    @property
    def ready(self) -> str:
        """The reason of the condition Ready, by the last report; empty before the first."""
        return self.report.ready.reason if self.reports else ""

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

    def waiting_in_inbox(self, name: str) -> int:
        """Ready messages in a member's inbox, by the last report."""
        return sum(member.ready for member in self.report.members if member.name == name)

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
            checkpoint=self.points.append,
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

    async def spawn(self, kill_at: str = "", *, budget: int = DEFAULT) -> Router:
        """Starts a router in a process of its own, which kills itself when it first gets to a named point.

        `budget` is how many bytes of messages it may have under way.

        The one before stays what it was: two at once are the test's affair.
        """
        self._router = await Router.start(
            self.config,
            self.spool,
            kill_at=kill_at,
            budget=budget,
            on_report=self.reports.append,
            on_notice=self.notices.append,
        )
        self._routers.append(self._router)
        self._tell()
        return self._router

    @property
    def router(self) -> Router:
        """The router's process that was spawned last."""
        assert self._router is not None
        return self._router

    @property
    def router_pid(self) -> int:
        """The id of that process."""
        return self.router.pid

    async def died(self, deadline: float = 30.0) -> None:
        """Waits until the router's process has killed itself, or tells where the group's messages are."""
        try:
            await self.router.ended(deadline)
        except TimeoutError:
            raise AssertionError(f"the router has not died in {deadline} s\n{await self._whereabouts()}") from None

    async def kill(self) -> None:
        """Kills the router's process without grace."""
        await self.router.kill()

    async def again(self) -> None:
        """Starts another router process after one has died."""
        await self.spawn()
        self.spool.note(ROUTER, Kind.ROUTER_UP)

    # --- its pods

    def set_pod(
        self, name: str, state: PodState | None = PodState.READY, *, returns: bool = False, generation: str = ""
    ) -> None:
        """Says that a pod is in a state, or gone (None)."""
        if state is None:
            self.pods.pop(name, None)
        else:
            known, now = self.pods.get(name), time.time()
            self.pods[name] = Pod(
                name=name,
                state=state,
                returns=returns,
                generation=Generation(owner="Deployment test", name=generation) if generation else None,
                created=now if known is None else known.created,
                changed=now,
            )
            self.ever.add(name)
        self._tell()

    def _tell(self) -> None:
        pods = tuple(self.pods.values())
        if self.supervisor is not None:
            self.supervisor.set_pods(self.config.group, pods)
        for router in self._routers:
            router.tell(pods)

    async def join(self, name: str, *, returns: bool = False, **options: object) -> Client:
        """A pod that is ready and consumes."""
        self.set_pod(name, returns=returns)
        return await self.clients.in_pod(self.names.inbox(name), name=name, **options)

    def client_of(self, name: str) -> Client:
        """The client that was started last in a pod."""
        return self.clients.latest(name)

    async def restart(self, name: str, *, returns: bool = False, **options: object) -> Client:
        """The pod's client is killed and another one starts, as a container does; it may have ended before."""
        await self.client_of(name).kill()
        return await self.join(name, returns=returns, **options)

    async def progress(self, messages: int, deadline: float = 60.0) -> None:
        """Waits until so many more messages are acknowledged."""
        start = self.spool.counts()[1]
        try:
            await eventually(
                lambda: self.spool.counts()[1] >= start + messages,
                f"{messages} more messages are not handled",
                deadline,
            )
        except AssertionError as error:
            done = self.spool.counts()[1] - start
            raise AssertionError(f"{error}, but {done}\n{await self._whereabouts()}") from None

    async def audited(self, *producers: Client) -> Verdict:
        """Lets the producers end, waits until all is acknowledged, and gives the verdict, which is good."""
        for producer in producers:
            await producer.stop()
        await self.settled()
        verdict = self.spool.audit()
        assert verdict.ok, verdict.report()
        return verdict

    async def settled(self) -> None:
        """Waits until every confirmed message is acknowledged, or tells where the group's messages are."""
        try:
            await self.spool.settled()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self._whereabouts()}") from None

    async def _whereabouts(self) -> str:
        topology = await Topology.open(self.config.broker, name="tests")
        states = {queue: await topology.poll(queue) for queue in (self.source, *self._queues)}
        await topology.close()
        lines = [f"{queue}: {state}" for queue, state in states.items() if state is not None]
        return "\n".join([*lines, *map(str, self.notices[-10:]), *map(str, self.reports[-1:])])

    @property
    def _queues(self) -> list[str]:
        names = self.names
        backlogs = [names.backlog(p) for p in range(-1, self.config.spec.partitions)]
        return [names.journal, names.outlets, names.dead, *map(names.inbox, self.ever), *backlogs]

    async def notice(self, reason: str, text: str = "", *, after: int = 0, deadline: float = 30.0) -> Notice:
        """Waits for a notice of that reason whose message has the text; the first ones do not count."""

        def found() -> list[Notice]:
            return [notice for notice in self.notices[after:] if notice.reason == reason and text in notice.message]

        await eventually(lambda: bool(found()), lambda: f"no {reason} {text!r}: {self.notices}", deadline, every=0.01)
        return found()[0]

    async def owners(self, *names: str, deadline: float = 30.0) -> None:
        """Waits until exactly these members own partitions and nothing moves."""
        await eventually(
            lambda: self.active() == set(names) and self.report.balanced.ok,
            lambda: f"{names} do not become the owners: {self.report}",
            deadline=deadline,
        )


@asynccontextmanager
async def group(
    directory: Path,
    *,
    broker: BrokerAddress | None = None,
    urls: Callable[[str], str] = lambda _: amqp_url(),
    **settings: object,
) -> AsyncIterator[Group]:
    """A group with a source of its own; all its queues are deleted in the end.

    Where the tests' broker is not the one: `broker` is the router's address of it, and `urls` says by a client's name
    where that connects to, and by the name `SOURCE` where the source is declared.
    """
    spool = Spool(directory)
    source_arguments = settings.pop("source_arguments", None)
    async with (
        temporary_queue(urls(SOURCE), SOURCE, source_arguments) as source,  # type: ignore[arg-type]
        Clients(spool, urls) as clients,
    ):
        spec = GroupSpec(**{"source_queue": source, "partitions": 16, "rebalance_delay": QUICK, **settings})  # type: ignore[arg-type]
        made = Group(
            config=GroupConfig(
                group=GroupId(namespace="test", name=unique("g")), spec=spec, broker=broker or address()
            ),
            spool=spool,
            clients=clients,
        )
        try:
            yield made
        finally:
            await made.stop()
            for router in made._routers:
                await router.kill()
            await _delete_queues(made)


async def _delete_queues(made: Group) -> None:
    topology = await Topology.open(made.config.broker, name="tests")
    await asyncio.gather(*(topology.delete(queue) for queue in made._queues))
    await topology.delete_exchange(made.names.dlx)
    await topology.close()
