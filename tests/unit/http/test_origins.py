"""Where no token is asked for, no web page makes a browser ask for its reader."""

import socket

import aiohttp
import pytest
from aiohttp import web

from partymq.errors import InvalidSpecError
from partymq.http.clients import middlewares
from partymq.http.server import serve
from partymq.option import Given
from partymq.options import ALLOWED_HOSTS
from partymq.settings import load


async def asked(headers: dict[str, str], *, token: str = "", names: tuple[str, ...] = ()) -> int:
    async def bind(_: web.Request) -> web.Response:
        return web.Response()

    before = middlewares(token, host="0.0.0.0", names=names)
    async with (
        serve("127.0.0.1", 0, [web.post("/clients/a/bind", bind)], middlewares=before) as port,
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/clients/a/bind", headers=headers) as answer,
    ):
        return answer.status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Origin": "http://127.0.0.1"},
        {"Host": "127.0.0.1:8085", "Origin": "http://localhost:8085"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8085", "Origin": "http://evil.example:8085"},
        {"Host": "10.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "svc.evil.example"},
        {"Host": ""},
        {"Host": "[::1"},
    ],
)
async def test_a_page_of_another_site_is_refused(headers: dict[str, str]) -> None:
    assert await asked(headers) in {400, 403}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8085",
        "[::1]:8085",
        "10.1.2.3",
        "localhost",
        "partymq",
        "partymq:8085",
        "partymq_router_1:8085",
        "partymq.queues.svc",
        "partymq.queues.svc.cluster.local:8085",
        "host.docker.internal",
        socket.gethostname(),
    ],
)
async def test_programs_that_ask_by_an_address_or_an_internal_name_are_answered(host: str) -> None:
    assert await asked({"Host": host}) == 200


async def test_a_page_of_the_same_site_is_answered() -> None:
    assert (
        await asked({"Host": "partymq:8085", "Origin": "http://partymq:8085", "Sec-Fetch-Site": "same-origin"}) == 200
    )


@pytest.mark.parametrize("name", ["party.example", "*"])
async def test_a_name_that_is_allowed_is_answered(name: str) -> None:
    assert await asked({"Host": "party.example:8085"}, names=(name,)) == 200
    assert await asked({"Host": "party.example", "Origin": "https://evil.example"}, names=(name,)) == 403


async def test_with_a_token_any_name_will_do() -> None:
    headers = {"Host": "party.example", "Origin": "https://page.example", "Authorization": "Bearer it"}
    assert await asked(headers, token="it") == 200


def test_names_are_read_and_refused() -> None:
    assert ALLOWED_HOSTS.read_all(Given(environ={"PARTYMQ_ALLOWED_HOSTS": " A.example, b ,,*"})) == (
        "a.example",
        "b",
        "*",
    )
    with pytest.raises(InvalidSpecError, match="PARTYMQ_ALLOWED_HOSTS"):
        ALLOWED_HOSTS.read_all(Given(flags={"allowed_hosts": "a/b"}, environ={}))


@pytest.mark.parametrize("token", ["a\nb", "a\r\nX: b", "a b", "\x00", "ä", "a\x1bb", "a\x7f"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_told(token: str) -> None:
    with pytest.raises(InvalidSpecError, match="PARTYMQ_API_TOKEN") as caught:
        load(environ={"PARTYMQ_API_TOKEN": token, "PARTYMQ_CLIENTS_PORT": "1"})
    assert token not in str(caught.value)
