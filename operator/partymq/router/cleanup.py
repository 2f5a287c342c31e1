"""Deleting a group's queues when the group is deleted.

Invariant: under `DeleteEmpty` no message is deleted: a queue that holds any stays, and is named to whoever asked.
"""

import asyncio
from collections.abc import Collection

from partymq.amqp.topology import Topology
from partymq.core.names import SPREAD, Names
from partymq.core.spec import DeletionPolicy


async def delete_queues(
    topology: Topology, names: Names, *, partitions: int, members: Collection[str], policy: DeletionPolicy
) -> tuple[str, ...]:
    """Deletes what may go; returns the queues that stay, sorted. Nothing routes the group any more."""
    queues = [
        *(names.inbox(member) for member in members),
        *(names.backlog(p) for p in (SPREAD, *range(partitions))),
        names.dead,
    ]
    stay = sorted(filter(None, await asyncio.gather(*(_delete(topology, queue, policy) for queue in queues))))
    if not stay:
        # Last, and only when nothing is left that it speaks of: the journal says where messages are.
        await topology.delete(names.journal)
        await topology.delete_exchange(names.dlx)
    return tuple(stay)


async def _delete(topology: Topology, queue: str, policy: DeletionPolicy) -> str | None:
    state = await topology.poll(queue)
    if state is None:
        return None
    if state.ready and policy is DeletionPolicy.DELETE_EMPTY:
        return queue
    await topology.delete(queue)
    return None
