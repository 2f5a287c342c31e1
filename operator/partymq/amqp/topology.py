"""The second connection: declarations and depth polls.

Invariant: nothing here can disturb the data connection: a missing queue or other arguments close a channel of this one.
`message_count` is the exact number of ready messages, `consumer_count` counts consumers that are active or were cancelled
while they held messages.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel

from partymq.amqp import tls
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, ConnectionLostError

DELIVERY_LIMIT: Final = 1_000_000
"""Large and finite: every handoff counts as a delivery, and without a limit a return would go to the tail."""
CONSUMER_TIMEOUT: Final = 31_536_000_000
"""A year in ms: the broker's default of 30 minutes would take messages from those that still hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What a passive declaration tells of a queue."""

    ready: int
    consumers: int


class Topology:
    """Declares, polls and deletes; one call does not disturb another."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._polls: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    @classmethod
    async def open(cls, address: BrokerAddress, *, name: str) -> "Topology":
        """Connects; raises `ConnectionLostError`."""
        try:
            connection = await aio_pika.connect(
                host=address.host,
                port=address.port,
                login=address.username,
                password=address.password,
                virtualhost=address.vhost,
                ssl=address.tls is not None,
                ssl_context=tls.context(address.tls) if address.tls is not None else None,
                client_properties={"connection_name": name},
                timeout=10,
            )
        except (OSError, TimeoutError, aiormq.exceptions.AMQPError) as error:
            raise ConnectionLostError(
                f"cannot connect to the broker at {address.host}:{address.port}: {error}"
            ) from error
        return cls(connection)

    async def watch(self) -> None:
        """Raises when the connection is lost."""
        lost = asyncio.get_running_loop().create_future()
        self._connection.close_callbacks.add(lambda *_: lost.done() or lost.set_result(None))
        await lost
        raise ConnectionLostError("the connection for declarations broke")

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def declare_quorum(
        self, queue: str, *, single_active: bool = False, dead_letter_exchange: str | None = None
    ) -> None:
        """Declares a durable quorum queue of ours."""
        arguments: dict[str, str | int | bool] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-consumer-timeout": CONSUMER_TIMEOUT,
        }
        if single_active:
            arguments["x-single-active-consumer"] = True
        if dead_letter_exchange is not None:
            arguments["x-dead-letter-exchange"] = dead_letter_exchange
        channel = await self._channel()
        try:
            await channel.queue_declare(queue, durable=True, arguments=dict(arguments))
        except aiormq.exceptions.AMQPError as error:
            raise _refused(f"declare queue {queue!r}", error) from error
        finally:
            await channel.close()

    async def declare_dead_letters(self, exchange: str, queue: str) -> None:
        """Declares where rejected messages go: those with a stamp to `queue`, fences nowhere."""
        await self.declare_quorum(queue)
        channel = await self._channel()
        try:
            await channel.exchange_declare(exchange, exchange_type="headers", durable=True)
            await channel.queue_bind(queue, exchange, arguments={"x-match": "all-with-x", "x-partymq-epoch": None})
        except aiormq.exceptions.AMQPError as error:
            raise _refused(f"declare exchange {exchange!r}", error) from error
        finally:
            await channel.close()

    async def poll(self, queue: str) -> QueueState | None:
        """The queue's state now; None where there is no such queue."""
        channel = await self._poll_channel()
        try:
            answer = await channel.queue_declare(queue, passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return None
        except aiormq.exceptions.AMQPError as error:
            # Another poll's missing queue has closed the channel under this one.
            if not self._connection.is_closed and channel.is_closed:
                return await self.poll(queue)
            raise _refused(f"look at queue {queue!r}", error) from error
        return QueueState(ready=answer.message_count or 0, consumers=answer.consumer_count or 0)

    async def purge(self, queue: str) -> None:
        """Drops the ready messages of a queue."""
        await self._once(queue, "purge", lambda channel: channel.queue_purge(queue))

    async def delete(self, queue: str) -> None:
        """Deletes a queue, whatever it holds."""
        await self._once(queue, "delete", lambda channel: channel.queue_delete(queue))

    async def delete_exchange(self, exchange: str) -> None:
        """Deletes an exchange."""
        await self._once(exchange, "delete", lambda channel: channel.exchange_delete(exchange))

    async def _once(self, name, what, action) -> None:
        channel = await self._channel()
        try:
            await action(channel)
        except aiormq.exceptions.AMQPError as error:
            raise _refused(f"{what} {name!r}", error) from error
        finally:
            await channel.close()

    async def _poll_channel(self) -> AbstractChannel:
        async with self._opening:
            if self._polls is None or self._polls.is_closed:
                self._polls = await self._channel()
            return self._polls

    async def _channel(self) -> AbstractChannel:
        try:
            transport = self._connection.transport
            if transport is None:
                raise ConnectionLostError("the connection for declarations is closed")
            return await transport.connection.channel(publisher_confirms=False)
        except (aiormq.exceptions.AMQPError, RuntimeError) as error:
            raise ConnectionLostError(f"the connection for declarations broke: {error}") from error


def _refused(what: str, error: Exception) -> BrokerError:
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return AccessRefusedError(
            f"the broker does not allow us to {what}: {error}; give the user configure, write and read"
        )
    if isinstance(error, aiormq.exceptions.ChannelPreconditionFailed):
        return BrokerError(f"cannot {what}: it exists with other arguments ({error}); delete it if it is not in use")
    if isinstance(error, aiormq.exceptions.AMQPConnectionError | aiormq.exceptions.ChannelInvalidStateError):
        return ConnectionLostError(f"the connection for declarations broke: {error}")
    return BrokerError(f"cannot {what}: {error}")
