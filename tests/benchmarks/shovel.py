"""RabbitMQ's own shovel: from one queue to another inside the broker, with confirms before acknowledgements."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from support.broker import amqp_url, management_url, unique

PREFETCH = 1000
"""The shovel's default."""
NO_NETWORK = "amqp://"
"""A connection that is a process of the broker, to the virtual host "/" of the node that the shovel runs on."""


@asynccontextmanager
async def shovel(source: str, target: str, *, network: bool) -> AsyncIterator[None]:
    """Moves messages while the block runs, over TCP as between two brokers, or with what only a shovel can do."""
    url = amqp_url().rstrip("/") if network else NO_NETWORK  # to RabbitMQ a path of "/" is the virtual host ""
    name = unique("shovel")
    settings = {
        "src-protocol": "amqp091", "src-uri": url, "src-queue": source, "src-prefetch-count": PREFETCH,
        "dest-protocol": "amqp091", "dest-uri": url, "dest-queue": target, "ack-mode": "on-confirm",
    }  # fmt: skip
    async with aiohttp.ClientSession(base_url=management_url()) as http:
        path = f"/api/parameters/shovel/%2F/{name}"
        async with http.put(path, json={"value": settings}) as answer:
            answer.raise_for_status()
        try:
            yield
        finally:
            async with http.delete(path) as answer:
                answer.raise_for_status()
