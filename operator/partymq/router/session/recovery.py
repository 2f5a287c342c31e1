"""Rebuilding the ledger when the journal is lost.

Invariant: nothing is routed before every message that was between the source and a client stands either in a backlog or
in one transfer, in the order of its stamps, and no client holds any of it.

Without the journal nobody knows for certain who was given what, so every inbox is taken over, as a handoff does it, and
every transfer is read. What was in them goes, by stamp and without repeats, into one new transfer, which then stands
before the backlogs. A crash at any moment leaves the journal empty: the next session does it again, and the copies that
it finds fall together by their stamps. Owners are taken from what is known; a wrong one does no harm, as no inbox holds
anything.

Managed clients are members like others. What plain clients had is nowhere but in the journal: they are unbound, as if
they had expired, and bind again.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from partymq.amqp.management import Management, prove
from partymq.amqp.topology import Topology
from partymq.core.clients import Client, ClientKind
from partymq.core.ledger import Ledger, Partition
from partymq.core.names import SPREAD, Names
from partymq.core.report import Notice
from partymq.core.spec import GroupConfig
from partymq.errors import BrokerError, JournalLostError
from partymq.message.rewrite import passable
from partymq.router.broker.deletions import Deletions
from partymq.router.broker.settling import is_consumed
from partymq.router.broker.stamp_order import NEWEST, Message, in_order
from partymq.router.broker.takeover import Takeover
from partymq.router.context import Context
from partymq.router.publish.outlet import Refused

LEAP = 1000
"""What is known may be older than the last session: so many sessions, at most."""
IDS = ("0.0", "0.1", "0.2")
"""Transfers of recoveries: no session has epoch 0. A recovery reads those that exist and writes the first that does
not; with a crash in between there are two, never three."""
SHOWN_TRIES = 20
"""So often is the API asked for this session's own consumer, which it shows within five seconds."""
PROBED_EPOCHS = 3
PROBED_HANDOFFS = 64
"""Where nobody lists the queues, transfers are looked for by the names that the last sessions may have used."""


@dataclass(slots=True, kw_only=True)
class Remains:
    """The group's queues that exist: members, handoffs, partitions."""

    inboxes: list[str] = field(default_factory=list)
    transfers: list[str] = field(default_factory=list)
    backlogs: list[int] = field(default_factory=list)
    managed: list[str] = field(default_factory=list)
    """Of the inboxes those of managed clients."""
    plain: list[str] = field(default_factory=list)
    """Clients that have bound a queue of their own, as far as is known."""


async def look(
    config: GroupConfig,
    *,
    names: Names,
    topology: Topology,
    session: str,
    members: Collection[str],
    pods: Collection[str],
) -> Remains:
    """What there is of a group without a journal, which `session` consumes.

    The management API lists it, if it is that broker's. Without that API each name that may be is asked for: of
    inboxes, those of `members` and `pods`. Raises `JournalLostError` where there are none.
    """
    remains = await _find(config, names=names, topology=topology, session=session, members={*members, *pods})
    if config.clients is not None:
        for name in set(remains.inboxes).difference(pods):
            # Of a client that consumes it, or of a pod that is gone.
            if await is_consumed(topology, names.inbox(name)):
                remains.managed.append(name)
    return remains


async def _find(
    config: GroupConfig, *, names: Names, topology: Topology, session: str, members: Collection[str]
) -> Remains:
    try:
        async with Management(config.broker) as management:
            await prove(management, address=config.broker, journal=names.journal, session=session, tries=SHOWN_TRIES)
            remains = _sorted_out(names, await management.queues(), config.spec.partitions)
            if config.clients is not None:
                with contextlib.suppress(BrokerError):  # it is for people to know
                    keys = await management.routing_keys(config.clients.exchange)
                    remains.plain = sorted({name for key in keys if (name := config.clients.client_of(key))})
            return remains
    except BrokerError as error:
        if not members:
            raise JournalLostError(
                f"{names.journal} is empty, but this group has been routed before: the journal was deleted or lost. "
                f"Nothing says which inboxes there were ({error}) Let the connection Secret's user list queues there, "
                "or start the pods again; or look whether the inboxes hold messages that you need, then delete the "
                f"PartitionGroup and create it again (without Kubernetes: delete the queue {names.dead}, start again)"
            ) from error
        return await _probed(topology, names, config, members)


def _sorted_out(names: Names, queues: Iterable[str], partitions: int) -> Remains:
    backlogs = {names.backlog(p): p for p in (SPREAD, *range(partitions))}
    prefix = names.transfer("")
    remains = Remains()
    for queue in sorted(queues):
        if (member := names.member_of(queue)) is not None:
            remains.inboxes.append(member)
        elif queue.startswith(prefix):
            remains.transfers.append(queue.removeprefix(prefix))
        elif queue in backlogs:
            remains.backlogs.append(backlogs[queue])
    return remains


