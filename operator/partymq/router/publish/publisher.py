"""What a session publishes leaves through a few channels, its outlets; a queue is always reached through the same one.

Invariant: when a session's hold on the journal and all of its outlets are gone, nothing that it published can still be
on its way.

For that, the first outlet is the channel that consumes the journal, and the others consume the queue `outlets`,
which is always empty: a channel is one process at the broker, which handles what it was sent before it ends and takes
its consumer with it. So a successor that counts no consumers there but its own publishes after everything that came
before it (docs/design.md, "On the broker"). Several, because one such process is what limits the throughput of a broker
with cores to spare.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.frames import publish_frame
from partymq.errors import BrokerError, ChannelClosedError
from partymq.message.stamp import fence_header
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.settling import be_counted
from partymq.router.publish.outlet import UNLIMITED, Arriving, Keeper, Outlet, Refused, Sink
from partymq.router.publish.refusing_queue import RefusingQueue
from partymq.router.signals import Signal

OUTLETS: Final = 4
"""Besides the journal's; more than a broker of a few cores can keep busy gain nothing."""
STALLED_AFTER: Final = 60.0
"""Seconds for which one publish may stay unconfirmed: as long as RabbitMQ itself waits for the leader of a queue."""
LOOK_EVERY: Final = 15.0


