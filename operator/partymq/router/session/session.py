"""One session: from attaching to the journal to the first surprise, or to a graceful stop.

Invariant: nothing is published before this session's epoch is in the journal, and nothing is read before what an
earlier session held has settled. A session fails as a whole: everything in memory is dropped, the next one starts from
the journal.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from partymq.aio import first_error, unless
from partymq.amqp.connection import Connection
from partymq.amqp.topology import Topology
from partymq.core.ledger import Ledger, Phase, empty
from partymq.core.membership import Pod
from partymq.core.names import Names
from partymq.core.pinning import bereave
from partymq.core.spec import GroupConfig
from partymq.errors import ClientGoneError, ConnectionClosedError, InvalidSpecError, PartyMQError
from partymq.message.key_reader import key_reader
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.polling import Polling
from partymq.router.broker.queue_troubles import Troubles
from partymq.router.broker.settling import await_alone, await_unread
from partymq.router.clients.bindings import Bindings
from partymq.router.context import Context
from partymq.router.flow import source_reader
from partymq.router.journal import Journal, Standing
from partymq.router.listener import Listener
from partymq.router.poison.failed_sessions import Past
from partymq.router.poison.isolation import Isolation
from partymq.router.poison.probes import FORCED
from partymq.router.publish.publisher import OUTLETS, Publisher
from partymq.router.session.assembly import Advisers, Assembly
from partymq.router.session.recovery import Recovery, look
from partymq.router.session.snapshot import Snapshot
from partymq.router.session.terms import Consulted, Host, Legacy

T = TypeVar("T")

AWAY_MOST = 60.0
"""Seconds for which a session goes on without its second connection: what it has is routed, nothing is looked at."""
AWAY_LOOK = 1.0


class Session:
    """One try at being a group's router."""

    def __init__(
        self, config: GroupConfig, listener: Listener, *, host: Host, legacy: Legacy, consulted: Consulted
    ) -> None:
        self._config = config
        self._listener = listener
        self._host = host
        self._consulted = consulted
        self._pods = legacy.pods
        self._gone = legacy.gone
        self._advice = legacy.advice
        self._names = Names(config.group)
        self._told_of_pods = asyncio.Event()
        if self._pods is not None:
            self._told_of_pods.set()
        self._failure: PartyMQError | None = None
        """Why the session is to end in order."""
        self._isolation: Isolation | None = None
        self._link: DataConnection | None = None
        self._publisher: Publisher | None = None
        self._stopping = asyncio.Event()
        self.gone: set[str] = set()
        """Plain clients whose messages came back: the next session is to drop them."""
        self.standing_by = False
        """True while another session holds the journal."""
        self.over = asyncio.Event()
        self._assembly: Assembly | None = None
        """What routes, from the first journaled ledger on."""

    def snapshot(self) -> Snapshot | None:
        """How everything is at this moment; None while nothing is routed."""
        return self._assembly.snapshot() if self._assembly is not None else None

    @property
    def routes(self) -> bool:
        """True from the first journaled ledger on."""
        return self._assembly is not None

    @property
    def ledger(self) -> Ledger | None:
        """What is journaled; None unless it routes and was not asked to end."""
        return self._assembly.journal.ledger if self._assembly is not None and self._serves else None

    @property
    def clients(self) -> Bindings | None:
        """Takes what clients of the HTTP API ask for, under the same conditions."""
        return self._assembly.clients if self._assembly is not None and self._serves else None

    @property
    def _serves(self) -> bool:
        return not (self._stopping.is_set() or self.over.is_set())

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages from this session, whatever it is about."""
        return any(part is not None and part.blocked for part in (self._link, self._isolation))

    @property
    def past(self) -> Past:
        """What is to be remembered of it; to be asked when it is over."""
        advice, isolation = self._advice, self._isolation
        if isolation is None or not isolation.begun:  # it has not come so far
            return Past(wary=advice.careful, returning=advice.returning, others=advice.others)
        source_gate = self._assembly.source_gate if self._assembly is not None else None
        return Past(
            reading=source_gate is not None and source_gate.opened,
            routed=source_gate.routed if source_gate is not None else 0,
            refused=self._refused,
            wary=isolation.engaged or isolation.stays > 0,
            returning=max(isolation.returning, source_gate.unsettled if source_gate is not None else 0),
            others=isolation.others,
            blamed=isolation.blamed,
            returns=isolation.returns,
        )

    @property
    def _refused(self) -> bool:
        """Whether the broker has ended it, as far as can be seen, over something that was published."""
        publisher = self._publisher
        failure = self._link.failure if self._link is not None else None
        if publisher is None or failure is None:
            return False
        closed = isinstance(failure, ConnectionClosedError) and failure.code != FORCED
        return publisher.refused or (closed and publisher.unconfirmed > 0)

    def set_pods(self, pods: tuple[Pod, ...]) -> None:
        """Takes the whole list of pods that opted in."""
        self._pods = pods
        self._told_of_pods.set()
        if self._assembly is not None:
            self._assembly.rebalancer.set_pods(pods)

    def stop(self) -> None:
        """Asks for a graceful end: `run` returns when everything is given back, and nothing will be repeated."""
        self._stopping.set()

    async def run(self) -> None:
        """Routes until `stop` or a failure; raises a PartyMQError for the latter."""
        title = f"partymq {self._config.group} {self._host.identity}"
        connection = await Connection.open(self._config.broker, name=title)
        near = connection.endpoint  # one node more is one more whose death ends the session
        link = self._link = DataConnection(
            connection,
            dial=lambda what: Connection.open(self._config.broker, name=f"{title} {what}", near=near),
            budget=self._host.budget,
            tenant=self._config.group.namespace,
        )
        link.on_blocked(self._listener.changed)
        try:
            topology = await Topology.open(self._config.broker, name=f"{title} topology", near=near, patience=math.inf)
            try:
                await self._serve(link, topology)
            finally:
                await topology.close()
            await connection.close()
        except BaseExceptionGroup as group:
            raise link.failure or first_error(group, PartyMQError) from group
        finally:
            self.over.set()
            link.abort()

    async def _serve(self, link: DataConnection, topology: Topology) -> None:
        channel = await link.channel()
        publisher = self._publisher = Publisher(link, channel)
        await publisher.journal.open()
        await self._declare_journal(topology)
        journal = Journal(
            outlet=publisher.journal, queue=self._names.journal, whole=link.whole.part(), standing=self._standing
        )
        await journal.attach(link.cancelled(self._names.journal))
        context = self._context(link, topology, publisher, journal)
        lost = topology.lost_nodes
        lost.report_to(self._listener.trouble, paused=lambda: self.blocked)
        self._isolation = isolation = self._make_isolation(context)
        async with asyncio.TaskGroup() as tasks:
            looking = lost.run(journal=self._names.journal, session=journal.session)
            works = (link.watch(), self._watch(topology), isolation.run(), looking)
            services = [tasks.create_task(work) for work in works]
            if await unless(self._stopping, self._win(context)):
                services.append(tasks.create_task(journal.run()))
                routing = await unless(self._stopping, self._prepare(context, isolation))
                if routing is not None:
                    services.extend(tasks.create_task(service) for service in routing.services())
                    self._assembly = routing
                    if self._pods is not None:
                        routing.rebalancer.set_pods(self._pods)
                    routing.resume()
                    await self._stopping.wait()
                    await routing.stop()
            for service in services:
                service.cancel()
        await publisher.close()
        await channel.close()
        if self._failure is not None:
            raise self._failure
        if self.gone:
            raise ClientGoneError(
                f"messages for {', '.join(sorted(self.gone))} came back: no queue is bound to {self._exchange} with "
                "its routing key; the client is dropped, its keys go to others"
            )

    async def _declare_journal(self, topology: Topology) -> None:
        """Its one active consumer is the router."""
        await topology.declare_quorum(self._names.journal, single_active=True)

    @property
    def _standing(self) -> Standing:
        return Standing(
            uid=self._config.uid,
            identity=self._host.identity,
            wants=self._consulted.wants,
            on_wanted=self._listener.wanted,
            on_rival=self._listener.rival,
        )

    def _context(self, link: DataConnection, topology: Topology, publisher: Publisher, journal: Journal) -> Context:
        listener = self._listener
        return Context(
            config=self._config,
            names=self._names,
            link=link,
            topology=topology,
            publisher=publisher,
            journal=journal,
            polling=Polling(topology),
            troubles=Troubles(on_notice=listener.notice, on_change=listener.changed),
            listener=listener,
            checkpoint=self._host.checkpoint,
        )

    @property
    def _exchange(self) -> str:
        return self._config.clients.exchange if self._config.clients is not None else ""

    def _on_gone(self, client: str) -> None:
        """Ends the session gracefully: what came back is not acknowledged, the rest is not repeated."""
        self.gone.add(client)
        self._stopping.set()

    async def _watch(self, topology: Topology) -> None:
        """Ends the session gracefully when its second connection cannot be had again; the data connection goes on."""
        now = asyncio.get_running_loop().time
        # Polled: it comes and goes, and nobody waits for it to be away for long.
        while topology.away_since is None or now() - topology.away_since < AWAY_MOST:  # noqa: ASYNC110
            await asyncio.sleep(AWAY_LOOK)
        self._failure = topology.away_for
        self._stopping.set()

    def _on_standby(self) -> None:
        if self.blocked:  # the mark that is waited for has not even been taken
            return
        self.standing_by = True
        self._listener.standby()

    async def _win(self, context: Context) -> Ledger:
        journal, partitions = context.journal, self._config.spec.partitions
        ledger = await journal.win(on_standby=self._on_standby)
        if ledger is None:  # and nobody else holds one unacknowledged, for then it is only not here yet
            await await_alone(context.topology, self._names.journal)
            ledger = await journal.win(on_standby=self._on_standby)
        self.standing_by = False
        if ledger is None:
            return await self._begin_without(context)
        if len(ledger.partitions) != partitions:
            raise InvalidSpecError(
                f"the journal of {self._config.group} has {len(ledger.partitions)} partitions, spec.partitions says "
                f"{partitions}: that number can never change; restore it, or delete the group and its queues first"
            )
        if self._config.clients is None and ledger.plain:
            raise InvalidSpecError(
                f"{self._config.group} has clients with queues of their own ({', '.join(sorted(ledger.plain))}), but "
                "the clients API is off: enable it, or have them unbind first"
            )
        ledger = await journal.begin(bereave(ledger, self._gone))
        await self._open_outlets(context.topology, context.publisher)
        return ledger

    async def _begin_without(self, context: Context) -> Ledger:
        """The first ledger of a group that is new, or whose journal is lost: what was routed has a dead queue."""
        names, config, topology, journal = self._names, self._config, context.topology, context.journal
        if not config.known_epoch and await topology.poll(names.dead) is None:
            ledger = await journal.begin(empty(config.spec.partitions))
            await self._open_outlets(topology, context.publisher)
            return ledger
        await self._told_of_pods.wait()
        pods = [pod.name for pod in self._pods or ()]
        remains = await look(
            config, names=names, topology=topology, session=journal.session, members=config.known_members, pods=pods
        )
        await self._open_outlets(topology, context.publisher)
        recovery = Recovery(context)
        ledger = await journal.begin(await recovery.rebuild(remains))
        await recovery.close()
        self._listener.trouble(None)
        self._listener.notice(recovery.notice)
        return ledger

    async def _open_outlets(self, topology: Topology, publisher: Publisher) -> None:
        outlets = self._names.outlets
        await topology.declare_quorum(outlets)
        await publisher.open(outlets)
        await self._outlets_are_ours(topology)
        if self._isolation is not None:
            self._isolation.begin(self._advice, arrivals=source_reader.PREFETCH)

    async def _outlets_are_ours(self, topology: Topology) -> None:
        """Returns when nothing that an earlier session has published can still arrive."""
        await await_alone(topology, self._names.outlets, own=OUTLETS, bare=True)

    def _make_isolation(self, context: Context) -> Isolation:
        link = context.link
        return Isolation(context, dial=lambda: self._dial(link, "probe"), key_of=key_reader(self._config.spec.key))

    def _dial(self, link: DataConnection, what: str) -> Awaitable[Connection]:
        """Another connection to the same node; what for is part of its name."""
        name = f"partymq {self._config.group} {self._host.identity} {what}"
        return Connection.open(self._config.broker, name=name, near=link.endpoint)

    async def _prepare(self, context: Context, isolation: Isolation) -> Assembly:
        """Makes everything that the ledger names exist and be quiet, and puts the router's parts together."""
        names, ledger, topology, journal = self._names, context.journal.ledger, context.topology, context.journal
        if (suitability := self._host.suitability) is not None:
            broker, version = self._config.broker, context.link.server_version
            await suitability.prove(broker, version, lambda: self._dial(context.link, "self-test"))
        await topology.declare_dead_letters(names.dlx, names.dead)
        if self._config.clients is not None:
            await topology.declare_direct(self._config.clients.exchange)
        advisers = Advisers(
            remembered=self._consulted.remembered,
            ask_management=lambda queue: self._consulted.ask_about(queue, journal.session),
            at_risk=self._advice.at_risk,
        )
        routing = Assembly(context, isolation, advisers, on_gone=self._on_gone)
        drains = {handoff_id for handoff_id, handoff in ledger.handoffs.items() if handoff.phase is Phase.DRAIN}
        needed = map(names.transfer, {*ledger.transfers, *ledger.handoffs} - drains)
        await asyncio.gather(*(topology.declare_segment(transfer) for transfer in needed))
        # A drain and an overflow declare their own.
        transfers = map(names.transfer, {*ledger.transfers, *ledger.handoffs, *ledger.overflows.values()})
        await await_unread(topology, sorted(transfers), mark=context.publisher.mark)
        await routing.prepare()
        return routing
