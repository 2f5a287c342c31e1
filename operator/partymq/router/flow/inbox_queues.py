"""The queues that inboxes are, and whom the journal names for them.

Invariant: no inbox is declared before the journal names who it is for, and nobody is forgotten before the broker has
confirmed that the inbox is deleted, or has refused to make it. So one that nobody comes to use is deleted, if not by
this session then by the next (docs/design.md, "The ledger").
"""

from functools import partial

from partymq.core.ledger import expect, forget_visitor
from partymq.errors import BrokerError, ConnectionLostError
from partymq.router.broker.deletions import Deletions
from partymq.router.context import Context


class InboxQueues:
    """All of a group's."""

    def __init__(self, context: Context) -> None:
        self._topology = context.topology
        self._journal = context.journal
        self._names = context.names
        self._troubles = context.troubles
        self._deletions = Deletions(context.link, outlets=context.names.outlets)

    async def declare(self, name: str) -> None:
        """Raises what the broker says against it."""
        await self._name(name)
        inbox = self._names.inbox(name)
        try:
            await self._topology.declare_quorum(inbox, single_active=True, dead_letter_exchange=self._names.dlx)
        except ConnectionLostError:
            raise  # it may be there
        except BrokerError:
            await self._gone(name)
            raise
        self._troubles.over(inbox)

    async def _name(self, name: str) -> None:
        ledger = self._journal.ledger
        if name not in ledger.members and name not in ledger.visitors:
            await self._journal.write(partial(expect, name=name))

    async def delete(self, name: str) -> None:
        """Deletes an inbox to which nothing is on its way; returns when it is gone, or raises BrokerError."""
        await self._deletions.delete(self._names.inbox(name))
        await self._gone(name)

    async def _gone(self, name: str) -> None:
        if name in self._journal.ledger.visitors:
            await self._journal.write(partial(forget_visitor, name=name))
