"""Every task of a session is awaited by it, however its first steps end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from partymq.errors import BrokerError
from partymq.router.session import Session


def session() -> Session:
    made: Any = object.__new__(Session)
    made._stopping = asyncio.Event()
    return made  # type: ignore[no-any-return]


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


async def test_a_step_that_fails_leaves_no_task() -> None:
    with pytest.raises(BrokerError, match="missing"):
        await session()._unless_stopped(fails())
    assert alone()


async def test_a_step_that_works_leaves_no_task() -> None:
    assert await session()._unless_stopped(works()) == "done"
    assert alone()


async def test_a_step_that_is_not_wanted_any_more_leaves_no_task() -> None:
    stopped = session()
    stopped.stop()
    assert await stopped._unless_stopped(hangs()) is None
    assert alone()


@pytest.mark.parametrize("step", [hangs, fails_when_cancelled])
async def test_a_session_that_is_cancelled_leaves_no_task(step: Any) -> None:  # noqa: ANN401
    work: Coroutine[object, object, str] = step()
    running = asyncio.create_task(session()._unless_stopped(work))
    for _ in range(3):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert alone()
