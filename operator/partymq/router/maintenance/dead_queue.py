"""The dead queue, for people: look at it, publish messages anew, drop them.

Invariant: a message leaves the dead queue only when the broker has it in the source queue, confirmed and routed, or
when somebody said that it shall be dropped. Whatever is interrupted leaves it there; at worst it is in both.

A replayed message is a new arrival: it goes through the source, behind what is there, to its key's owner of then. It
takes a way of its own to get there, an exchange with the source behind it: the default exchange would change its
routing key, which may be its key, and its first exchange would send it to others again.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, Self

from partymq.aio import unless
from partymq.amqp.channel import Channel, Returned
from partymq.amqp.connection import Connection
from partymq.amqp.frames import publish_frame
from partymq.amqp.topology import QueueState, Topology
from partymq.core.names import Names
from partymq.core.spec import BrokerAddress, GroupId
from partymq.errors import AccessRefusedError, BrokerError, SourceMissingError
from partymq.message.dead_letter import DeadMessage, KeyOf, describe, is_fence, revived, routing_key_of
from partymq.message.stamp import fence_header
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.holdings import weight
from partymq.router.publish.outlet import UNLIMITED, Outlet, Refused, Sink

PREFETCH = 500
PREFETCH_MAX = 65_535
ARRIVED_MOST = 64 * 1024**2
"""Bytes that wait to be looked at, beyond which nothing is read for a while."""
LISTED_MOST = 100_000
"""Messages that are told of at once: about 100 MB."""
LOOKS = 3
"""Before it is proven that an empty queue is one: a busy one may look like that."""
QUIET = 0.3
"""Seconds without a delivery after which an empty queue is at its end."""
LAST_CONFIRMS = 5.0
"""Seconds that an interrupted replay waits for what is on its way."""

Choice = Callable[[DeadMessage], bool]


class _Dead(NamedTuple):
    tag: int
    header: bytes
    body_frames: bytes
    message: DeadMessage


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What has happened so far."""

    there: int
    """Messages that were in the queue at the beginning: those that come later are left alone."""
    chosen: int = 0
    done: int = 0
    """Chosen messages that are dealt with for good."""


