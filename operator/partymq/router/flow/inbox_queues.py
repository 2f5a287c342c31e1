"""The queues that inboxes are, and whom the journal names for them.

Invariant: no inbox is declared before the journal names who it is for, and nobody is forgotten before the broker has
confirmed that the inbox is deleted, or has refused to make it. So one that nobody comes to use is deleted, if not by
this session then by the next (docs/design.md, "The ledger").

One that was just deleted is not declared at once. RabbitMQ answers a deletion while members of the queue on other nodes
are still ending; there a new one of that name is not started, for good, and consumers that are connected to that node
are given nothing (4.0 to 4.3, docs/rabbitmq-defects.md). Where the management API tells, it is looked at afterwards.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Final

from partymq.amqp.management import Management
from partymq.core.ledger import expect, forget_visitor
from partymq.errors import BrokerError, ConnectionLostError, PartyMQError
from partymq.router.broker.deletions import ENDS_WITHIN, Deletions
from partymq.router.context import Context

LOG = logging.getLogger(__name__)

TRIES: Final = 3
"""After which it is looked whether members are missing; each pause is twice as long as the one before."""
TOLD_WITHIN: Final = 1.0
"""Seconds that the management API is given."""


class InboxQueues:
    """All of a group's."""

    def __init__(self, context: Context) -> None:
        self._broker = context.config.broker
        self._topology = context.topology
        self._journal = context.journal
        self._names = context.names
        self._troubles = context.troubles
        self._deletions = Deletions(context.link, outlets=context.names.outlets)
        self._ended_at: dict[str, float] = {}
        """When the members of an inbox that was just deleted have ended, so far as that can be guessed."""

    async def declare(self, name: str) -> None:
        """Raises what the broker says against it."""
        await self._name(name)
        if self._ended_at.get(name, 0.0) <= self._now() or await self._only_node():
            await self._declare(name)
        else:
            await self._declare_again(name)
        self._troubles.over(self._names.inbox(name))

    async def _declare_again(self, name: str) -> None:
        inbox, pause = self._names.inbox(name), ENDS_WITHIN
        for _ in range(TRIES):
            await asyncio.sleep(self._ended_at.get(name, 0.0) - self._now())
            await self._declare(name)
            if all((await self._members(inbox)).values()):
                return
            pause *= 2
            LOG.warning("%s has no member on some node that runs: it is deleted, and declared %s s later", inbox, pause)
            await self._delete(name, ends_within=pause)
        await asyncio.sleep(self._ended_at.get(name, 0.0) - self._now())
        await self._declare(name)

    async def _name(self, name: str) -> None:
        ledger = self._journal.ledger
        if name not in ledger.members and name not in ledger.visitors:
            await self._journal.write(partial(expect, name=name))

    async def _declare(self, name: str) -> None:
        inbox = self._names.inbox(name)
        try:
            await self._topology.declare_quorum(inbox, single_active=True, dead_letter_exchange=self._names.dlx)
        except ConnectionLostError:
            raise  # it may be there
        except BrokerError:
            await self._gone(name)
            raise

    async def delete(self, name: str) -> None:
        """Deletes an inbox to which nothing is on its way; returns when it is gone, or raises BrokerError."""
        await self._delete(name, ends_within=ENDS_WITHIN)
        await self._gone(name)

    async def _delete(self, name: str, *, ends_within: float) -> None:
        begun = self._now()
        await self._deletions.delete(self._names.inbox(name))
        now = self._now()
        self._ended_at = {other: at for other, at in self._ended_at.items() if at > now}
        self._ended_at[name] = now + max(ends_within, now - begun)

    async def _gone(self, name: str) -> None:
        if name in self._journal.ledger.visitors:
            await self._journal.write(partial(forget_visitor, name=name))

    async def _only_node(self) -> bool:
        return len(await self._members(self._names.journal)) == 1

    async def _members(self, queue: str) -> Mapping[str, bool]:
        """The nodes on which a queue has members, and whether they run; none where nobody tells."""
        try:
            async with asyncio.timeout(TOLD_WITHIN), Management(self._broker) as management:
                return await management.members(queue)
        except (PartyMQError, TimeoutError):
            return {}

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
