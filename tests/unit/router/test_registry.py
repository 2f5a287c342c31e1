"""Requests that wait for a session share one wait, and there are not more clients than there may be."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from partymq.core.names import Names
from partymq.core.pinning import TooManyClientsError, check_room
from partymq.core.spec import ClientsSpec, GroupId
from partymq.router import registry as registry_module
from partymq.router.registry import NotRoutingError, Registry

NAMES = Names(GroupId(namespace="shop", name="orders"))


class Sessions:
    """What a registry is told of sessions; counts how often it asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.now: Any = None

    def __call__(self) -> Any:  # noqa: ANN401 - as little of a session as is looked at
        self.asked += 1
        return self.now


def registry(sessions: Sessions) -> Registry:
    return Registry(names=NAMES, spec=ClientsSpec(exchange="x"), session=sessions)


async def test_thousands_of_requests_share_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "WAIT", 1.0)
    sessions = Sessions()
    asking = registry(sessions)
    began = time.process_time()
    found = await asyncio.gather(*(asking.routing() for _ in range(3000)), return_exceptions=True)
    assert all(isinstance(one, NotRoutingError) for one in found)
    assert sessions.asked < 3 * 3000
    assert time.process_time() - began < 1.0


async def test_a_session_that_begins_is_noticed_by_all_who_wait() -> None:
    sessions = Sessions()
    asking = registry(sessions)
    waiting = [asyncio.create_task(asking.routing()) for _ in range(100)]
    await asyncio.sleep(0)
    serving = object()
    sessions.now = SimpleNamespace(serving=serving, standing_by=False)
    async with asyncio.timeout(5):
        assert set(await asyncio.gather(*waiting)) == {serving}


async def test_who_gives_up_waiting_takes_nobody_with_him() -> None:
    sessions = Sessions()
    asking = registry(sessions)
    one, other = (asyncio.create_task(asking.routing()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    sessions.now = SimpleNamespace(serving="it", standing_by=False)
    async with asyncio.timeout(5):
        assert await other == "it"  # type: ignore[comparison-overlap]


def test_one_more_client_than_there_may_be_is_refused() -> None:
    known = {"a", "b"}
    check_room(known, "a", 2)
    check_room(known, "c", 3)
    with pytest.raises(TooManyClientsError, match=r"2 clients .* the limit `clients`"):
        check_room(known, "c", 2)
