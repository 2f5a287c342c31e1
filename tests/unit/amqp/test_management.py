"""The management API's client against a scripted server."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from partymq.amqp.management import Management
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, ConnectionLostError

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def api(answer: Answer, user: str = "") -> AsyncIterator[Management]:
    """A client of a server that answers every request so."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        return await answer(request)  # type: ignore[arg-type]

    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    address = BrokerAddress(
        host="broker",
        username="guest",
        password="pä:ss",
        vhost="a/b",
        management_uri=f"http://{user}127.0.0.1:{port}/x",
    )
    try:
        async with Management(address) as management:
            yield management
    finally:
        await runner.cleanup()


def listing(tags: object, consumers: object) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"tags": tags} if request.path.endswith("/whoami") else consumers)

    return answer


async def test_the_consumers_of_a_virtual_host_come_by_queue() -> None:
    one = {
        "queue": {"name": "q"},
        "consumer_tag": "t",
        "active": True,
        "ack_required": False,
        "prefetch_count": 7,
        "arguments": {"x-priority": 5},
        "channel_details": {"connection_name": "c -> d", "peer_host": "10.0.0.5", "peer_port": 4},
    }
    going = {"queue": {"name": "q"}, "consumer_tag": "u", "arguments": [], "channel_details": []}
    async with api(listing(["monitoring"], [one, going])) as management:
        found = await management.all_consumers()
    first, second = found["q"]
    assert (first.connection, first.client, first.tag, first.active) == ("c -> d", "10.0.0.5:4", "t", True)
    assert (first.acknowledges, first.prefetch, first.priority) == (False, 7, 5)
    assert second.connection == ""


async def test_the_keys_of_queues_that_are_bound_to_an_exchange() -> None:
    bound = [("queue", "one"), ("exchange", "two"), ("queue", "three")]

    async def answer(request: web.Request) -> web.Response:
        if request.raw_path != "/x/api/exchanges/a%2Fb/an%20exchange/bindings/source":
            return web.Response(status=404)
        return web.json_response([{"destination_type": kind, "routing_key": key} for kind, key in bound])

    async with api(answer) as management:
        assert await management.routing_keys("an exchange") == ("one", "three")
        assert await management.routing_keys("missing") == ()


@pytest.mark.parametrize("tags", [["management"], [], None])
async def test_a_user_who_sees_only_his_own_consumers_is_refused(tags: object) -> None:
    async with api(listing(tags or [], [])) as management:
        with pytest.raises(AccessRefusedError, match="monitoring"):
            await management.all_consumers()


async def test_names_are_quoted_and_the_reason_is_sent() -> None:
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=204 if len(seen) == 1 else 404)

    async with api(answer) as management:
        assert await management.close_connection("1.2.3.4:5 -> 6/7", reason="too late")
        assert not await management.close_connection("gone", reason="too late")
        assert await management.consumers("a queue/1") == []
    assert seen[0].raw_path == "/x/api/connections/1.2.3.4:5%20-%3E%206%2F7"
    assert seen[0].headers["X-Reason"] == "too late"
    assert seen[2].raw_path == "/x/api/queues/a%2Fb/a%20queue%2F1"
    user = base64.b64decode(seen[0].headers["Authorization"].removeprefix("Basic ")).decode()
    assert user == "guest:pä:ss"


async def test_the_address_may_name_another_user() -> None:
    async def answer(request: web.Request) -> web.Response:
        user = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        return web.Response(status=404 if user == "watcher:h@sh" else 401)

    async with api(answer, user="watcher:h%40sh@") as management:
        assert await management.consumers("q") == []


@pytest.mark.parametrize(
    ("response", "error"),
    [
        ({"status": 401}, AccessRefusedError),
        ({"status": 403}, AccessRefusedError),
        ({"status": 500}, BrokerError),
        ({"status": 200, "text": "<html>"}, BrokerError),
    ],
)
async def test_a_failure_is_a_sentence_without_a_password(response: dict[str, object], error: type[Exception]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(**response)  # type: ignore[arg-type]

    async with api(answer, user="watcher:hush@") as management:
        with pytest.raises(error, match="management API") as caught:
            await management.consumers("q")
    assert "hush" not in str(caught.value)


async def test_nobody_there_says_where_to_name_the_address() -> None:
    async with api(listing([], [])) as management:
        pass
    async with Management(BrokerAddress(host="h", management_uri="http://127.0.0.1:1")) as management:
        with pytest.raises(ConnectionLostError, match="management-uri"):
            await management.consumers("q")
