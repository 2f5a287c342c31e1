"""The token of a namespace opens its groups and no others, and is known again when its Secret changes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from partymq.core.names import Names
from partymq.core.spec import ClientsSpec, GroupId
from partymq.errors import InvalidSecretError, PartyMQError
from partymq.http import tokens as module
from partymq.http.clients import api, middlewares
from partymq.http.groups import Groups
from partymq.http.server import serve
from partymq.http.tokens import NamespaceTokens
from partymq.router.client_service import ClientService, NotRoutingError

ALL, SHOP, MALL = "the-token-for-everything", "the-token-of-the-shop", "the-token-of-the-mall"
ORDERS = GroupId(namespace="shop", name="orders")
SAME = GroupId(namespace="mall", name="orders")
PAYMENTS = GroupId(namespace="mall", name="payments")


class Secrets:
    """Those of namespaces, as an API server has them."""

    def __init__(self, **tokens: str) -> None:
        self.entries: dict[str, Mapping[str, str]] = {name: {"token": token} for name, token in tokens.items()}
        self.error: PartyMQError | None = None
        self.reads: list[str] = []

    async def read(self, namespace: str) -> Mapping[str, str] | None:
        self.reads.append(namespace)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.entries.get(namespace)


@pytest.fixture
def secrets() -> Secrets:
    return Secrets(shop=SHOP, mall=MALL)


class _AwayError(PartyMQError):
    """The API server cannot be asked."""


@asynccontextmanager
async def served(
    secrets: Secrets, *, token: str = ALL, known: tuple[GroupId, ...] = (ORDERS, SAME, PAYMENTS), unready: str = ""
) -> AsyncIterator["Asked"]:
    def service(group: GroupId) -> ClientService:
        return ClientService(names=Names(group), spec=ClientsSpec(exchange="x"), session=lambda: None)

    groups = Groups(known=lambda: known, service=service, unready=lambda: unready)
    tokens = NamespaceTokens(secrets.read)
    before = middlewares(token, host="127.0.0.1", tokens=tokens, candidates=groups.namespaces)
    routes = api(groups, dict)
    async with serve("127.0.0.1", 0, routes, middlewares=before) as port, aiohttp.ClientSession() as session:
        yield Asked(port, session)
    await tokens.close()


class Asked:
    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self._port = port
        self._session = session

    async def __call__(self, path: str, token: str | None) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self._session.get(f"http://127.0.0.1:{self._port}{path}", headers=headers) as answer:
            body: Any = await answer.json()
            return answer.status, body.get("detail", "")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group without a session answers 503 at once: it is found, and its door is open."""
    monkeypatch.setattr("partymq.router.client_service.WAIT", 0.0)


LONG = "/namespaces/{0.namespace}/groups/{0.name}/clients"


@pytest.mark.parametrize(
    ("group", "opens"),
    [(ORDERS, {ALL, SHOP}), (SAME, {ALL, MALL}), (PAYMENTS, {ALL, MALL})],
    ids=["orders", "same", "payments"],
)
async def test_a_token_opens_what_is_its_own(secrets: Secrets, group: GroupId, opens: set[str]) -> None:
    async with served(secrets) as ask:
        for token in (ALL, SHOP, MALL, "another", "", None):
            status, detail = await ask(LONG.format(group), token)
            assert status == (503 if token in opens else 401), (token, detail)


async def test_a_name_without_a_namespace_is_the_one_that_the_token_opens(secrets: Secrets) -> None:
    async with served(secrets) as ask:
        assert (await ask("/groups/orders/clients", ALL))[0] == 409, "there are two"
        assert (await ask("/groups/orders/clients", SHOP))[0] == 503
        assert (await ask("/groups/orders/clients", MALL))[0] == 503
        status, detail = await ask("/groups/payments/clients", SHOP)
        assert status == 401, "not even that there is one is said"
        assert detail == (await ask("/groups/nothing/clients", SHOP))[1]


async def test_a_token_of_a_namespace_shows_nothing_of_the_process(secrets: Secrets) -> None:
    async with served(secrets) as ask:
        for path in ("/clients", "/openapi.json/", "/namespaces/shop/groups/nothing/clients"):
            assert (await ask(path, SHOP))[0] == 401


