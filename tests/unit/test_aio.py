"""What is begun is over when the call is over, whichever comes first."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from partymq.aio import owned, unless
from partymq.errors import BrokerError


async def fails() -> str:
    await asyncio.sleep(0)
    raise BrokerError("a queue is missing")


async def works() -> str:
    await asyncio.sleep(0)
    return "done"


async def hangs() -> str:
    await asyncio.Event().wait()
    return "never"


async def fails_when_cancelled() -> str:
    try:
        await asyncio.Event().wait()
    finally:
        raise BrokerError("the connection is closed")


def alone() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_that_fails_leaves_no_task() -> None:
    with pytest.raises(BrokerError, match="missing"):
        await unless(asyncio.Event(), fails())
    assert alone()


async def test_work_that_is_done_leaves_no_task() -> None:
    assert await unless(asyncio.Event(), works()) == "done"
    assert alone()


@pytest.mark.parametrize("work", [hangs, fails_when_cancelled])
async def test_work_that_is_not_wanted_any_more_leaves_no_task(
    work: Callable[[], Coroutine[object, object, str]],
) -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    assert await unless(event, work()) is None
    assert alone()


@pytest.mark.parametrize("work", [hangs, fails_when_cancelled])
async def test_who_is_cancelled_leaves_no_task(work: Callable[[], Coroutine[object, object, str]]) -> None:
    running = asyncio.create_task(unless(asyncio.Event(), work()))
    for _ in range(3):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert alone()


async def test_a_task_that_is_owned_ends_with_its_block() -> None:
    async with owned(hangs()) as task:
        await asyncio.sleep(0)
        assert not task.done()
    assert task.cancelled()
    assert alone()
