"""What is mistyped is named, what is no HTTP fills no log."""

import asyncio
import logging
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from partymq.http.clients import middlewares, routes
from partymq.http.server import serve
from partymq.router.client_service import ClientService

HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(200)


def nobody(_: web.Request) -> ClientService:
    raise AssertionError("a request that cannot be meant reaches no group")


async def called(method: str, path: str, **options: Any) -> tuple[int, str]:  # noqa: ANN401 - JSON
    async with (
        serve("127.0.0.1", 0, routes("", nobody), middlewares=middlewares("", host="127.0.0.1")) as port,
        aiohttp.ClientSession() as session,
        session.request(method, URL(f"http://127.0.0.1:{port}{path}", encoded=True), **options) as answer,
    ):
        assert answer.content_type == "application/problem+json"
        return answer.status, (await answer.json())["detail"]


@pytest.mark.parametrize("body", [{"managd": True}, {"managed": True, "prefetch": 5}, {"Managed": True}])
async def test_a_field_that_is_not_known_is_named_and_binds_nobody(body: dict[str, Any]) -> None:
    status, detail = await called("POST", "/clients/one/bind", json=body)
    assert status == 400
    assert repr(next(iter(body.keys() - {"managed"}))) in detail
    assert '{"managed": true}' in detail


async def test_a_query_is_not_taken_for_a_body() -> None:
    status, detail = await called("POST", "/clients/one/bind?managed=true")
    assert status == 400
    assert "'managed'" in detail


@pytest.mark.parametrize("path", ["/keys/%FF", "/keys/a%ED%A0%80", "/clients/%C3%28"])
async def test_a_path_that_is_no_utf_8_is_a_mistake_of_whoever_asks(path: str) -> None:
    status, detail = await called("GET", path)
    assert status == 400
    assert "UTF-8" in detail


async def spoken(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_what_is_no_http_is_one_line_at_most(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve("127.0.0.1", 0, []) as port:
        for data in (
            HELLO,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"AMQP\x00\x00\x09\x01",
            HELLO,
        ):
            assert b" 400 " in await spoken(port, data)
    lines = [record for record in caplog.records if "no HTTP" in record.getMessage()]
    assert len(lines) == 1
    assert all(record.levelno <= logging.INFO and not record.exc_info for record in caplog.records)
    assert "127.0.0.1 sent what is no HTTP" in lines[0].getMessage()
    assert "\n" not in lines[0].getMessage()
