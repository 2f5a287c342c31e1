"""Trying again what the broker has refused, until it is done or not wanted any more.

Invariant: only the caller notices a refusal: it waits, and everything else goes on.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from partymq.errors import BrokerError

FIRST: Final = 1.0
MOST: Final = 30.0
"""Seconds between tries; each pause is twice as long as the one before."""


async def insist(
    errand: Callable[[], Awaitable[None]],
    *,
    refused: Callable[[BrokerError], None],
    enough: asyncio.Event | None = None,
) -> bool:
    """Returns True when the errand is done, False when `enough` is set before; `refused` is told of each refusal."""
    pause = FIRST
    while True:
        try:
            await errand()
        except BrokerError as error:
            refused(error)
        else:
            return True
        if enough is None:
            await asyncio.sleep(pause)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await enough.wait()
            if enough.is_set():
                return False
        pause = min(2 * pause, MOST)