class Publisher:
    """All outlets of a session."""

    def __init__(self, link: DataConnection, journal: Channel) -> None:
        self._link = link
        self.journal = Outlet(journal)
        """The outlet of the journal alone: its writes wait for nothing else."""
        self._outlets: list[Outlet] = []
        self._by_queue: dict[tuple[str, str], Outlet] = {}
        self._keepers: list[Keeper] = []
        self.refusing_changed = Signal[[RefusingQueue]]()
        """A queue refuses a message, or has taken all that it had refused."""
        self._refusing: list[RefusingQueue] = []
        self._seen: dict[Outlet, tuple[int, float]] = {}
        """The oldest unconfirmed publish of each outlet, and since when it is."""
        self.refused = False
        """True when the broker has closed an outlet: it did not like what was published."""

    async def open(self, queue: str) -> None:
        """Opens the outlets, as consumers of `queue`; nothing is published before nobody else consumes it."""
        for _ in range(OUTLETS):
            channel = await self._link.channel()
            await be_counted(channel, queue, on_cancel=self._link.cancelled(queue))
            channel.closed.add_done_callback(self._closed)
            outlet = Outlet(channel)
            await outlet.open()
            self._outlets.append(outlet)

    def _closed(self, closed: "asyncio.Future[None]") -> None:
        if not closed.cancelled() and isinstance(closed.exception(), ChannelClosedError):
            self.refused = True

    @property
    def outlets(self) -> Collection[Outlet]:
        """All but the journal's."""
        return self._outlets

    @property
    def unconfirmed(self) -> int:
        """Messages that are published and not confirmed."""
        return sum(outlet.unconfirmed for outlet in self._outlets)

    def sink(
        self,
        queue: str,
        *,
        exchange: str = "",
        left: int = UNLIMITED,
        refused: Callable[[Refused], None] | None = None,
    ) -> Sink:
        """The way to a queue: by its name or, where an exchange is named, by a routing key.

        What the queue refuses is kept and sent again, one message at a time, unless `refused` takes care of it.
        """
        outlet = self._by_queue.get((exchange, queue))
        if outlet is None:
            outlet = self._outlets[len(self._by_queue) % OUTLETS]
            self._by_queue[exchange, queue] = outlet
        sink = Sink(outlet, publish_frame(outlet.channel.number, exchange, queue), left, exchange=exchange, queue=queue)
        sink.refused = refused or (lambda message: self.refusing(sink).refuse(message))
        return sink

    def refusing(self, sink: Sink) -> RefusingQueue:
        """Has the sink's messages published one at a time from here on."""
        way = sink.way
        if isinstance(way, RefusingQueue):
            return way
        assert isinstance(way, Outlet)
        refusing = RefusingQueue(sink, way, on_change=self.refusing_changed.emit)
        if sink.outlet is way:
            sink.outlet = refusing
        sink.way = refusing
        self._keepers.append(refusing)
        self._refusing.append(refusing)
        return refusing

    def release(self, refusing: RefusingQueue) -> None:
        """Its queue is not published to any more."""
        refusing.close()
        self._keepers.remove(refusing)
        self._refusing.remove(refusing)

    @property
    def kept(self) -> int:
        """Arrivals that their queues have refused, or that wait behind those."""
        return sum(refusing.arrivals for refusing in self._refusing) if self._refusing else 0

    def pause(self) -> None:
        """Sends nothing more of what was refused: it goes back to where it came from."""
        for refusing in self._refusing:
            refusing.pause()

    async def mark(self, queue: str) -> None:
        """Puts a fence into a segment, which its next reader takes away; returns when it is confirmed."""
        sink = self.sink(queue)
        sink.publish(fence_header(f"mark {secrets.token_hex(8)}", expires=False), b"")
        await self.settled(sink)

    def serve(self, source: Arriving) -> None:
        """Makes `source` the origin of arrivals; the one before has nothing unconfirmed."""
        for outlet in self._outlets:
            outlet.serve(source)

    def forget_arrival(self, tag: int) -> bool:
        """See `Outlet`; False when no outlet knows of it."""
        if any(outlet.forget_arrival(tag) for outlet in self._outlets):
            return True
        return any(refusing.forget_arrival(tag) for refusing in self._refusing)

    def keep(self, keeper: Keeper) -> None:
        """Has `keeper` told when the source takes back what it has delivered."""
        self._keepers.append(keeper)

    def drop_arrivals(self) -> None:
        """The source takes back what it has delivered and nobody was sent."""
        for keeper in self._keepers:
            keeper.drop_arrivals()

    async def confirmed(self) -> None:
        """Returns when everything published so far is confirmed."""
        for barrier in [outlet.barrier() for outlet in (self.journal, *self._outlets)]:
            await barrier

    async def settled(self, *sinks: Sink) -> None:
        """Returns when all that was published to these is confirmed; nothing more is published to them meanwhile."""
        await self.until(lambda: not any(sink.unconfirmed for sink in sinks))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when a condition holds that confirms bring about."""
        settled = asyncio.Event()

        def look() -> None:
            if condition():
                settled.set()

        look()
        self._link.on_chunk(look)
        try:
            await settled.wait()
        finally:
            self._link.off_chunk(look)

    async def watch(self) -> None:
        """Ends the session when the broker confirms no more: what waits for that would wait without end.

        It is how a queue without a leader shows; one that is consumed says so itself, after the same time.
        """
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self.stalled(asyncio.get_running_loop().time()):
                raise BrokerError(
                    f"the broker has not confirmed a publish for {STALLED_AFTER:g} seconds: a queue of the group has "
                    "no leader or no majority; `rabbitmq-queues quorum_status` tells which"
                )

    def stalled(self, now: float) -> bool:
        """Whether a publish has been waiting for its confirm in all looks of so many seconds, none of them blocked."""
        outlets = () if self._link.blocked else (self.journal, *(o for o in self._outlets if not o.diverted))
        waiting = {outlet: oldest for outlet in outlets if (oldest := outlet.oldest) is not None}
        self._seen = {
            outlet: self._seen[outlet] if outlet in self._seen and self._seen[outlet][0] == oldest else (oldest, now)
            for outlet, oldest in waiting.items()
        }
        return any(now - since >= STALLED_AFTER for _, since in self._seen.values())

    async def close(self) -> None:
        """Closes the outlets; all they published is confirmed."""
        for refusing in self._refusing:
            refusing.close()
        for outlet in self._outlets:
            await outlet.channel.close()
