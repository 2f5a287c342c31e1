"""Deleting a group's queues when the group is deleted.

Invariant: nothing is deleted while somebody else is the group's router, and under `DeleteEmpty` no message is: a queue
that holds any, or from which a client holds any, stays, and is named to whoever asked.

What there is to delete is what the journal says: members whose pods are long gone may have an inbox, and transfers may
stand between the two. The journal goes last, and only when nothing is left that it speaks of, so that a removal which
was interrupted can be begun again.
"""

import asyncio
from collections.abc import Collection

from partymq.amqp.connection import Connection
from partymq.amqp.topology import Topology
from partymq.core.ledger import Ledger, empty
from partymq.core.names import SPREAD, Names
from partymq.core.spec import DeletionPolicy, GroupConfig
from partymq.errors import BrokerError
from partymq.router.journal import Journal
from partymq.router.link import Link
from partymq.router.publisher import Outlet
from partymq.router.quiet import await_quiet
from partymq.router.takeover import Takeover

JOURNAL_WITHIN = 15.0
"""Seconds in which another router has to let go of the journal."""
INBOX_WITHIN = 3.0
"""Seconds in which the client of an inbox has to show that it holds nothing."""


async def remove_group(
    config: GroupConfig, *, title: str, members: Collection[str], policy: DeletionPolicy
) -> tuple[str, ...]:
    """Deletes what may go; returns the queues that stay, sorted.

    `members` are those whose inboxes may exist although the journal does not know them. Raises a PartyMQError when it
    could not be done and may be tried again.
    """
    names = Names(config.group)
    topology = await Topology.open(config.broker, name=f"{title} topology")
    try:
        if await topology.poll(names.journal) is None:
            # Never routed, or removed before: there can be no more than this.
            ledger = empty(config.spec.partitions)
            return await _Removal(topology, names, ledger, policy, link=None).run(members)
        connection = await Connection.open(config.broker, name=title)
        try:
            link = Link(connection)
            ledger = await _take_journal(link, config, names)
            left = await _Removal(topology, names, ledger, policy, link=link).run(members)
            await connection.close()
            return left
        finally:
            connection.abort()
    finally:
        await topology.close()


async def _take_journal(link: Link, config: GroupConfig, names: Names) -> Ledger:
    """The newest ledger; from here on nobody else is the router, until the connection is closed."""
    outlet = Outlet(link, await link.channel())
    await outlet.open()
    journal = Journal(outlet=outlet, queue=names.journal)
    await journal.attach(lambda: None)  # it is us who delete it
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
        self, topology: Topology, names: Names, ledger: Ledger, policy: DeletionPolicy, *, link: Link | None
    ) -> None:
        self._topology = topology
        self._names = names
        self._ledger = ledger
        self._policy = policy
        self._link = link

    async def run(self, members: Collection[str]) -> tuple[str, ...]:
        names, ledger = self._names, self._ledger
        owners = {part.owner for part in ledger.partitions if part.owner is not None}
        inboxes = {names.inbox(member) for member in {*members, *ledger.members, *ledger.donors, *owners}}
        transfers = [names.transfer(id) for id in {*ledger.transfers, *ledger.handoffs, *ledger.garbage}]  # noqa: A001
        backlogs = [names.backlog(p) for p in (SPREAD, *range(len(ledger.partitions)))]
        await await_quiet(self._topology, [names.outlets, *transfers, *backlogs])
        stay = await asyncio.gather(
            *(self._delete(queue) for queue in (*transfers, *backlogs, names.dead)),
            *(self._delete(inbox, client=True) for inbox in inboxes),
        )
        left = tuple(sorted(filter(None, stay)))
        if not left:
            await self._topology.delete(names.outlets)
            await self._topology.delete(names.journal)
            await self._topology.delete_exchange(names.dlx)
            await self._topology.delete_exchange(names.replay)
            await self._topology.delete_exchange(names.exchange)
        return left

    async def _delete(self, queue: str, *, client: bool = False) -> str | None:
        """None once the queue is gone; `client` says that others than routers may hold messages of it."""
        state = await self._topology.poll(queue)
        if state is None:
            return None
        if self._policy is DeletionPolicy.DELETE_EMPTY:
            held = client and state.consumers and not await self._holds_nothing(queue)
            if state.ready or held:
                return queue
        await self._topology.delete(queue)
        return None

    async def _holds_nothing(self, inbox: str) -> bool:
        """Whether the inbox is proven empty, with nothing of it in a client's hands."""
        if self._link is None:
            return False

        async def consumers() -> int:
            state = await self._topology.poll(inbox)
            return 0 if state is None else state.consumers

        takeover = await Takeover.attach(
            link=self._link, inbox=inbox, epoch=self._ledger.epoch, consumer_count=consumers
        )
        try:
            async with asyncio.timeout(INBOX_WITHIN):
                return not await takeover.collect()
        except TimeoutError:
            return False
        finally:
            await takeover.close()
