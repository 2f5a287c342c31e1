"""Waiting for what a test expects, with a deadline and without guessing how long it takes."""

import asyncio
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    otherwise: str | Callable[[], str],
    deadline: float = 30.0,
    *,
    every: float = 0.05,
    clock: Callable[[], float] | None = None,
) -> float:
    """Wait until the condition holds and return the seconds that took; fail with `otherwise` after the deadline.

    `clock` says which seconds count, the loop's unless told: these are virtual where time is, and another clock may
    stand still while nothing can be expected.
    """
    clock = clock or asyncio.get_running_loop().time
    started = clock()
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        waited = clock() - started
        if holds:
            return waited
        if waited > deadline:
            what = otherwise if isinstance(otherwise, str) else otherwise()
            raise AssertionError(f"not within {deadline:g} s: {what}")
        await asyncio.sleep(every)


async def stays(
    condition: Callable[[], bool], otherwise: str | Callable[[], str], seconds: float, *, every: float = 0.02
) -> None:
    """See that the condition holds for so many seconds; fail with `otherwise` as soon as it does not."""
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    while clock() < until:
        if not condition():
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        await asyncio.sleep(every)
