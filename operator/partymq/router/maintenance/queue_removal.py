"""Deleting a group's queues when the group is deleted.

Invariant: nothing is deleted while somebody else is the group's router, and under `DeleteEmpty` no message is: a queue
stays, and is named to whoever asked, unless it is proven that it holds none and no client holds any of it. The proof is
that of a handoff: it is taken over, and a fence comes back with nothing before it. Zeros are none (`amqp.topology`).

What there is to delete is what the journal says: members whose pods are long gone may have an inbox, and transfers may
stand between the two. The journal goes last, and only when nothing is left that it speaks of, so that a removal which
was interrupted can be begun again.
"""

import asyncio
from collections.abc import Collection

from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueState, Topology
from partymq.core.ledger import Ledger, empty
from partymq.core.names import SPREAD, Names
from partymq.core.spec import DeletionPolicy, GroupConfig
from partymq.errors import BrokerError
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.deletions import ENDS_WITHIN
from partymq.router.broker.leaders import await_leader
from partymq.router.broker.memory_budget import Budget
from partymq.router.broker.settling import await_alone, be_counted
from partymq.router.broker.takeover import Takeover
from partymq.router.journal import Journal, Standing
from partymq.router.publish.outlet import Outlet

JOURNAL_WITHIN = 15.0
"""Seconds in which another router has to let go of the journal."""
PROVEN_WITHIN = 3.0
"""Seconds in which a queue, and its clients, have to show that they hold nothing."""
PROOFS = 16
"""Queues that are taken over at the same time: each takes a channel."""


async def remove_group(
    config: GroupConfig,
    *,
    title: str,
    members: Collection[str],
    policy: DeletionPolicy,
    budget: Budget | None = None,
) -> tuple[str, ...]:
    """Deletes what may go; returns the queues that stay, sorted.

    `members` are those whose inboxes may exist although the journal does not know them. Raises a PartyMQError when it
    could not be done and may be tried again.
    """
    names = Names(config.group)
    topology = await Topology.open(config.broker, name=f"{title} topology")
    try:
        connection = await Connection.open(config.broker, name=title)
        try:
            link = DataConnection(connection, budget=budget, tenant=config.group.namespace)
            ledger = empty(config.spec.partitions)  # never routed, or removed before: there can be no more than this
            if await topology.poll(names.journal) is not None:
                ledger = await _take_journal(link, config, names)
            left = await _Removal(topology, names, ledger, policy, link).run(members)
            await connection.close()
            return left
        finally:
            connection.abort()
    finally:
        await topology.close()


async def _take_journal(link: DataConnection, config: GroupConfig, names: Names) -> Ledger:
    """The newest ledger; from here on nobody else is the router, until the connection is closed."""
    outlet = Outlet(await link.channel())
    await outlet.open()
    standing = Standing(uid=config.uid)
    journal = Journal(outlet=outlet, queue=names.journal, whole=link.whole.part(), standing=standing)
    await journal.attach(lambda: None)  # we delete it ourselves
    try:
        async with asyncio.timeout(JOURNAL_WITHIN):
            return await journal.win(on_standby=lambda: None) or empty(config.spec.partitions)
    except TimeoutError:
        raise BrokerError(
            f"another router holds {names.journal}: its queues are not deleted under it. Look in the broker's "
            f"management for the connection `partymq {config.group} ...`, and stop the PartyMQ that it belongs to"
        ) from None


class _Removal:
    def __init__(
        self, topology: Topology, names: Names, ledger: Ledger, policy: DeletionPolicy, link: DataConnection
    ) -> None:
        self._topology = topology
        self._names = names
        self._ledger = ledger
        self._policy = policy
        self._link = link
        self._proofs = asyncio.Semaphore(PROOFS)

    async def run(self, members: Collection[str]) -> tuple[str, ...]:
        names, ledger = self._names, self._ledger
        owners = {part.owner for part in ledger.partitions if part.owner is not None}
        inboxes = {
            names.inbox(member) for member in {*members, *ledger.members, *ledger.visitors, *ledger.donors, *owners}
        }
        ids = {*ledger.transfers, *ledger.handoffs, *ledger.garbage, *ledger.overflows.values()}
        transfers = [names.transfer(one) for one in ids]
        backlogs = [names.backlog(p) for p in (SPREAD, *range(len(ledger.partitions)))]
        await self._outlive_outlets()
        queues = (*transfers, *backlogs, names.dead, *inboxes)
        stay = await asyncio.gather(*(self._delete(queue) for queue in queues))
        left = tuple(sorted(filter(None, stay)))
        if not left:
            await self._topology.delete(names.outlets)
            await self._topology.delete(names.journal)
            await self._topology.delete_exchange(names.dlx)
            await self._topology.delete_exchange(names.replay)
            await self._topology.delete_exchange(names.exchange)
            await asyncio.sleep(ENDS_WITHIN)  # the group may be created again at once
        return left

    async def _outlive_outlets(self) -> None:
        """Returns when no earlier session can publish any more."""
        outlets = self._names.outlets
        if await self._topology.poll(outlets) is None:
            return
        channel = await self._link.channel()
        await be_counted(channel, outlets)
        await await_alone(self._topology, outlets, bare=True)
        await channel.close()

    async def _delete(self, queue: str) -> str | None:
        """The queue, if it stays."""
        state = await self._topology.poll(queue)
        if state is None:
            return None
        if self._policy is DeletionPolicy.DELETE:
            await self._topology.delete(queue)
            return None
        if isinstance(state, QueueState) and state.ready:
            return queue
        async with self._proofs:
            return None if await self._deleted_empty(queue) else queue

    async def _deleted_empty(self, queue: str) -> bool:
        """Deletes the queue if it is proven empty, with nothing of it in a client's hands; it is ours meanwhile."""
        try:
            async with asyncio.timeout(PROVEN_WITHIN):
                await await_leader(self._topology, queue)
        except TimeoutError:
            return False
        takeover = await Takeover.attach(
            link=self._link, topology=self._topology, inbox=queue, epoch=self._ledger.epoch
        )
        try:
            async with asyncio.timeout(PROVEN_WITHIN):
                if await takeover.collect():
                    return False
            await takeover.expect_deletion()
            await self._topology.delete(queue)
            return True
        except TimeoutError:
            return False
        finally:
            await takeover.close()
