"""The queues of plain clients as destinations.

Invariant: a client's queue is its own: it is published to by its routing key, and nothing else is done with it.
"""

from partymq.core.spec import ClientsSpec
from partymq.router.clients.waiting_line import WaitingLine
from partymq.router.flow.lanes import Member
from partymq.router.publish.publisher import Publisher


class ClientQueues:
    """All that something was sent to in this session, by client."""

    def __init__(self, spec: ClientsSpec, publisher: Publisher) -> None:
        self._spec = spec
        self._publisher = publisher
        self._members: dict[str, Member] = {}
        self.waiting_line = WaitingLine()
        publisher.keep(self.waiting_line)

    def member(self, name: str) -> Member:
        """A plain client's queue, or rather its routing key, as a destination without limits."""
        member = self._members.get(name)
        if member is None:
            sink = self._publisher.sink(self._spec.routing_key(name), exchange=self._spec.exchange)
            member = self._members[name] = Member.plain(name, sink)
            self.waiting_line.cover(sink)
        return member

    def known(self, name: str) -> Member | None:
        """The same, of one that something was sent to."""
        return self._members.get(name)

    def forget(self, name: str) -> None:
        """A client has left: should one of its name come, it gets a new one."""
        self._members.pop(name, None)

    def named(self, exchange: str, routing_key: str) -> str | None:
        """The plain client whose queue is reached by these."""
        return self._spec.client_of(routing_key) if exchange == self._spec.exchange else None
