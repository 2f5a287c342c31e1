"""What people are told of queues that refuse messages, and where much waits for one of them.

Invariant: a queue that refuses is a trouble of its own for as long as something waits for it, and no longer.
"""

from partymq.core.spec import ClientsSpec
from partymq.errors import LimitReachedError
from partymq.router.broker.queue_troubles import REFUSES, Troubles, refuses
from partymq.router.clients.overflow import Overflows
from partymq.router.publish.refusing_queue import MUCH, RefusingQueue

CHANNELS = "channels"
"""A trouble's name: it is no queue's."""


class Refusals:
    """Of one session; told by its publisher and its link."""

    def __init__(self, *, troubles: Troubles, overflows: Overflows, spec: ClientsSpec | None) -> None:
        """`spec` says which queues are plain clients', where there are any."""
        self._troubles = troubles
        self._overflows = overflows
        self._spec = spec

    def short(self, error: LimitReachedError | None) -> None:
        """The broker allows no more channels; or, with None, there are enough."""
        if error is None:
            self._troubles.over(CHANNELS)
        else:
            self._troubles.refused(CHANNELS, error, effect="What needs one of its own waits for it")

    def refusing(self, line: RefusingQueue) -> None:
        """What waits for any other queue has changed."""
        exchange, queue = line.sink.exchange, line.sink.queue
        client = self._client(exchange, queue)
        what = queue if client is None else f"client {client}"
        if client is not None and line.kept >= MUCH:
            self._overflows.begin(client, line)
        if not line.kept:
            if client is None or not self._overflows.of(client):
                self._troubles.over(what)
        elif client is None:
            self._troubles.meet(what, reason=REFUSES, message=f"{refuses(queue)}. What is for it waits")
        else:
            self._troubles.meet(
                what,
                reason="ClientFull",
                message=f"{client} has no room: the queue that is bound to {exchange} with routing key {queue} refuses "
                "messages (basic.nack), as one does that is at its length limit (x-overflow: reject-publish) or has "
                f"failed. Let it be consumed, raise its limit, or unbind {client}: what is for it waits, others go on",
            )

    def _client(self, exchange: str, routing_key: str) -> str | None:
        if self._spec is None or exchange != self._spec.exchange:
            return None
        return self._spec.client_of(routing_key)
