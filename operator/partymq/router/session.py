"""One session: from attaching to the journal to the first surprise, or to a graceful stop.

Invariant: nothing is published before this session's epoch is in the journal, and nothing is read before what an
earlier session held has settled. A session fails as a whole: everything in memory is dropped, the next one starts from
the journal.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TypeVar

from partymq.amqp.connection import Connection
from partymq.amqp.keyread import key_reader
from partymq.amqp.topology import Topology
from partymq.core.ledger import Ledger, empty
from partymq.core.membership import Pod
from partymq.core.names import Names
from partymq.core.pinning import bereave
from partymq.core.spec import GroupConfig
from partymq.errors import ClientGoneError, InvalidSpecError, PartyMQError
from partymq.router.escalation import Remembered
from partymq.router.journal import Journal
from partymq.router.link import Link
from partymq.router.listener import Listener
from partymq.router.points import Checkpoint
from partymq.router.publisher import Publisher
from partymq.router.quiet import await_quiet
from partymq.router.recovery import Recovery, look
from partymq.router.routing import Routing

T = TypeVar("T")


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
        gone: frozenset[str] = frozenset(),
        checkpoint: Checkpoint,
        wants: Callable[[], str],
    ) -> None:
        """`gone` are plain clients whose queues an earlier session did not find."""
        self._config = config
        self._wants = wants
        self._identity = identity
        self._pods = pods
        self._listener = listener
        self._remembered = remembered
        self._checkpoint = checkpoint
        self._names = Names(config.group)
        self._told_of_pods = asyncio.Event()
        if pods is not None:
            self._told_of_pods.set()
        self._gone = gone
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
        link = Link(connection)
        try:
            topology = await Topology.open(self._config.broker, name=f"{title} topology")
            try:
                await self._serve(link, topology)
            finally:
                await topology.close()
            await connection.close()
        except BaseExceptionGroup as group:
            raise link.failure or _first(group) from group
        finally:
            self.over.set()
            connection.abort()

    async def _serve(self, link: Link, topology: Topology) -> None:
        channel = await link.channel()
        publisher = Publisher(link, channel)
        await publisher.journal.open()
        await topology.declare_quorum(self._names.journal, single_active=True)
        journal = Journal(
            outlet=publisher.journal,
            queue=self._names.journal,
            wants=self._wants,
            on_wanted=self._listener.wanted,
        )
        await journal.attach(link.cancelled(self._names.journal))
        async with asyncio.TaskGroup() as tasks:
            services = [tasks.create_task(link.watch()), tasks.create_task(topology.watch())]
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

    def _on_standby(self) -> None:
        self.standing_by = True
        self._listener.standby()

    async def _unless_stopped(self, work: Coroutine[object, object, T]) -> T | None:
        """The result of `work`, or None when the session is asked to stop first."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for future in (task, stop):
                future.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await future

    async def _win(self, link: Link, topology: Topology, publisher: Publisher, journal: Journal) -> Ledger:
        partitions = self._config.spec.partitions
        ledger = await journal.win(on_standby=self._on_standby)
        if ledger is None:  # and nobody else holds one unacknowledged, for then it is only not here yet
            await await_quiet(topology, [self._names.journal], others=1)
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
        remains = await look(config, names=names, topology=topology, members=config.known_members, pods=pods)
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
        await await_quiet(topology, [outlets])
        await publisher.open(outlets)

    async def _prepare(self, link: Link, topology: Topology, publisher: Publisher, journal: Journal) -> Routing:
        """Makes everything that the ledger names exist and be quiet, and puts the router's parts together."""
        names, ledger = self._names, journal.ledger
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
            on_gone=self._on_gone,
            checkpoint=self._checkpoint,
        )
        transfers = [names.transfer(id) for id in sorted({*ledger.transfers, *ledger.handoffs})]  # noqa: A001
        await asyncio.gather(*(topology.declare_quorum(transfer) for transfer in transfers))
        backlogs = [names.backlog(p) for p in ledger.backlogs]
        await asyncio.gather(*(topology.declare_quorum(backlog) for backlog in backlogs))
        await await_quiet(topology, [*transfers, *backlogs])
        await routing.prepare()
        return routing


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What happened first: the rest of the group are its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, PartyMQError)), error.exceptions[0])
    return error
