"""What a group declares on the broker, and how deep its queues are.

Invariant: a queue of ours always has the same arguments, which the promises rest on: quorum (agreed on and kept), a
delivery limit that is large and finite (the default drops healthy messages after 20 returns, none makes RabbitMQ 4.0
return them to the tail), a consumer timeout of a year (the default takes messages from those who still hold them). Two
more are wishes, without which a queue that was declared before goes on: a short time for which RabbitMQ 4.3 keeps what
clients of a lost node held, and leaders that are spread over a cluster's nodes instead of all with the router.

And nobody takes silence for a zero. RabbitMQ answers a passive declare of a quorum queue with (0, 0) where the queue's
leader does not answer within 250 ms, or where there is none (`rabbit_quorum_queue:stat`, 4.0 to 4.3). So counts come
out of here only where one of them is not zero. The rest is `Silence`, and what that means is to be proven
(`router.broker.settling`, `router.flow.inboxes`).

All this has a connection of its own (`errands`): a refused declaration or a missing queue closes a channel, which ends
a session.

It is our kind of connection and not aio-pika's because of the polls. They are frequent, and run at once they cost
22 us of CPU each against 103 us; and one missing queue is not the answer to all polls on its channel, as it is there.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Self, TypeAlias, TypeVar

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.errands import AGAIN, Errands, explained, one_channel
from partymq.amqp.frames import Arguments
from partymq.amqp.lost_nodes import LostNodes
from partymq.amqp.nodes import Endpoint
from partymq.amqp.our_queues import QUORUM, SINGLE_ACTIVE, WISHES, without
from partymq.amqp.replies import NotExecutedError
from partymq.core.spec import BrokerAddress
from partymq.errors import (
    ChannelClosedError,
    ConnectionLostError,
    ForeignQueueError,
    NoChannelError,
    PartyMQError,
)

T = TypeVar("T")

DECLARES: Final = 8
"""Quorum queues declared at the same time. Each starts a cluster of its own: with a burst of them a busy broker runs
out of time over one, answers INTERNAL_ERROR (541) and closes the connection."""
DECLARE_TRIES: Final = 4
"""Times that the connection may be lost under one declaration."""
PROOFS: Final = 16
"""Leaders asked for an answer at the same time."""
PATIENCE: Final = 15.0
"""Seconds for which a lost connection is opened again before whoever asks is told; a session waits for longer."""

LATE: Final = 0.2
"""Seconds after which zeros are no answer of the queue's: the broker itself gives up after 0.25."""

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_NO_QUEUE: Final = "no queue"


class QueueState(NamedTuple):
    """A queue's ready messages, exactly, and the consumers that are active or left while holding messages.

    Both are zero only where that is proven.
    """

    ready: int
    consumers: int


class Silence(Enum):
    """Zeros, which prove nothing by themselves: `Topology.poll` says when they are given."""

    ZERO = auto()
    """At once: the queue is empty and nobody consumes it, or it has no leader at the moment."""
    LATE = auto()
    """After the time that the broker gives a queue's leader: it did not answer."""


Look: TypeAlias = QueueState | Silence | None
"""What a look at a queue has shown; None where there is no such queue, which the broker knows without asking it."""


def counted(look: QueueState | Silence) -> int | None:
    """The consumers that were seen; None when nobody knows."""
    return look.consumers if isinstance(look, QueueState) else None


