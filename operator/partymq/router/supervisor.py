"""All groups of this process: sessions are started, and started again.

Invariant: a group has at most one session at a time here, and a session that fails is followed by another after a pause
that grows with failures, with jitter, so that a broker that comes back is not stormed. What this process knows of a
group (its configuration, its pods) outlives sessions.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from partymq.core.membership import Pod
from partymq.core.names import Names
from partymq.core.report import GroupReport, Notice
from partymq.core.spec import BrokerAddress, DeletionPolicy, GroupConfig, GroupId
from partymq.errors import PartyMQError, SessionOverError
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.suitability import Suitability
from partymq.router.client_service import ClientService
from partymq.router.failpoints import Checkpoint, nowhere
from partymq.router.listener import Listener
from partymq.router.maintenance.queue_removal import remove_group
from partymq.router.poison.failed_sessions import FailedSessions, Past
from partymq.router.reporting.consumer_scan import ConsumerScan
from partymq.router.reporting.reporter import Reporter
from partymq.router.session.session import Session
from partymq.router.session.terms import Consulted, Host, Legacy

LOG = logging.getLogger(__name__)

YIELD = 2.0
"""Seconds for which one that makes way stays away from the journal."""
YIELD_EVERY = 600.0
"""Seconds between two times: one that takes over and cannot route must not make a group go to and fro."""
STOP_WITHIN = 50.0
"""Seconds for a graceful stop, after which the broker settles what is left."""


class Supervisor:
    """Runs the routers of groups. All methods are called on the loop that runs `run`."""

    def __init__(
        self,
        *,
        identity: str,
        on_report: Callable[[GroupId, GroupReport], None],
        on_notice: Callable[[GroupId, Notice], None],
        budget: Budget | None = None,
        checkpoint: Checkpoint = nowhere,
    ) -> None:
        """All groups share `budget`, the bytes of messages that may be under way."""
        self._host = Host(
            identity=identity, budget=budget or Budget(), checkpoint=checkpoint, suitability=Suitability()
        )
        self._on_report = on_report
        self._on_notice = on_notice
        self._groups: dict[GroupId, _Group] = {}
        self._pods: dict[GroupId, tuple[Pod, ...]] = {}
        self._preferred: dict[GroupId, str | None] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._scan = ConsumerScan(
            lambda: {group.config.broker for group in self._groups.values() if group.routing},
            on_news=self._on_consumers,
            sources=lambda broker: {
                group.config.spec.source_queue for group in self._groups.values() if group.config.broker == broker
            },
        )

    async def run(self) -> None:
        """Owns all routers; cancelled, it stops every group gracefully."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._scan.run(), name="consumer scan")
                for group in self._groups.values():
                    group.start(self._tasks)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await asyncio.gather(*(group.end() for group in self._groups.values()))
                    raise
        finally:
            self._tasks = None

    def configure(self, config: GroupConfig) -> None:
        """Creates a group, or changes it: with a new configuration it gets a new session."""
        group = self._groups.get(config.group)
        if group is None:
            group = self._groups[config.group] = _Group(
                config=config,
                host=self._host,
                scan=self._scan,
                pods=self._pods.get(config.group),
                on_report=lambda report: self._on_report(config.group, report),
                on_notice=lambda notice: self._on_notice(config.group, notice),
            )
            group.preferred = self._preferred.get(config.group)
            if self._tasks is not None:
                group.start(self._tasks)
        else:
            group.configure(config)

    def _on_consumers(self, broker: BrokerAddress) -> None:
        for group in self._groups.values():
            if group.config.broker == broker:
                group.reporter.look()

    def set_pods(self, group: GroupId, pods: tuple[Pod, ...]) -> None:
        """Takes the whole list of pods that opted in to a group."""
        self._pods[group] = pods
        if group in self._groups:
            self._groups[group].set_pods(pods)

    def prefer(self, group: GroupId, identity: str | None) -> None:
        """Says which process should route a group; None if it does not matter.

        It is asked for while another one routes, and a router that hears of it and is told the same here makes way,
        gracefully.
        """
        self._preferred[group] = identity
        if group in self._groups:
            self._groups[group].preferred = identity

    @property
    def groups(self) -> Collection[GroupId]:
        """All groups that are known here."""
        return self._groups.keys()

    def clients(self, group: GroupId) -> ClientService | None:
        """What clients of the HTTP API may ask of a group; None where it serves none."""
        known = self._groups.get(group)
        return known.service if known is not None else None

    async def release(self, group: GroupId) -> None:
        """Stops routing a group here, gracefully; its queues stay."""
        known = self._groups.pop(group, None)
        if known is not None:
            await known.end()

    async def remove(self, group: GroupId, policy: DeletionPolicy) -> tuple[str, ...]:
        """Stops routing and deletes the group's queues; returns those that stay because they hold messages.

        The group is forgotten here, however that ends: to try again, configure it again. What there is to delete is
        known from the journal.
        """
        known = self._groups.get(group)
        await self.release(group)
        self._pods.pop(group, None)
        self._preferred.pop(group, None)
        if known is None:
            return ()
        return await remove_group(
            known.config,
            title=f"partymq {group} {self._host.identity} removal",
            members={pod.name for pod in known.pods or ()} | known.members,
            policy=policy,
            budget=self._host.budget,
        )


