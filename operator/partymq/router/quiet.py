"""Waiting until what an earlier session consumed is back in its queues.

Invariant: no queue is read or purged while an earlier session may still hold messages of it: the journal's succession
does not prove that the old session's other queues have settled (design, section 6).
"""

import asyncio
from collections.abc import Iterable

from partymq.amqp.topology import Topology

RETRY = 0.02
RETRY_MAX = 1.0


async def await_quiet(topology: Topology, queues: Iterable[str], *, others: int = 0) -> None:
    """Returns when none of `queues` has a consumer, or no more than so many others that are known."""
    await asyncio.gather(*(_settle(topology, queue, others) for queue in queues))


async def _settle(topology: Topology, queue: str, others: int) -> None:
    wait = RETRY
    while (state := await topology.poll(queue)) is not None and state.consumers > others:
        await asyncio.sleep(wait)
        wait = min(2 * wait, RETRY_MAX)