async def _probed(topology: Topology, names: Names, config: GroupConfig, members: Collection[str]) -> Remains:
    epochs = range(max(1, config.known_epoch - PROBED_EPOCHS), config.known_epoch + PROBED_EPOCHS + 1)
    transfers = [*IDS, *(f"{epoch}.{n}" for epoch in epochs for n in range(1, PROBED_HANDOFFS + 1))]

    async def exists(queue: str) -> bool:
        return await topology.poll(queue) is not None

    # One by one: a queue that is missing costs the channel, with all that was asked on it.
    return Remains(
        inboxes=[name for name in sorted(members) if await exists(names.inbox(name))],
        transfers=[t for t in transfers if await exists(names.transfer(t))],
        backlogs=[p for p in (SPREAD, *range(config.spec.partitions)) if await exists(names.backlog(p))],
    )


class Recovery:
    """One try; `rebuild`, have the ledger journaled, then `close`."""

    def __init__(self, context: Context) -> None:
        self._config = context.config
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._names = context.names
        self._deletions = Deletions(context.link, outlets=context.names.outlets)
        self._tell = context.listener.trouble
        self._takeovers: dict[str, Takeover] = {}
        self._plain: Collection[str] = ()
        self.messages = 0
        """Messages that were found in inboxes and transfers."""

    async def rebuild(self, remains: Remains) -> Ledger:
        """A ledger by which routing goes on; the inboxes are empty, and stay ours until `close`."""
        names, self._plain = self._names, remains.plain
        await self._topology.declare_dead_letters(names.dlx, names.dead)
        queues = [*map(names.inbox, remains.inboxes), *map(names.transfer, remains.transfers)]
        parts = await asyncio.gather(*(self._collect(queue) for queue in queues))
        found = in_order(chain.from_iterable(parts), partitions=self._config.spec.partitions, newest=NEWEST)
        self.messages = len(found)
        transfer = next(one for one in IDS if one not in remains.transfers)
        within = await self._copy(found, names.transfer(transfer))
        await asyncio.gather(*(takeover.settle() for takeover in self._takeovers.values()))
        for old in map(names.transfer, remains.transfers):
            takeover = self._takeovers.pop(old)
            await takeover.expect_deletion()
            await self._deletions.delete(old)
            await takeover.close()
        newest = max((stamp.epoch for stamp, _, _ in found if stamp is not None), default=0)
        owners = _owners(self._config.known_members, remains.inboxes)

        def partition(p: int) -> Partition:
            transfers = (transfer,) if p in within else ()
            return Partition(owner=owners.get(p), transfers=transfers, backlog=p in within or p in remains.backlogs)

        return Ledger(
            epoch=max(self._config.known_epoch, newest) + LEAP,
            members=frozenset(remains.inboxes),
            partitions=tuple(map(partition, range(self._config.spec.partitions))),
            spread=partition(SPREAD),
            clients={name: Client(kind=ClientKind.MANAGED, ready=True) for name in remains.managed},
        )

    async def close(self) -> None:
        """Let the clients go on; the ledger is journaled."""
        await asyncio.gather(*(takeover.close() for takeover in self._takeovers.values()))

    @property
    def notice(self) -> Notice:
        """What is worth an Event afterwards."""
        return Notice(
            warning=True,
            reason="JournalRebuilt",
            message=f"{self._names.journal} was empty, although the group had been routed: it was deleted or lost. All "
            f"inboxes and handoffs were emptied and their {self.messages} messages put in order; routing goes on"
            + (f". Clients with queues of their own must bind again: {', '.join(self._plain)}" if self._plain else ""),
        )

    async def _collect(self, queue: str) -> list[Message]:
        if self._link.makes_zombies:
            await self._topology.lost_nodes.quiet()
        takeover = self._takeovers[queue] = await Takeover.attach(
            # Fences of different tries must not be taken for each other, and no epoch tells them apart yet.
            link=self._link,
            topology=self._topology,
            inbox=queue,
            epoch=secrets.randbits(48),
        )
        self._tell_waiting()
        messages = await takeover.collect()
        takeover.waiting_for = ""
        self._tell_waiting()
        return messages

    def _tell_waiting(self) -> None:
        waiting = [f"at {queue} for {t.waiting_for}" for queue, t in self._takeovers.items() if t.waiting_for]
        self._tell(
            JournalLostError(
                f"{self._names.journal} was empty, although the group had been routed: it is being rebuilt, and all "
                f"inboxes are emptied for that. It waits {'; '.join(waiting) or 'for the copies'}"
            )
        )

    async def _copy(self, found: Collection[Message], transfer: str) -> frozenset[int]:
        """Copies what was found, confirmed; returns the partitions that are in it."""
        if not found:
            return frozenset()
        await self._topology.declare_segment(transfer)
        refused: list[Refused] = []
        to_transfer = self._publisher.sink(transfer, refused=refused.append)
        to_dead = self._publisher.sink(self._names.dead)
        for stamp, header, body in found:
            (to_dead if stamp is None else to_transfer).publish(passable(header), body)
        await self._publisher.settled(to_transfer, to_dead)
        if refused:  # in part it is there: the next session reads it, and writes another one
            raise BrokerError(f"{transfer} refuses messages (basic.nack): `rabbitmqctl list_policies` may say why")
        return frozenset(stamp.partition for stamp, _, _ in found if stamp is not None)


def _owners(known: Mapping[str, Iterable[int]], inboxes: Collection[str]) -> dict[int, str]:
    return {p: member for member, owned in known.items() if member in inboxes for p in owned}