class DeadQueue:
    """One group's dead queue, as it is when it is opened; make one with `open`. Use it once.

    `choose` says which messages are meant, `limit` how many of them at most (None: all), oldest first.
    """

    def __init__(
        self,
        *,
        link: DataConnection,
        topology: Topology,
        channel: Channel,
        address: BrokerAddress,
        names: Names,
        there: int,
        key_of: KeyOf,
    ) -> None:
        self._link = link
        self._topology = topology
        self._channel = channel
        self._address = address
        self._names = names
        self._key_of = key_of
        self.outcome = Outcome(there=there)

    @classmethod
    @asynccontextmanager
    async def open(cls, address: BrokerAddress, group: GroupId, key_of: KeyOf) -> AsyncIterator[Self]:
        """Connect; BrokerError if there is no such queue. What is not dealt with in the end stays as it was."""
        title, names = f"partymq dead {group}", Names(group)
        topology = await Topology.open(address, name=title)
        try:
            state = await topology.poll(names.dead)
            if state is None:
                raise BrokerError(
                    f"There is no queue {names.dead!r} on {address.where} (virtual host "
                    f"{address.vhost!r}): is the group's name right, and was the group ever routed there?"
                )
            connection = await Connection.open(address, name=title)
            try:
                link = DataConnection(connection)
                async with asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(link.watch())
                    yield cls(
                        link=link,
                        topology=topology,
                        channel=await link.channel(),
                        address=address,
                        names=names,
                        there=await _depth(link, topology, names.dead),
                        key_of=key_of,
                    )
                    watch.cancel()
                await connection.close()
            finally:
                connection.abort()
        finally:
            await topology.close()

    async def list(self, choose: Choice | None, *, limit: int | None) -> list[DeadMessage]:
        """The chosen messages, not more than `LISTED_MOST`; all of them stay, in their order."""
        limit = LISTED_MOST if limit is None else min(limit, LISTED_MOST)
        prefetch = PREFETCH_MAX if choose else min(limit, PREFETCH_MAX)
        return [dead.message async for dead in self._chosen(choose, limit, prefetch=prefetch)]

    async def drop(self, choose: Choice | None, *, limit: int | None) -> None:
        """Remove the chosen messages for good."""
        async with self._settling() as outgoing:
            async for dead in self._chosen(choose, limit):
                outgoing.settle(dead.tag)

    async def replay(self, choose: Choice | None, *, source: str, limit: int | None) -> None:
        """Publish the chosen messages to the source queue anew."""
        async with self._way_to(source) as exchange, self._settling() as outgoing:
            async for dead in self._chosen(choose, limit):
                frame = publish_frame(self._channel.number, exchange, routing_key_of(dead.header))
                outgoing.publish(frame, revived(dead.header, self._address.username), dead.body_frames, dead.tag)

    @asynccontextmanager
    async def _settling(self) -> AsyncIterator["_Outgoing"]:
        """In the end, interrupted or not, what was begun is finished: an acknowledgement may be lost until then."""
        outgoing = _Outgoing(self._link, self._channel, self._names.dead, self.outcome)
        await outgoing.open()
        try:
            yield outgoing
            await outgoing.prove()
        except asyncio.CancelledError:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_CONFIRMS):
                    await outgoing.prove()
            raise
        finally:
            await self._channel.close()

    async def _chosen(
        self, choose: Choice | None, limit: int | None, *, prefetch: int | None = None
    ) -> AsyncGenerator[_Dead, None]:
        """The chosen ones of those that were there; without that bound, what dies again would be replayed for ever."""
        if prefetch is None:
            prefetch = PREFETCH if choose is None else PREFETCH_MAX  # those that are not chosen are held until the end
        if limit == 0:
            return
        async with aclosing(self._deliveries(prefetch)) as deliveries:
            async for dead in deliveries:
                if choose is None or choose(dead.message):
                    self.outcome.chosen += 1
                    yield dead
                    if self.outcome.chosen == limit:
                        return

    async def _deliveries(self, prefetch: int) -> AsyncGenerator[_Dead, None]:
        arrived: asyncio.Queue[_Dead] = asyncio.Queue()
        waiting = 0  # bytes in it

        def weigh(change: int) -> None:
            nonlocal waiting
            waiting += change
            if waiting > ARRIVED_MOST:
                self._link.hold(True)
            elif not waiting:
                self._link.hold(False)

        def on_delivery(tag: int, _origin: bytes, header: bytes, body_frames: bytes) -> None:
            if is_fence(header):
                self._channel.ack(tag)
                return
            message = describe(self._names, header, body_frames, self._key_of)
            weigh(weight(header, body_frames))
            arrived.put_nowait(_Dead(tag, header, body_frames, message))

        queue = self._names.dead
        await self._channel.consume(queue, on_delivery, prefetch=prefetch, on_cancel=self._link.cancelled(queue))
        try:
            for seen in range(self.outcome.there):
                while True:
                    try:
                        async with asyncio.timeout(QUIET):
                            dead = await arrived.get()
                        break
                    except TimeoutError:
                        if await self._nothing_comes() and arrived.empty():
                            return  # somebody else has taken the rest
                        if seen - self.outcome.done >= PREFETCH_MAX and arrived.empty():
                            raise BrokerError(
                                f"{seen} messages were looked at, and the broker gives no more while {PREFETCH_MAX} of "
                                "them are neither replayed nor dropped: choose so that the oldest are among them"
                            ) from None
                weigh(-weight(dead.header, dead.body_frames))
                yield dead
        finally:
            self._channel.redirect(_nobody)
            self._link.hold(False)

    async def _nothing_comes(self) -> bool:
        """Whether nothing stands in the queue, and nothing is on its way here.

        The second answer comes behind whatever the queue had sent before the first question got there. We consume, so a
        true one counts us at least.
        """
        await self._channel.inspect(self._names.dead)
        ready, consumers = await self._channel.inspect(self._names.dead)
        return not ready and consumers > 0

    @asynccontextmanager
    async def _way_to(self, source: str) -> AsyncIterator[str]:
        exchange = self._names.replay
        if await self._topology.poll(source) is None:
            raise SourceMissingError(f"The source queue {source!r} does not exist: declare it, or name another one.")
        await self._topology.delete_exchange(exchange)  # one that an interrupted replay has left may lead elsewhere
        try:
            await self._topology.declare_detour(exchange, source)
        except AccessRefusedError as error:
            raise AccessRefusedError(
                f"A replay publishes to the source queue, which the user may not: {error} Name one with --uri who has "
                f"the permission to write {source!r}."
            ) from error
        try:
            yield exchange
        finally:
            await self._topology.delete_exchange(exchange)


