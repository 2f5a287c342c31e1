"""The broker that tests use, and queues of their own on it.

Invariant: a queue made here has a name that nobody else has, and is gone after its `async with` block.
"""

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit, urlunsplit

import aio_pika
import aiohttp
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity

DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5673/"
QUORUM = {"x-queue-type": "quorum"}
ONE_ACTIVE_CONSUMER = {**QUORUM, "x-single-active-consumer": True}


def amqp_url() -> str:
    """The broker's address, from `PARTYMQ_AMQP_URL` or the one that `hack/broker.sh up` starts."""
    return os.environ.get("PARTYMQ_AMQP_URL", DEFAULT_URL)


def management_url() -> str:
    """The management API's address with credentials, from `PARTYMQ_MANAGEMENT_URL` or beside the default broker."""
    url = urlsplit(os.environ.get("PARTYMQ_MANAGEMENT_URL", "http://127.0.0.1:15673"))
    if url.username is None:
        broker = urlsplit(amqp_url())
        url = url._replace(netloc=f"{broker.username or 'guest'}:{broker.password or 'guest'}@{url.netloc}")
    return urlunsplit(url).rstrip("/")


def unique(prefix: str) -> str:
    """A name that no other test has."""
    return f"{prefix}-{secrets.token_hex(4)}"


@asynccontextmanager
async def temporary_queue(url: str, prefix: str, arguments: Mapping[str, object] | None = None) -> AsyncIterator[str]:
    """The name of a durable queue that is deleted in the end, with whatever is in it."""
    name = unique(prefix)
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(name, durable=True, arguments=dict(arguments or {}))  # type: ignore[arg-type]
    try:
        yield name
    finally:  # by another connection: the broker may have been restarted meanwhile
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(name)


@asynccontextmanager
async def policy(
    pattern: str, definition: Mapping[str, object], *, operator: bool = False, priority: int = 0, apply_to: str = "all"
) -> AsyncIterator[str]:
    """A policy by the management API, by its name; it is gone in the end."""
    name, vhost = unique("policy"), quote(urlsplit(amqp_url()).path.removeprefix("/") or "/", safe="")
    path = f"{management_url()}/api/{'operator-policies' if operator else 'policies'}/{vhost}/{name}"
    body = {"pattern": pattern, "definition": definition, "priority": priority, "apply-to": apply_to}
    async with aiohttp.ClientSession(raise_for_status=True) as api:
        await api.put(path, json=body)
        try:
            yield name
        finally:
            await api.delete(path)


class Depths:
    """Ready messages of queues, asked for again and again over one connection."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None

    async def ready(self, queue: str) -> int | None:
        """A queue's ready messages; None if there is no such queue."""
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel()
        try:
            return (await self._channel.get_queue(queue)).declaration_result.message_count
        except ChannelNotFoundEntity:
            return None


async def depth(url: str, queue: str) -> tuple[int, int]:
    """A queue's ready messages and its consumers."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        result = (await channel.get_queue(queue)).declaration_result
        return result.message_count or 0, result.consumer_count or 0