async def test_there_need_be_no_token_for_all(secrets: Secrets) -> None:
    async with served(secrets, token="") as ask:
        assert (await ask(LONG.format(ORDERS), SHOP))[0] == 503
        for token in ("", None, MALL):
            assert (await ask(LONG.format(ORDERS), token))[0] == 401


async def test_who_comes_before_the_groups_are_known_is_not_told_that_his_token_is_wrong(secrets: Secrets) -> None:
    async with served(secrets, known=(), unready="Not listed yet.") as ask:
        status, detail = await ask(LONG.format(ORDERS), SHOP)
        assert (status, "Not listed yet." in detail) == (503, True)
        assert (await ask(LONG.format(ORDERS), None))[0] == 401


async def test_no_more_is_asked_of_the_api_server_than_is_needed(secrets: Secrets) -> None:
    async with served(secrets) as ask:
        for _ in range(5):
            await asyncio.gather(*(ask(LONG.format(ORDERS), token) for token in (SHOP, "wrong", MALL)))
        assert secrets.reads == ["shop"]
        await ask("/namespaces/kube-system/groups/orders/clients", "wrong")
        assert secrets.reads == ["shop"], "where there is no group there is nothing to ask for"


# The token itself.


async def accepted(tokens: NamespaceTokens, given: str, namespace: str = "shop") -> bool:
    return bool(await tokens.accepting(f"Bearer {given}".encode(), [namespace]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is; the loop's goes on behind it."""
    now = [1000.0]
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _: now[0])
    return now


async def test_a_new_token_is_taken_up_and_the_old_one_ends(secrets: Secrets, clock: list[float]) -> None:
    tokens, new = NamespaceTokens(secrets.read), "a-new-token-of-the-shop"
    assert await accepted(tokens, SHOP)
    secrets.entries["shop"] = {"token": f"{new}\n"}
    clock[0] += module.REREAD_WRONG
    assert await accepted(tokens, new), "what is refused is looked at again"
    assert not await accepted(tokens, SHOP)
    del secrets.entries["shop"]
    assert await accepted(tokens, new)
    clock[0] += module.REREAD
    assert not await accepted(tokens, new)


async def test_an_api_server_that_is_away_locks_nobody_out(secrets: Secrets, clock: list[float]) -> None:
    tokens = NamespaceTokens(secrets.read)
    secrets.error = _AwayError("away")
    with pytest.raises(NotRoutingError, match="namespace shop cannot be read now"):
        await accepted(tokens, SHOP)
    secrets.error = None
    assert await accepted(tokens, SHOP)
    secrets.error = _AwayError("away")
    clock[0] += 10 * module.REREAD
    assert await accepted(tokens, SHOP)
    assert not await accepted(tokens, "wrong")


@pytest.mark.parametrize(
    "token", ["", "short", "has a blank in its middle", "hat-\u00fc-und-ist-lang-genug", "x" * 2000]
)
async def test_a_token_that_is_none_opens_nothing_and_is_not_told(token: str, caplog: pytest.LogCaptureFixture) -> None:
    secrets = Secrets(shop=token)
    tokens = NamespaceTokens(secrets.read)
    assert not await accepted(tokens, token)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert not token or token not in caplog.text


async def test_a_secret_that_is_not_for_us_is_said_once(secrets: Secrets, clock: list[float]) -> None:
    caplog: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: caplog.append(record.getMessage())  # type: ignore[method-assign]
    module.log.addHandler(handler)
    secrets.error = InvalidSecretError("Secret shop/clients does not carry the label \x1b[31m")
    tokens = NamespaceTokens(secrets.read)
    for _ in range(5):
        assert not await accepted(tokens, SHOP)
        clock[0] += module.REREAD
    module.log.removeHandler(handler)
    assert len(caplog) == 1
    assert caplog[0].isprintable()


async def test_a_secret_without_a_token_is_none(secrets: Secrets) -> None:
    secrets.entries["shop"] = {"uri": "amqp://x"}
    assert not await accepted(NamespaceTokens(secrets.read), "")
    assert not await accepted(NamespaceTokens(secrets.read), "", "nowhere")


def test_routes_of_a_group_name_it() -> None:
    """What `candidates` goes by."""
    groups = Groups(known=lambda: (ORDERS,), service=lambda _: None)
    for route in api(groups, dict):
        assert isinstance(route, web.RouteDef)
        assert "{group}" in route.path or route.path in {"/health", "/openapi.json"}
