"""Producers that never end for long.

Invariant: a producer whose connection breaks does not know what the broker has, so it is over, and the next one has
other keys: within a key the order of the source is always known.
"""

import asyncio

from support.group import Group
from support.processes import Client

AGAIN_AFTER = 1.0
MOST_KEYLESS = 1_000_000
"""Messages without a key that one producer sends, at most."""


class Load:
    """A steady producer, and bursts."""

    def __init__(self, group: Group, *, rate: float, keys: int) -> None:
        self._group = group
        self._rate = rate
        self._keys = keys
        self._steady: Client | None = None
        self._count = 0
        self._stopping = False
        self.bursting = False
        self.large = False
        """True while large messages are being published."""

    async def run(self) -> None:
        """Produce until `stop`."""
        while not self._stopping:
            self._steady = await self._producer(
                rate=self._rate, keys=self._keys, keyless=0.02, first_keyless=self._count * MOST_KEYLESS
            )
            await self._steady.over()
            if not self._stopping:
                await asyncio.sleep(AGAIN_AFTER)

    async def burst(self, messages: int) -> None:
        """So many messages as fast as they are confirmed."""
        self.bursting = True
        producer = await self._producer(rate=0.0, keys=50, count=messages)
        await producer.over()
        self.bursting = False

    async def publish_large(self, messages: int, size: int) -> None:
        """So many messages of that size."""
        self.large = True
        producer = await self._producer(rate=0.0, keys=5, count=messages, size=size)
        await producer.over()
        self.large = False

    async def _producer(self, **options: object) -> Client:
        self._count += 1
        return await self._group.clients.producer(self._group.source, name=f"p{self._count}", **options)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Let the steady one end once all is confirmed; `run` returns then."""
        self._stopping = True
        if self._steady is not None:
            self._steady.terminate()
