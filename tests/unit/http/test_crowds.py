"""However many connect, and whatever they send: probes are answered, and logs stay small and without what was sent."""

import asyncio
import gzip
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partymq import cli
from partymq.http import clients as clients_module
from partymq.http import connections
from partymq.http.clients import middlewares, routes
from partymq.http.problems import ProblemError
from partymq.http.server import Views, probes, serve
from partymq.router.client_service import ClientService
from support.conditions import eventually

VIEWS = Views(alive=lambda: "", ready=lambda: "", metrics=lambda: b"x" * 4_000_000)
PROBE = b"GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nConnection: close\r\n\r\n"
TOKEN = "of-the-clients"


def nobody(_: web.Request) -> ClientService:
    raise ProblemError(404, "There is no group.")


@asynccontextmanager
async def served(most: int = 20, *more: web.RouteDef, token: str = "") -> AsyncIterator[int]:
    ways = [*probes(VIEWS), *routes("", nobody), *more]
    async with serve("127.0.0.1", 0, ways, middlewares=middlewares(token, host="127.0.0.1"), connections=most) as port:
        yield port


async def spoken(port: int, data: bytes, *, end: bool = False) -> bytes:
    """What is answered until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def connected(port: int, data: bytes = b"") -> socket.socket:
    loop, made = asyncio.get_running_loop(), socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(made, ("127.0.0.1", port))
    await loop.sock_sendall(made, data)
    return made


@asynccontextmanager
async def crowd(port: int, count: int, data: bytes = b"") -> AsyncIterator[list[socket.socket]]:
    """So many connections that have sent this and nothing else."""
    with ExitStack() as stack:
        yield [stack.enter_context(await connected(port, data)) for _ in range(count)]


def is_over(one: socket.socket) -> bool:
    """Whether the other side has ended it; what it has sent before is not looked at."""
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /healthz HT",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /clients/a/bind HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
        b"POST /clients/a/bind HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
        b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_whoever_connects_and_asks_is_answered_however_many_there_are(data: bytes) -> None:
    async def wait(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async with served(20, web.get("/wait", wait)) as port, crowd(port, 100, data):
        for _ in range(5):
            began = time.monotonic()
            assert b" 200 OK" in await spoken(port, PROBE)
            assert time.monotonic() - began < 1


async def test_no_more_connections_stay_than_there_may_be() -> None:
    """Each takes a file, and without one nobody is answered any more."""
    async with served(20) as port, crowd(port, 100) as crowded:
        assert b" 200 OK" in await spoken(port, PROBE)
        assert sum(not is_over(one) for one in crowded) <= 20


async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN", 0.05)
    monkeypatch.setattr(connections, "LOOK_EVERY", 0.01)
    async with served() as port, crowd(port, 5) as silent, crowd(port, 5, b"GET /he") as slow:
        await eventually(lambda: all(map(is_over, silent + slow)), "still there", every=0.01)


async def test_who_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN", 0.05)
    monkeypatch.setattr(connections, "LOOK_EVERY", 0.01)
    async with served() as port:
        before = len(asyncio.all_tasks())
        with await connected(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20):
            await eventually(lambda: len(asyncio.all_tasks()) > before, "not there", every=0.001)
            await eventually(lambda: len(asyncio.all_tasks()) == before, "still there")


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "BODY_WITHIN", 0.05)
    head = b"POST /clients/a/bind HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{"
    async with served() as port:
        assert b" 408 " in await spoken(port, head)


async def test_requests_that_wait_leave_room() -> None:
    waiting = 0

    async def wait(_: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        await asyncio.sleep(3600)
        return web.Response()

    async with served(20, web.get("/wait", wait)) as port, crowd(port, 15, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"):
        await eventually(lambda: waiting == 10, "not all have come")
        answer = await spoken(port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 503 " in answer
        assert b"Retry-After: 1" in answer


def test_as_many_files_may_be_open_as_the_system_lets_us() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        cli._open_more_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# What is no request.

SECRET = b"Bearer the-right-token"
FOLDED = b"GET /clients HTTP/1.1\r\nHost: x\r\nAuthorization:\r\n " + SECRET + b"\r\n\r\n"
HEAD = b"POST /clients/a/bind HTTP/1.1\r\nHost: x\r\n"
MALFORMED = [
    FOLDED,
    b"GET /clients HTTP/1.1\r\nHost: x\r\nAuthorization : " + SECRET + b"\r\n\r\n",
    b"GET /clients HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + SECRET + b"\r\n\r\n",
    b"GET /" + SECRET + b" x HTTP/1.1\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /keys/%00%1b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x1b]0;owned\x07 / HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    HEAD + b"Content-Length: -5\r\n\r\n",
    HEAD + b"Content-Length: x\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SECRET,
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    HEAD + b"Content-Encoding: gzip\r\nContent-Length: 20\r\n\r\n" + b"\x1f\x8b" + SECRET[:18],
    HEAD + b"Content-Encoding: deflate\r\nContent-Length: 7\r\n\r\nrubbish",
    HEAD + b"Content-Length: 400\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(100_000))[:400],
    HEAD + b"Content-Length: 70000\r\n\r\n" + b"[" * 70_000,
    HEAD + b"Content-Length: 60000\r\n\r\n" + b"[" * 60_000,
    HEAD + b"Content-Length: 3\r\n\r\n\xff\xfe\xfd",
    HEAD + b"Content-Type: text/plain; charset=nonsense\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /clients?a=%FF&\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /clients/a/bind?%FF HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET /clients HTTP/1.1\r\nHost: x\r\nCookie: " + b"a=" * 1000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_no_malformed_request_leaves_a_trace(caplog: pytest.LogCaptureFixture, token: str) -> None:
    caplog.set_level(logging.DEBUG)
    async with served(token=token) as port:
        for data in MALFORMED:
            answer = await spoken(port, data, end=True)
            assert b" 500 " not in answer[:40], data
    for record in caplog.records:
        assert record.levelno < logging.WARNING, record.getMessage()
        if record.name != "asyncio":
            assert not record.exc_info, record.getMessage()
            assert "right-token" not in record.getMessage()
            assert record.getMessage().isprintable()
    assert len([record for record in caplog.records if record.levelno >= logging.INFO]) <= 2


async def test_a_client_that_goes_in_the_middle_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with served() as port:
        for data in (HEAD + b"Content-Length: 10\r\n\r\n{", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", PROBE[:20]):
            with await connected(port, data):
                pass
        assert b" 200 OK" in await spoken(port, PROBE)
    assert not [record for record in caplog.records if record.exc_info and record.name != "asyncio"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.fuzz
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [b"GET ", b"POST ", b"/clients", b"/a/bind", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"Host: x\r\n"]
        )
        | st.binary(max_size=12),
        max_size=12,
    )
)
async def test_whatever_is_sent_is_no_defect(caplog: pytest.LogCaptureFixture, parts: list[bytes]) -> None:
    caplog.clear()
    async with served() as port:
        answer = await spoken(port, b"".join(parts), end=True)
    assert b" 500 " not in answer[:40]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