class _Group:
    """One group's sessions, one after the other."""

    def __init__(
        self,
        *,
        config: GroupConfig,
        host: Host,
        scan: ConsumerScan,
        pods: tuple[Pod, ...] | None,
        on_report: Callable[[GroupReport], None],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self.config = config
        self.pods = pods
        self.preferred: str | None = None
        self._host = host
        self._identity = host.identity
        self._scan = scan
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._changed = False
        self._again = asyncio.Event()
        self._yielding = False
        self._yielded_at = float("-inf")
        self._gone: set[str] = set()
        self._failed_sessions = FailedSessions()
        self.service: ClientService | None = None
        if config.clients is not None:
            self.service = ClientService(names=Names(config.group), spec=config.clients, session=lambda: self._session)
        self.reporter = Reporter(config, scan=scan, on_report=on_report, on_notice=on_notice)

    @property
    def members(self) -> frozenset[str]:
        """Members whose inboxes may exist."""
        return self.reporter.known_members

    @property
    def routing(self) -> bool:
        """True while this process is the group's router."""
        return self._session is not None and self._session.routes

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._task = tasks.create_task(self._run(), name=f"group {self.config.group}")

    def configure(self, config: GroupConfig) -> None:
        if config == self.config:
            return
        same_broker = (config.broker, config.spec) == (self.config.broker, self.config.spec)
        self.config = config
        if not same_broker:
            self.reporter.configure(config)
            self._changed = True
            if self._session is not None:
                self._session.stop()
            self._again.set()

    def set_pods(self, pods: tuple[Pod, ...]) -> None:
        self.pods = pods
        if self._session is not None:
            self._session.set_pods(pods)

    async def end(self) -> None:
        self._ending = True
        self._again.set()
        if self._session is not None:
            self._session.stop()
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=STOP_WITHIN)
            if late:
                self._task.cancel()
                await asyncio.wait(late)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            reports = tasks.create_task(self.reporter.run())
            expiries = tasks.create_task(self.service.run()) if self.service is not None else None
            while not self._ending:
                self._again.clear()
                pause = await self._one_session()
                if self._yielding:
                    pause = max(pause, YIELD)
                if not pause:
                    continue
                self._yielding = False
                try:
                    async with asyncio.timeout(pause):
                        await self._again.wait()
                except TimeoutError:
                    pass
            reports.cancel()
            if expiries is not None:
                expiries.cancel()

    def _wanted(self, identity: str) -> None:
        now = asyncio.get_running_loop().time()
        if identity == self.preferred != self._identity and now > self._yielded_at + YIELD_EVERY and self._session:
            LOG.info("%s: makes way for %s", self.config.group, identity)
            self._yielding, self._yielded_at = True, now
            self._session.stop()

    async def _one_session(self) -> float:
        """Runs a session; says for how many seconds there is to be none."""
        if self._changed:  # what failed may go now
            self._changed = False
            self._failed_sessions.forget()
        reporter, loop = self.reporter, asyncio.get_running_loop()
        begun = loop.time()
        failure: Exception | None = None
        listener = Listener(
            standby=reporter.standby,
            trouble=reporter.trouble,
            wanted=self._wanted,
            rival=reporter.rival,
            changed=reporter.changed,
            notice=reporter.notice,
            committed=reporter.committed,
        )
        try:
            self._session = self._make_session(listener)
            reporter.begin(self._session)
            await self._session.run()
        except SessionOverError as error:
            LOG.warning("%s: %s", self.config.group, error)
            reporter.failed(error)
            failure = error
        except PartyMQError as error:
            LOG.warning("%s: session ended: %s", self.config.group, error)
            reporter.failed(error)
            failure = error
        except Exception as error:  # a defect: say it loudly, and start again as for any other failure
            LOG.exception("%s: session ended by a defect", self.config.group)
            # Its own text is not for everybody: it may hold whatever it was computed from.
            reporter.failed(PartyMQError(f"internal error ({type(error).__name__}); please report what the log says"))
            failure = error
        finally:
            past = self._session.past if self._session is not None else Past()
            if self._session is not None:
                if self._session.routes:  # then its first ledger does not know them any more
                    self._gone.clear()
                self._gone |= self._session.gone
            self._session = None
        if failure is None:
            reporter.stopped()
        return self._failed_sessions.ended(past, error=failure, seconds=loop.time() - begun)

    def _make_session(self, listener: Listener) -> Session:
        reporter, scan = self.reporter, self._scan
        broker, journal = self.config.broker, Names(self.config.group).journal
        return Session(
            replace(
                self.config,
                known_epoch=max(self.config.known_epoch, reporter.epoch),
                known_members=reporter.owned or self.config.known_members,
            ),
            listener,
            host=self._host,
            legacy=Legacy(pods=self.pods, advice=self._failed_sessions.advice, gone=frozenset(self._gone)),
            consulted=Consulted(
                wants=lambda: self._identity if self.preferred == self._identity else "",
                remembered=lambda queue: scan.remembered(broker, queue),
                ask_about=lambda queue, session: scan.queue(broker, queue, journal=journal, session=session),
            ),
        )
