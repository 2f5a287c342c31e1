"""A donor that is fast enough works its inbox off itself: what is copied instead goes through the broker twice.

Invariant: nothing rests on what is found here. Should the inbox not be empty, a transfer is declared later.
"""

import asyncio
from typing import Final

from partymq.amqp.topology import QueueState, Topology

FINISHES_WITHIN: Final = 0.1
"""Seconds that a donor is given to work off its inbox, if it looks as if that were enough."""
LOOK: Final = 0.005


async def finished(topology: Topology, inbox: str) -> bool:
    """True when the inbox looks empty (what its client holds is not in it any more); waits for that while it pays."""
    now = asyncio.get_running_loop().time
    begun, state = now(), await topology.poll(inbox)
    if not isinstance(state, QueueState):
        return True
    first, wait = state.ready, LOOK
    while state.ready and state.consumers:
        await asyncio.sleep(wait)
        state = await topology.poll(inbox)
        if not isinstance(state, QueueState):
            return False
        rate = (first - state.ready) / (now() - begun)
        if state.ready > rate * (begun + FINISHES_WITHIN - now()):
            return False
        wait = max(LOOK, 0.5 * state.ready / rate if rate else 0.0)
    return not state.ready
