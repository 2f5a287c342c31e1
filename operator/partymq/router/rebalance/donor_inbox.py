"""What a handoff asks about the inbox of its donor, before it takes it over and while it does.

Invariant: zeros are no answer. Where something rests on one, the queue's leader is asked until it has given it.
"""

import asyncio
import logging

from partymq.amqp.topology import QueueState, Silence, Topology, counted
from partymq.errors import BrokerError

LOG = logging.getLogger(__name__)

FINISHES_WITHIN = 0.1
"""Seconds that a donor is given to work off its inbox, if it looks as if that were enough."""
FINISH_LOOK = 0.005
ANSWER_AGAIN = 0.1
ANSWER_AGAIN_MOST = 5.0
"""Seconds until a leader that did not answer is asked again, at first and at most."""


class DonorInbox:
    """One inbox that is there."""

    def __init__(self, topology: Topology, inbox: str) -> None:
        self._topology = topology
        self._inbox = inbox

    async def consumers(self) -> int | None:
        """How many are counted; None while nobody knows."""
        return counted(await self._state())

    async def answers(self) -> None:
        """Returns when its leader answers: RabbitMQ ends the connection over a `basic.consume` while it does not.

        Over the data connection that would end the session, for an inbox that is without a leader for some seconds.
        """
        pause = ANSWER_AGAIN
        while isinstance(await self._state(), Silence):
            try:
                await self._topology.answered(self._inbox)
            except BrokerError as error:
                LOG.info("%s does not answer: %s", self._inbox, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, ANSWER_AGAIN_MOST)
            else:
                break

    async def finished(self) -> bool:
        """Lets a donor that is fast enough work its inbox off: what is copied instead goes through the broker twice.

        True when the inbox looks empty (what its client holds is not in it any more). Nothing rests on that: if it is
        not, a transfer is declared later.
        """
        now = asyncio.get_running_loop().time
        begun, state = now(), await self._state()
        if isinstance(state, Silence):
            return True
        first, wait = state.ready, FINISH_LOOK
        while state.ready and state.consumers:
            await asyncio.sleep(wait)
            state = await self._state()
            if isinstance(state, Silence):
                return False
            rate = (first - state.ready) / (now() - begun)
            if state.ready > rate * (begun + FINISHES_WITHIN - now()):
                return False
            wait = max(FINISH_LOOK, 0.5 * state.ready / rate if rate else 0.0)
        return not state.ready

    async def _state(self) -> QueueState | Silence:
        state = await self._topology.poll(self._inbox)
        if state is None:
            raise BrokerError(f"{self._inbox} was deleted while it was being taken over")
        return state
