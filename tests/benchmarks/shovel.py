"""RabbitMQ's own shovel: from one queue to another inside the broker, with confirms before acknowledgements."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from support.broker import amqp_url, management_url, unique

PREFETCH = 1000
"""The shovel's default."""


@asynccontextmanager
async def shovel(source: str, target: str) -> AsyncIterator[None]:
    """Moves messages while the block runs."""
    url, name = amqp_url().rstrip("/"), unique("shovel")  # to RabbitMQ a path of "/" is the virtual host ""
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
