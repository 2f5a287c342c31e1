"""Whether the source is one that the broker deletes by itself.

Invariant: such a source is refused before anything is read from it. An auto-delete queue goes with its last consumer,
an expiring one when it is not read for some time, as while a group has no members or its backlogs are full, an
exclusive one with somebody's connection.

Two are asked, because each may know what the other one does not: the broker over AMQP (which takes the permission to
configure the source, and knows no policies) and the management API.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from partymq.amqp.queue_facts import UnaskableError, ask
from partymq.amqp.topology import Topology
from partymq.core.hazards import QueueFacts, transient
from partymq.errors import SourceTransientError

AGAIN = 30.0
"""Seconds for which an answer holds."""

AskManagement = Callable[[str], Awaitable[QueueFacts | None]]
"""What the management API says that a queue is; None where it does not answer, or there is none."""


class SourceKind:
    """What one session knows of its source."""

    def __init__(self, *, queue: str, topology: Topology, management: AskManagement) -> None:
        self._queue = queue
        self._topology = topology
        self._management = management
        self._loop = asyncio.get_running_loop()
        self._asked: float | None = None
        self._refusal: SourceTransientError | None = None
        self.may_ask = True
        """False when the broker has refused the question for want of a permission."""

    def forget(self) -> None:
        """The queue is not there: another one may come in its place."""
        self._asked = None

    async def refusal(self, *, opening: bool) -> SourceTransientError | None:
        """Why the source is not read, if so; what was found fine is looked at again only when it is to be opened."""
        now = self._loop.time()
        if self._asked is None or ((opening or self._refusal is not None) and now - self._asked > AGAIN):
            self._refusal = await self._ask()
            self._asked = self._loop.time()
        return self._refusal

    async def _ask(self) -> SourceTransientError | None:
        told = await asyncio.gather(self._declared(), self._management(self._queue))
        return next((refused for facts in told if (refused := _refused(facts)) is not None), None)

    async def _declared(self) -> QueueFacts | None:
        if self.may_ask:
            with suppress(UnaskableError):
                return await ask(self._topology, self._queue)
            self.may_ask = False
        return None


def exclusive(queue: str) -> SourceTransientError:
    """What is said of a source that another connection has for itself, which nobody else can even look at."""
    refused = _refused(QueueFacts(name=queue, exclusive=True))
    assert refused is not None
    return refused


def _refused(facts: QueueFacts | None) -> SourceTransientError | None:
    why = transient(facts) if facts is not None else None
    return SourceTransientError(why) if why is not None else None