class Topology:
    """Declares, polls and deletes on a connection of its own; make one with `open`."""

    def __init__(
        self,
        connection: Connection,
        *,
        reopen: Callable[[], Awaitable[Connection]],
        lost_nodes: LostNodes,
        patience: float,
    ) -> None:
        self._errands = Errands(connection, reopen=reopen, patience=patience)
        self.lost_nodes = lost_nodes
        """Consumers that a queue goes on counting although they are gone."""
        self._loop = asyncio.get_running_loop()
        self._polls: Channel | None = None
        self._replacing = asyncio.Lock()
        self._declaring = asyncio.Semaphore(DECLARES)
        self._proving = asyncio.Semaphore(PROOFS)

    @classmethod
    async def open(
        cls, address: BrokerAddress, *, name: str, near: Endpoint | None = None, patience: float = PATIENCE
    ) -> Self:
        """Connect, to `near` before others; `name` is what the broker's management shows.

        `patience` is for how many seconds a lost connection is waited for.
        """

        def connect() -> Awaitable[Connection]:
            return Connection.open(address, name=name, near=near)

        return cls(await connect(), reopen=connect, lost_nodes=LostNodes(address), patience=patience)

    async def close(self) -> None:
        """Close the connection."""
        await self._errands.close()

    # --- declaring

    async def declare_quorum(
        self, name: str, *, single_active: bool = False, dead_letter_exchange: str | None = None
    ) -> None:
        """Declare a quorum queue of ours."""
        arguments: Arguments = {
            **QUORUM,
            **WISHES,
            **({SINGLE_ACTIVE: True} if single_active else {}),
            **({"x-dead-letter-exchange": dead_letter_exchange} if dead_letter_exchange is not None else {}),
        }
        await self._declare_as_wished(name, arguments, frozenset(WISHES))

    async def declare_segment(self, name: str) -> None:
        """Declare a queue in which messages wait for their owner.

        It has a single active consumer: so a reader that is lost with its node is not counted, nor given anything, any
        more. One that an older version has declared has not.
        """
        await self._declare_as_wished(
            name, {**QUORUM, **WISHES, SINGLE_ACTIVE: True}, frozenset({*WISHES, SINGLE_ACTIVE})
        )

    async def _declare_as_wished(self, name: str, arguments: Arguments, wishes: frozenset[str]) -> None:
        while True:
            try:
                await self._declare(name, arguments)
            except ForeignQueueError as error:
                fewer = without(arguments, str(error), wishes=wishes)
                if fewer is None:
                    raise
                arguments = fewer
            else:
                return

    async def _declare(self, name: str, arguments: Arguments) -> None:
        async with self._declaring:
            await self.errand(
                f"queue {name!r}", lambda channel: channel.declare_queue(name, arguments), tries=DECLARE_TRIES
            )

    async def declare_dead_letters(self, exchange: str, queue: str) -> None:
        """The exchange that takes what consumers reject and drops fences, and the queue behind it.

        Its one binding holds for messages that carry a stamp (`void` asks only that the header is there). No queue has
        a dead-letter routing key, so a message keeps the name of its inbox.
        """

        async def declare(channel: Channel) -> None:
            await channel.declare_exchange(exchange, "headers")
            await channel.bind_queue(queue, exchange, {"x-match": "all-with-x", "x-partymq-epoch": None})

        await self.declare_quorum(queue)
        await self.errand(f"exchange {exchange!r}", declare, tries=DECLARE_TRIES)

    async def declare_detour(self, exchange: str, queue: str) -> None:
        """An exchange that gives `queue`, which exists, all that is published to it, whatever its routing key."""

        async def declare(channel: Channel) -> None:
            await channel.declare_exchange(exchange, "fanout")
            await channel.bind_queue(queue, exchange, {})

        await self.errand(f"exchange {exchange!r} to queue {queue!r}", declare, tries=DECLARE_TRIES)

    async def declare_direct(self, exchange: str) -> None:
        """Declare the exchange to which clients bind queues of their own."""
        await self.errand(
            f"exchange {exchange!r}", lambda channel: channel.declare_exchange(exchange, "direct"), tries=DECLARE_TRIES
        )

    # --- looking

    async def poll(self, queue: str) -> Look:
        """A look at a queue. Those that run at once share round trips."""
        while True:
            channel = await self._polling()
            asked = self._loop.time()
            try:
                return self._look(await channel.inspect(queue), asked)
            except NotExecutedError:
                continue  # a poll before this one found no queue and took the channel with it
            except ChannelClosedError as error:
                # The code alone could also mean that the queue is there and its node is not.
                if error.code == _NOT_FOUND and _NO_QUEUE in error.text:
                    return None
                raise explained(error, f"queue {queue!r}") from error
            except ConnectionLostError as error:
                self._errands.raise_unless_lost(error)

    async def poll_all(self, queues: Sequence[str]) -> list[Look]:
        """Looks at several queues; with one write and one wait where all of them exist, as they mostly do."""
        channel = self._polls
        if channel is not None and not channel.closed.done():
            asked = self._loop.time()
            try:
                return [self._look(counts, asked) for counts in await channel.inspect_all(queues)]
            except (ChannelClosedError, ConnectionLostError):
                pass  # `poll` says why
        return [await self.poll(queue) for queue in queues]

    def _look(self, counts: tuple[int, int], asked: float) -> QueueState | Silence:
        if any(counts):
            return QueueState(*counts)
        return Silence.ZERO if self._loop.time() - asked < LATE else Silence.LATE

    async def answered(self, queue: str) -> None:
        """Returns when the leader of one of our single active consumer queues has answered, which proves that it can.

        It is asked to refuse something: `basic.get`, of which its state machine says for such a queue that it is not
        supported (`rabbit_fifo`, 4.0 to 4.3), once a majority has the question in its log. Nothing of the queue
        changes, and no consumer notices. The broker logs the refusal. Where there is no leader it closes the connection
        over the question, so that is one for this alone. Raises a BrokerError when there was no answer.
        """
        async with self._proving:
            connection = await self._errands.reopen()
            try:
                async with one_channel(connection) as channel:
                    await channel.get(queue)
            except ChannelClosedError as error:
                if error.code != _LOCKED:
                    raise explained(error, f"queue {queue!r}") from error
            finally:
                await connection.close()

    async def queue_type(self, queue: str) -> str | None:
        """The type of a queue (`classic`, `quorum`, `stream`); None where there is none, or we may not ask.

        No method tells it. But who declares a queue that exists as one of another type is told what it is, and no queue
        of a type that does not exist is ever made.
        """

        async def ask(channel: Channel) -> str | None:
            try:
                await channel.declare_queue(queue, {"x-queue-type": "partymq-asks"})
            except ChannelClosedError as error:
                found = re.search(r"'x-queue-type' .* but current is '([\w-]+)'", error.text)
                return found.group(1) if found else None
            return None

        return await self.errand(f"queue {queue!r}", ask)

    # --- emptying and deleting

    async def purge(self, queue: str) -> int:
        """Drop a queue's ready messages; says how many."""
        return await self.errand(f"queue {queue!r}", lambda channel: channel.purge(queue))

    async def delete(self, queue: str) -> int:
        """Delete a queue with all that is in it; says how many messages were ready. A missing queue is no error."""
        return await self.errand(f"queue {queue!r}", lambda channel: channel.delete_queue(queue))

    async def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange. A missing one is no error."""
        await self.errand(f"exchange {exchange!r}", lambda channel: channel.delete_exchange(exchange))

    # --- the connection

    async def errand(self, thing: str, work: Callable[[Channel], Awaitable[T]], *, tries: int | None = None) -> T:
        """Do something to `thing` on a channel of its own, which the broker closes when it refuses.

        Done again where the connection is lost over it: `tries` times, or as long as it can be opened again.
        """
        return await self._errands.run(thing, work, tries=tries)

    @property
    def away_since(self) -> float | None:
        """When the connection was found lost, while it cannot be opened again."""
        return self._errands.away_since

    @property
    def away_for(self) -> PartyMQError | None:
        """Why it cannot."""
        return self._errands.away_for

    async def _polling(self) -> Channel:
        while True:
            if self._polls is not None and not self._polls.closed.done():
                return self._polls
            async with self._replacing:
                if self._polls is None or self._polls.closed.done():
                    try:
                        self._polls = await (await self._errands.connected()).channel()
                    except NoChannelError:
                        await asyncio.sleep(AGAIN)
                    except ConnectionLostError as error:
                        self._errands.raise_unless_lost(error)
