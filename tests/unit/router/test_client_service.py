"""Requests that wait for a session share one wait, and there are not more clients than there may be."""

import asyncio
import time
from contextlib import suppress

import pytest

from partymq.core.clients import ClientKind
from partymq.core.ledger import empty
from partymq.core.names import Names
from partymq.core.pinning import TooManyClientsError, check_room
from partymq.core.rate import TooOftenError
from partymq.core.spec import ClientsSpec, GroupId
from partymq.router import client_service as registry_module
from partymq.router.client_service import ClientService, NotRoutingError
from partymq.router.session.session import Session
from unit.router.doubles import FakeSession

LEDGER = empty(4)
NAMES = Names(GroupId(namespace="shop", name="orders"))


class Sessions:
    """What a registry is told of sessions; counts how often it asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.now: Session | None = None

    def __call__(self) -> Session | None:
        self.asked += 1
        return self.now


def service(sessions: Sessions) -> ClientService:
    return ClientService(names=NAMES, spec=ClientsSpec(exchange="x"), session=sessions)


async def test_thousands_of_requests_share_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "WAIT", 1.0)
    sessions = Sessions()
    asking = service(sessions)
    began = time.process_time()
    found = await asyncio.gather(*(asking.ledger() for _ in range(3000)), return_exceptions=True)
    assert all(isinstance(one, NotRoutingError) for one in found)
    assert sessions.asked < 3 * 3000
    assert time.process_time() - began < 1.0


async def test_a_session_that_begins_is_noticed_by_all_who_wait() -> None:
    sessions = Sessions()
    asking = service(sessions)
    waiting = [asyncio.create_task(asking.ledger()) for _ in range(100)]
    await asyncio.sleep(0)
    sessions.now = FakeSession(LEDGER)
    async with asyncio.timeout(5):
        assert all(ledger is LEDGER for ledger in await asyncio.gather(*waiting))


async def test_who_gives_up_waiting_takes_nobody_with_him() -> None:
    sessions = Sessions()
    asking = service(sessions)
    one, other = (asyncio.create_task(asking.ledger()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    sessions.now = FakeSession(LEDGER)
    async with asyncio.timeout(5):
        assert await other is LEDGER


def test_one_more_client_than_there_may_be_is_refused() -> None:
    known = {"a", "b"}
    check_room(known, "a", 2)
    check_room(known, "c", 3)
    with pytest.raises(TooManyClientsError, match=r"2 clients .* the limit `clients`"):
        check_room(known, "c", 2)


def bind(asking: ClientService, name: str) -> None:
    """As far as the rate goes."""
    asking._check_rate(name)
    asking._bound(name)


async def test_one_that_binds_again_and_again_waits_and_costs_nobody_else() -> None:
    asking = service(Sessions())
    for _ in range(registry_module.BINDS.burst):
        bind(asking, "storm")
    with pytest.raises(TooOftenError, match=r"storm binds again and again: ask again in \d+ seconds") as it:
        bind(asking, "storm")
    assert 0 < it.value.after <= registry_module.BINDS.every
    bind(asking, "another")


async def test_as_many_as_there_may_be_bind_at_once_and_then_not_all_of_them_again_and_again() -> None:
    asking = ClientService(names=NAMES, spec=ClientsSpec(exchange="x", most=50), session=Sessions())
    for number in range(50):
        bind(asking, f"client-{number}")
    with pytest.raises(TooOftenError, match="Clients bind and unbind"):
        bind(asking, "client-0")


async def test_who_is_refused_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _: now[0])
    asking = service(Sessions())
    for _ in range(1000):
        with suppress(TooOftenError):
            bind(asking, "storm")
    now[0] += registry_module.BINDS.every
    bind(asking, "storm")


async def test_while_nobody_routes_nobody_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "WAIT", 0.0)
    asking = service(Sessions())
    for _ in range(2 * registry_module.BINDS.burst):
        with pytest.raises(NotRoutingError):
            await asking.bind("patient", ClientKind.PLAIN)
    bind(asking, "patient")
