"""One session: from attaching to the journal to the first surprise, or to a graceful stop.

Invariant: nothing is published before this session's epoch is in the journal, and nothing is read before what an
earlier session held has settled. A session fails as a whole: everything in memory is dropped, the next one starts from
the journal.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from partymq.amqp.connection import Connection
from partymq.amqp.keyread import key_reader
from partymq.amqp.topology import Topology
from partymq.core.hazards import QueueFacts
from partymq.core.ledger import Ledger, Phase, empty
from partymq.core.membership import Pod
from partymq.core.names import Names
from partymq.core.pinning import bereave
from partymq.core.spec import GroupConfig
from partymq.errors import ClientGoneError, ConnectionClosedError, InvalidSpecError, PartyMQError
from partymq.router import source
from partymq.router.budget import Budget
from partymq.router.careful import FORCED, Careful
from partymq.router.caution import Advice, Past
from partymq.router.escalation import Remembered
from partymq.router.journal import Journal
from partymq.router.link import Link
from partymq.router.listener import Listener
from partymq.router.points import Checkpoint
from partymq.router.publisher import OUTLETS, Publisher
from partymq.router.quiet import await_alone, await_unread
from partymq.router.recovery import Recovery, look
from partymq.router.routing import Routing
from partymq.router.suitability import Suitability

T = TypeVar("T")

AWAY_MOST = 60.0
"""Seconds for which a session goes on without its second connection: what it has is routed, nothing is looked at."""
AWAY_LOOK = 1.0


class Session:
    """One try at being a group's router."""

    def __init__(
        self,
        *,
        config: GroupConfig,
        identity: str,
        pods: tuple[Pod, ...] | None,
        listener: Listener,
        remembered: Remembered,
        budget: Budget,
        ask_about: Callable[[str, str], Awaitable[QueueFacts | None]],
        gone: frozenset[str] = frozenset(),
        advice: Advice,
        checkpoint: Checkpoint,
        wants: Callable[[], str],
        suitability: Suitability | None = None,
    ) -> None:
        """`gone` are plain clients whose queues an earlier session did not find, `advice` is what failed ones teach.

        `ask_about` takes a queue and our `Journal.session`, and says what the management API tells of that queue.
        """
        self._config = config
        self._wants = wants
        self._suitability = suitability
        self._identity = identity
        self._pods = pods
        self._listener = listener
        self._remembered = remembered
        self._budget = budget
        self._ask_about = ask_about
        self._checkpoint = checkpoint
        self._names = Names(config.group)
        self._told_of_pods = asyncio.Event()
        if pods is not None:
            self._told_of_pods.set()
        self._gone = gone
        self._failure: PartyMQError | None = None
        """Why the session is to end in order."""
        self._advice = advice
        self._careful: Careful | None = None
        self._link: Link | None = None
        self._publisher: Publisher | None = None
        self._stopping = asyncio.Event()
        self.gone: set[str] = set()
        """Plain clients whose messages came back: the next session is to drop them."""
        self.standing_by = False
        """True while another session holds the journal."""
        self.over = asyncio.Event()
        self.routing: Routing | None = None
        """What routes, from the first journaled ledger on."""

    @property
    def serving(self) -> Routing | None:
        """What routes, until the session is asked to end."""
        return None if self._stopping.is_set() or self.over.is_set() else self.routing

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages from this session, whatever it is about."""
        return any(part is not None and part.blocked for part in (self._link, self._careful))

    @property
    def past(self) -> Past:
        """What is to be remembered of it; to be asked when it is over."""
        advice, careful = self._advice, self._careful
        if careful is None or not careful.begun:  # it has not come so far
            return Past(wary=advice.careful, returning=advice.returning, others=advice.others)
        intake = self.routing.intake if self.routing is not None else None
        return Past(
            reading=intake is not None and intake.opened,
            routed=intake.routed if intake is not None else 0,
            refused=self._refused,
            wary=careful.engaged or careful.stays > 0,
            returning=max(careful.returning, intake.unsettled if intake is not None else 0),
            others=careful.others,
            returns=careful.returns,
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
        if self.routing is not None:
            self.routing.controller.set_pods(pods)

    def stop(self) -> None:
        """Asks for a graceful end: `run` returns when everything is given back, and nothing will be repeated."""
        self._stopping.set()

    async def run(self) -> None:
        """Routes until `stop` or a failure; raises a PartyMQError for the latter."""
        title = f"partymq {self._config.group} {self._identity}"
        connection = await Connection.open(self._config.broker, name=title)
        near = connection.endpoint  # one node more is one more whose death ends the session
        link = self._link = Link(
            connection,
            dial=lambda what: Connection.open(self._config.broker, name=f"{title} {what}", near=near),
            budget=self._budget,
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
            raise link.failure or _first(group) from group
        finally:
            self.over.set()
            link.abort()

    async def _serve(self, link: Link, topology: Topology) -> None:
        channel = await link.channel()
        publisher = self._publisher = Publisher(link, channel)
        await publisher.journal.open()
        await topology.declare_quorum(self._names.journal, single_active=True)
        journal = Journal(
            outlet=publisher.journal,
            queue=self._names.journal,
            wants=self._wants,
            on_wanted=self._listener.wanted,
            uid=self._config.uid,
            identity=self._identity,
            on_rival=self._listener.rival,
        )
        await journal.attach(link.cancelled(self._names.journal))
        lost = topology.lost_nodes
        lost.tell, lost.paused = self._listener.trouble, lambda: self.blocked
        self._careful = careful = self._make_careful(link, topology, publisher)
        async with asyncio.TaskGroup() as tasks:
            looking = lost.run(journal=self._names.journal, session=journal.session)
            works = (link.watch(), self._watch(topology), careful.run(), looking)
            services = [tasks.create_task(work) for work in works]
            if await self._unless_stopped(self._win(link, topology, publisher, journal)):
                services.append(tasks.create_task(journal.run()))
                routing = await self._unless_stopped(self._prepare(link, topology, publisher, journal))
                if routing is not None:
                    services.extend(tasks.create_task(service) for service in routing.services())
                    self.routing = routing
                    if self._pods is not None:
                        routing.controller.set_pods(self._pods)
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

    async def _unless_stopped(self, work: Coroutine[object, object, T]) -> T | None:
        """The result of `work`, or None when the session is asked to stop first."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            stop.cancel()
            # Both, however the first one ends: a task that nobody waits for is destroyed while it is pending.
            await asyncio.gather(task, stop, return_exceptions=True)
        return None if task.cancelled() else task.result()

    async def _win(self, link: Link, topology: Topology, publisher: Publisher, journal: Journal) -> Ledger:
        partitions = self._config.spec.partitions
        ledger = await journal.win(on_standby=self._on_standby)
        if ledger is None:  # and nobody else holds one unacknowledged, for then it is only not here yet
            await await_alone(topology, self._names.journal)
            ledger = await journal.win(on_standby=self._on_standby)
        self.standing_by = False
        if ledger is None:
            return await self._begin_without(link, topology, publisher, journal)
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
        await self._open_outlets(topology, publisher)
        return ledger

    async def _begin_without(self, link: Link, topology: Topology, publisher: Publisher, journal: Journal) -> Ledger:
        """The first ledger of a group that is new, or whose journal is lost: what was routed has a dead queue."""
        names, config = self._names, self._config
        if not config.known_epoch and await topology.poll(names.dead) is None:
            ledger = await journal.begin(empty(config.spec.partitions))
            await self._open_outlets(topology, publisher)
            return ledger
        await self._told_of_pods.wait()
        pods = [pod.name for pod in self._pods or ()]
        remains = await look(
            config, names=names, topology=topology, session=journal.session, members=config.known_members, pods=pods
        )
        await self._open_outlets(topology, publisher)
        recovery = Recovery(
            config=config, link=link, topology=topology, publisher=publisher, names=names, tell=self._listener.trouble
        )
        ledger = await journal.begin(await recovery.rebuild(remains))
        await recovery.close()
        self._listener.trouble(None)
        self._listener.notice(recovery.notice)
        return ledger

    async def _open_outlets(self, topology: Topology, publisher: Publisher) -> None:
        outlets = self._names.outlets
        await topology.declare_quorum(outlets)
        await publisher.open(outlets)
        await await_alone(topology, outlets, own=OUTLETS, bare=True)
        if self._careful is not None:
            self._careful.begin(self._advice, arrivals=source.PREFETCH)

    def _make_careful(self, link: Link, topology: Topology, publisher: Publisher) -> Careful:
        return Careful(
            link=link,
            topology=topology,
            publisher=publisher,
            names=self._names,
            dial=lambda: self._dial(link, "probe"),
            key_of=key_reader(self._config.spec.key),
            notice=self._listener.notice,
            on_change=self._listener.changed,
        )

    def _dial(self, link: Link, what: str) -> Awaitable[Connection]:
        """Another connection to the same node; what for is part of its name."""
        name = f"partymq {self._config.group} {self._identity} {what}"
        return Connection.open(self._config.broker, name=name, near=link.endpoint)

    async def _prepare(self, link: Link, topology: Topology, publisher: Publisher, journal: Journal) -> Routing:
        """Makes everything that the ledger names exist and be quiet, and puts the router's parts together."""
        names, ledger, careful = self._names, journal.ledger, self._careful
        assert careful is not None, "made before anything is published"
        if self._suitability is not None:
            broker, version = self._config.broker, link.server_version
            await self._suitability.prove(broker, version, lambda: self._dial(link, "self-test"))
        await topology.declare_dead_letters(names.dlx, names.dead)
        if self._config.clients is not None:
            await topology.declare_direct(self._config.clients.exchange)
        routing = Routing(
            config=self._config,
            names=names,
            link=link,
            topology=topology,
            publisher=publisher,
            journal=journal,
            read_key=key_reader(self._config.spec.key),
            listener=self._listener,
            remembered=self._remembered,
            ask_management=lambda queue: self._ask_about(queue, journal.session),
            on_gone=self._on_gone,
            careful=careful,
            at_risk=self._advice.at_risk,
            checkpoint=self._checkpoint,
        )
        drains = {id for id, handoff in ledger.handoffs.items() if handoff.phase is Phase.DRAIN}  # noqa: A001
        needed = map(names.transfer, {*ledger.transfers, *ledger.handoffs} - drains)
        await asyncio.gather(*(topology.declare_quorum(transfer) for transfer in needed))
        # A drain and an overflow declare their own.
        transfers = map(names.transfer, {*ledger.transfers, *ledger.handoffs, *ledger.overflows.values()})
        await await_unread(topology, sorted(transfers), mark=publisher.mark)
        await routing.prepare()
        return routing


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What happened first: the rest of the group are its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, PartyMQError)), error.exceptions[0])
    return error
