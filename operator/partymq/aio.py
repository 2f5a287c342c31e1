"""What asyncio lacks.

Invariant: whoever starts a task here has waited for it when the call ends, however it ends: a task that nobody waits
for is destroyed while it is pending.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


def first_error(group: BaseExceptionGroup[BaseException], kind: type[Exception]) -> BaseException:
    """What happened first, of this kind where there is one: the rest of the group are its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = next((one for one in error.exceptions if isinstance(one, kind)), error.exceptions[0])
    return error


async def unless(event: asyncio.Event, work: Coroutine[object, object, T]) -> T | None:
    """The result of `work`, or None when `event` is set first; then it is cancelled, and what it says is dropped."""
    task, interrupt = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        interrupt.cancel()
        await asyncio.gather(task, interrupt, return_exceptions=True)


@asynccontextmanager
async def owned(work: Coroutine[object, object, T]) -> AsyncIterator[asyncio.Task[T]]:
    """A task that is over when the block is."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