async def _depth(link: DataConnection, topology: Topology, queue: str) -> int:
    """The queue's ready messages; BrokerError while its leader does not answer."""
    for _ in range(LOOKS):
        state = await topology.poll(queue)
        if isinstance(state, QueueState):
            return state.ready
        await asyncio.sleep(QUIET)
    if not await _is_empty(link, queue):
        raise BrokerError(f"The queue {queue!r} does not answer: it has no leader now, or is busy. Try again.")
    return 0


async def _is_empty(link: DataConnection, queue: str) -> bool:
    """Whether the queue is empty by an answer that counts a consumer of ours, for zeros alone are none."""
    held = asyncio.Event()
    channel = await link.channel()
    try:
        await channel.consume(queue, lambda *_: held.set(), prefetch=1, on_cancel=link.cancelled(queue))
        await channel.inspect(queue)
        ready, consumers = await channel.inspect(queue)  # behind whatever the first one found under way
        return consumers > 0 and not ready and not held.is_set()
    finally:
        await channel.close()


def _nobody(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """It goes back when the channel is closed."""


class _Outgoing:
    """Publishes messages, and acknowledges each when it is confirmed."""

    def __init__(self, link: DataConnection, channel: Channel, dead: str, outcome: Outcome) -> None:
        self._link = link
        self._channel = channel
        self._outcome = outcome
        self._outlet = outlet = Outlet(channel)
        self._dead = Sink(outlet, publish_frame(channel.number, "", dead), UNLIMITED, refused=self._refused)
        self._failed = asyncio.Event()

    async def open(self) -> None:
        """Prepares the channel."""
        await self._outlet.open()
        self._channel.on_return(self._on_return)

    def publish(self, frame: bytes, header: bytes, body_frames: bytes, tag: int) -> None:
        """Sends a message on its way; `tag` is settled when it has arrived."""
        sink = Sink(self._outlet, frame, UNLIMITED, refused=self._refused)
        self._outlet.publish(sink, header, body_frames, self, tag)

    def settle(self, tag: int) -> None:
        """Takes a message out of the dead queue."""
        self._channel.ack(tag)
        self._outcome.done += 1

    async def prove(self) -> None:
        """Returns when all that was published has arrived and all acknowledgements took effect, or something failed.

        The broker does not confirm acknowledgements, and drops those that it has not handed to the queue yet when the
        channel is closed; but it has handed over all of them when it confirms what the channel published to the same
        queue last (see `broker.fences`).
        """
        await unless(self._failed, self._confirmed())
        self._outlet.publish(self._dead, fence_header("dead", expires=True, urgent=True), b"", None, 0)
        await unless(self._failed, self._confirmed())

    async def _confirmed(self) -> None:
        await self._outlet.barrier()

    def confirmed(self, tag: int) -> None:
        """A message has arrived, unless it came back: then it is confirmed, too."""
        if not self._failed.is_set():
            self.settle(tag)

    def stays(self, tag: int) -> None:
        """Nothing is diverted here."""

    def keeps(self, _tag: int) -> bool:
        """Likewise."""
        return True

    def leaves(self, tag: int) -> None:
        """Likewise."""

    def _refused(self, _message: Refused) -> None:
        self._fail("The broker could not store a replayed message (basic.nack)")

    def _on_return(self, message: Returned) -> None:
        self._fail(f"A replayed message does not get to the source queue: {message}")

    def _fail(self, what: str) -> None:
        self._failed.set()
        self._link.fail(BrokerError(f"{what}. It and all that follow stay in the dead queue."))
