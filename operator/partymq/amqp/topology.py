"""What a group declares on the broker, and how deep its queues are.

Invariant: a queue of ours always has the same arguments, which the promises rest on: quorum (agreed on and kept), a
delivery limit that is large and finite (the default drops healthy messages after 20 returns, none makes RabbitMQ 4.0
return them to the tail), a consumer timeout of a year (the default takes messages from those who still hold them).

All this has a connection of its own: a refused declaration or a missing queue closes a channel, which ends a session.
That connection is our kind and not aio-pika's because of the polls. They are frequent, and run at once they cost
22 us of CPU each against 103 us; and one missing queue is not the answer to all polls on its channel, as it is there.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Self

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.replies import NotExecutedError
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, ChannelClosedError

DELIVERY_LIMIT: Final = 1_000_000
CONSUMER_TIMEOUT: Final = 31_536_000_000
"""Milliseconds: a year."""

DECLARES: Final = 8
"""Quorum queues declared at the same time. Each starts a cluster of its own: with a burst of them a busy broker runs
out of time over one, answers INTERNAL_ERROR (541) and closes the connection."""

_NOT_FOUND: Final = 404
_NO_QUEUE: Final = "no queue"


class QueueState(NamedTuple):
    """A queue's ready messages, exactly, and the consumers that are active or left while holding messages."""

    ready: int
    consumers: int


class Topology:
    """Declares, polls and deletes on a connection of its own; make one with `open`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._polls: Channel | None = None
        self._replacing = asyncio.Lock()
        self._declaring = asyncio.Semaphore(DECLARES)
        self.lost: asyncio.Future[None] = connection.lost

    @classmethod
    async def open(cls, address: BrokerAddress, *, name: str) -> Self:
        """Connect; `name` is what the broker's management shows."""
        return cls(await Connection.open(address, name=name))

    async def watch(self) -> None:
        """Return when the connection is closed; raise when it is lost."""
        await asyncio.wait([self.lost])
        self.lost.result()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def declare_quorum(
        self, name: str, *, single_active: bool = False, dead_letter_exchange: str | None = None
    ) -> None:
        """Declare a quorum queue of ours."""
        arguments: dict[str, int | str | None] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-consumer-timeout": CONSUMER_TIMEOUT,
        }
        if single_active:
            arguments["x-single-active-consumer"] = True
        if dead_letter_exchange is not None:
            arguments["x-dead-letter-exchange"] = dead_letter_exchange
        async with self._declaring, self._scratch(f"queue {name!r}") as channel:
            await channel.declare_queue(name, arguments)

    async def declare_dead_letters(self, exchange: str, queue: str) -> None:
        """The exchange that takes what consumers reject and drops fences, and the queue behind it.

        Its one binding holds for messages that carry a stamp (`void` asks only that the header is there). No queue has
        a dead-letter routing key, so a message keeps the name of its inbox.
        """
        await self.declare_quorum(queue)
        async with self._scratch(f"exchange {exchange!r}") as channel:
            await channel.declare_exchange(exchange, "headers")
            await channel.bind_queue(queue, exchange, {"x-match": "all-with-x", "x-partymq-epoch": None})

    async def declare_detour(self, exchange: str, queue: str) -> None:
        """An exchange that gives `queue`, which exists, all that is published to it, whatever its routing key."""
        async with self._scratch(f"exchange {exchange!r} to queue {queue!r}") as channel:
            await channel.declare_exchange(exchange, "fanout")
            await channel.bind_queue(queue, exchange, {})

    async def declare_direct(self, exchange: str) -> None:
        """Declare the exchange to which clients bind queues of their own."""
        async with self._scratch(f"exchange {exchange!r}") as channel:
            await channel.declare_exchange(exchange, "direct")

    async def poll(self, queue: str) -> QueueState | None:
        """A queue's state, or None when there is no such queue. Polls that run at once share round trips."""
        while True:
            channel = self._polls
            if channel is None or channel.closed.done():
                channel = await self._replace_polls()
            try:
                return QueueState(*await channel.inspect(queue))
            except NotExecutedError:
                continue  # a poll before this one found no queue and took the channel with it
            except ChannelClosedError as error:
                # The code alone could also mean that the queue is there and its node is not.
                if error.code == _NOT_FOUND and _NO_QUEUE in error.text:
                    return None
                raise _explained(error, f"queue {queue!r}") from error

    async def poll_all(self, queues: Sequence[str]) -> list[QueueState | None]:
        """The states of several queues; with one write and one wait where all of them exist, as they mostly do."""
        channel = self._polls
        if channel is not None and not channel.closed.done():
            try:
                return [QueueState(*counts) for counts in await channel.inspect_all(queues)]
            except ChannelClosedError:
                pass  # `poll` says why
        return [await self.poll(queue) for queue in queues]

    async def queue_type(self, queue: str) -> str | None:
        """The type of a queue (`classic`, `quorum`, `stream`); None where there is none, or we may not ask.

        No method tells it. But who declares a queue that exists as one of another type is told what it is, and no queue
        of a type that does not exist is ever made.
        """
        channel = await self._connection.channel()
        try:
            await channel.declare_queue(queue, {"x-queue-type": "partymq-asks"})
        except ChannelClosedError as error:
            found = re.search(r"'x-queue-type' .* but current is '([\w-]+)'", error.text)
            return found.group(1) if found else None
        finally:
            await channel.close()
        return None

    async def purge(self, queue: str) -> int:
        """Drop a queue's ready messages; says how many."""
        async with self._scratch(f"queue {queue!r}") as channel:
            return await channel.purge(queue)

    async def delete(self, queue: str) -> int:
        """Delete a queue with all that is in it; says how many messages were ready. A missing queue is no error."""
        async with self._scratch(f"queue {queue!r}") as channel:
            return await channel.delete_queue(queue)

    async def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange. A missing one is no error."""
        async with self._scratch(f"exchange {exchange!r}") as channel:
            await channel.delete_exchange(exchange)

    async def _replace_polls(self) -> Channel:
        async with self._replacing:
            if self._polls is None or self._polls.closed.done():
                self._polls = await self._connection.channel()
            return self._polls

    @asynccontextmanager
    async def _scratch(self, thing: str) -> AsyncIterator[Channel]:
        """A channel for one errand: the broker closes it when it refuses."""
        channel = await self._connection.channel()
        try:
            yield channel
        except ChannelClosedError as error:
            raise _explained(error, thing) from error
        finally:
            await channel.close()


def _explained(error: ChannelClosedError, thing: str) -> BrokerError:
    match error.code:
        case 404:
            return BrokerError(f"The broker does not find {thing}: {error.text}.")
        case 406:
            return BrokerError(
                f"The broker has another {thing} than PartyMQ declares: {error.text}. If nobody needs what is in it, "
                "delete it, and PartyMQ declares its own."
            )
        case _:
            return error
