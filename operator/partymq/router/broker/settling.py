"""Waiting until nobody but us consumes a queue.

Invariant: a queue counts as quiet only by an answer with something in it, for zeros are no answer (`amqp.topology`).
A session that consumes the queue counts itself. Into a segment, which must not be read meanwhile, a fence is put, which
counts. A consumer that is counted although its node is lost does no harm where nothing is ever delivered
(`amqp.lost_nodes`).

No queue is read or purged while an earlier session may still hold messages of it: the journal's succession does not
prove that the old session's other queues have settled (docs/design.md, "One way to fail, one way to start").
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from partymq.amqp.channel import Channel
from partymq.amqp.topology import QueueState, Silence, Topology

RETRY = 0.02
RETRY_MAX = 1.0
MARK_AGAIN = 2.0
"""Seconds after which a queue that is still silent gets another fence: somebody may have read the one before."""


async def be_counted(channel: Channel, outlets: str, *, on_cancel: Callable[[], None] | None = None) -> None:
    """Has a channel counted in `outlets` for as long as it lasts: a successor waits until all it was asked is over.

    Nothing of ours is ever in that queue. What somebody else puts there stays unacknowledged, and is not lost.
    """
    await channel.consume(outlets, lambda *_message: None, on_cancel=on_cancel)


async def await_alone(topology: Topology, queue: str, *, own: int = 1, bare: bool = False) -> None:
    """Returns when so many consumers are counted, which are ours and attached, and nobody else's.

    `bare` says that nothing is ever delivered from the queue, and that only routers consume it.
    """
    wait = RETRY
    while True:
        state = await topology.poll(queue)
        if state is None:
            return
        if isinstance(state, QueueState) and (
            state.consumers - own == _lost(topology, queue, state.consumers, own=own, bare=bare)
        ):
            return
        await asyncio.sleep(wait)
        wait = min(2 * wait, RETRY_MAX)


async def await_unread(topology: Topology, queues: Iterable[str], *, mark: Callable[[str], Awaitable[None]]) -> None:
    """Returns when none of these segments has a consumer; `mark` puts a fence into one, confirmed."""
    await asyncio.gather(*(_unread(topology, queue, mark) for queue in queues))


async def _unread(topology: Topology, queue: str, mark: Callable[[str], Awaitable[None]]) -> None:
    now = asyncio.get_running_loop().time
    wait, marked = RETRY, float("-inf")
    while (state := await topology.poll(queue)) is not None and not _shows_no_reader(topology, queue, state):
        if isinstance(state, Silence) and now() - marked > MARK_AGAIN:
            await mark(queue)
            marked = now()
            continue
        await asyncio.sleep(wait)
        wait = min(2 * wait, RETRY_MAX)


def _shows_no_reader(topology: Topology, queue: str, state: QueueState | Silence) -> bool:
    """Whether an answer about a segment says that nobody reads it; zeros do not."""
    if isinstance(state, Silence):
        return False
    return state.consumers == _lost(topology, queue, state.consumers, own=0, bare=False)


def _lost(topology: Topology, queue: str, consumers: int, *, own: int, bare: bool) -> int:
    """How many of them are of a lost node and cannot do harm; people are told what is waited for."""
    lost = topology.lost_nodes.among(queue, consumers, own=own, bare=bare)
    topology.lost_nodes.report()
    return lost


async def is_consumed(topology: Topology, inbox: str) -> bool:
    """Whether somebody consumes an inbox; waits until its leader answers."""
    silent = False
    while (state := await topology.poll(inbox)) is not None:
        if isinstance(state, QueueState):
            return state.consumers > 0
        if silent and state is Silence.ZERO:
            return False  # silent before and after its leader has answered
        await topology.answered(inbox)
        silent = True
    return False
