"""Waiting until a queue's leader answers, before something is begun over a connection that must not end.

Invariant: RabbitMQ ends the connection (541) over a `basic.consume` while the queue's leader does not answer, so of a
queue that was silent its leader is asked first, over a connection that nothing else depends on. Over the data
connection it would end the session, for a queue that is without a leader for some seconds.
"""

import asyncio
import logging
from typing import Final

from partymq.amqp.topology import Silence, Topology
from partymq.errors import BrokerError, LimitReachedError

LOG = logging.getLogger(__name__)

AGAIN: Final = 0.1
AGAIN_MOST: Final = 5.0
"""Seconds until a leader that did not answer is asked again, at first and at most."""


async def await_leader(topology: Topology, queue: str) -> None:
    """Returns when the leader of one of our single active consumer queues answers, or when there is no such queue.

    And where the broker has no connection left to ask it over.
    """
    pause = AGAIN
    while isinstance(await topology.poll(queue), Silence):
        try:
            await topology.answered(queue)
        except LimitReachedError:
            return
        except BrokerError as error:
            LOG.info("%s does not answer: %s", queue, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN_MOST)
        else:
            return
