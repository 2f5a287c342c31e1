"""The process's own HTTP endpoints: probes and metrics, and whatever it serves beside them.

Invariant: an answer is made from what is in memory: a probe never waits for the broker, the API server or another
thread, nor for other connections. What somebody sends that is no HTTP is answered with 400, and fills no log: none of
its bytes stand there, for they may be a token.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from partymq.errors import InvalidSpecError
from partymq.http.connections import Connections
from partymq.limits import Limits

log = logging.getLogger(__name__)

STRANGERS_EVERY: Final = 60.0
"""Seconds between two lines about what is no HTTP."""
KEPT_ALIVE: Final = 30.0
"""Seconds for which a connection without a request may stay open, as far as `connections` lets it."""
LINGERING: Final = 2.0
"""Seconds for which the rest of a body that nobody reads is waited for."""
AT_ONCE: Final = frozenset(("/healthz", "/readyz", "/metrics"))
"""Paths that are answered however many other requests wait."""
_BEFORE: Final = frozenset(f"partymq.http.{name}" for name in ("auth", "connections", "origins", "problems"))
"""What a request passes on its way to a handler."""

Check = Callable[[], str]
"""What is wrong, as a sentence; empty if nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What the endpoints show."""

    alive: Check
    ready: Check
    metrics: Callable[[], bytes]


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    routes: Iterable[web.RouteDef],
    *,
    what: str = "/healthz, /readyz and /metrics",
    option: str = "http-port",
    middlewares: Iterable[Middleware] = (),
    max_body: int = 1024,
    connections: int = Limits().connections,
) -> AsyncIterator[int]:
    """Answer until the block is over; gives the port, which the system chooses for 0.

    `what` and `option` say to people what is served, and which setting the port comes from.
    """
    guard = Connections(connections, at_once=AT_ONCE)
    application = web.Application(middlewares=(guard.middleware, *middlewares), client_max_size=max_body)
    application.add_routes(routes)
    runner = web.AppRunner(
        application,
        handle_signals=False,
        access_log=None,
        shutdown_timeout=1.0,
        logger=_ServerLog(what),
        auto_decompress=False,  # a few bytes could be gigabytes
        keepalive_timeout=KEPT_ALIVE,
        lingering_time=LINGERING,
    )
    await runner.setup()
    assert runner.server is not None
    guard.server = runner.server
    watching = asyncio.create_task(guard.watch(), name=f"connections of {what}")
    listening: asyncio.Server | None = None
    try:
        try:
            listening = await asyncio.get_running_loop().create_server(guard.protocol, host, port, reuse_address=True)
        except OSError as error:
            variable = f"PARTYMQ_{option.upper().replace('-', '_')}"
            raise InvalidSpecError(
                f"--{option} {port} ({variable}): {host}:{port} cannot be served ({error.strerror})."
            ) from error
        bound: int = listening.sockets[0].getsockname()[1]
        log.info("Serving %s at %s:%d", what, host, bound)
        yield bound
    finally:
        if listening is not None:
            listening.close()
        watching.cancel()
        await asyncio.wait({watching})
        await runner.cleanup()


class _ServerLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs; of what is no HTTP (a TLS hello, a port scan) a line now and then in place of a traceback."""

    def __init__(self, what: str) -> None:
        super().__init__(logging.getLogger("aiohttp.server"))
        self._what = what
        self._told = float("-inf")

    def debug(self, msg: object, *args: object, exc_info: Any = None, **more: Any) -> None:  # noqa: ANN401 - as in logging
        if not self._stranger(exc_info, args):
            super().debug(msg, *args, exc_info=exc_info, **more)

    def exception(self, msg: object, *args: object, exc_info: Any = True, **more: Any) -> None:  # noqa: ANN401
        if not self._stranger(exc_info, args):
            super().exception(msg, *args, exc_info=exc_info, **more)

    def _stranger(self, error: object, args: tuple[object, ...]) -> bool:
        if not isinstance(error, BaseException) or _ours(error.__traceback__):
            return False
        if time.monotonic() - self._told >= STRANGERS_EVERY:
            self._told = time.monotonic()
            who, kind = args[0] if args else "?", type(error).__name__
            log.info("%s sent what is no HTTP to %s (plain HTTP, no TLS): %s", who, self._what, kind)
        return True


def _ours(trace: TracebackType | None) -> bool:
    """Whether our own code was at work, and not only what reads requests."""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        if module.startswith("partymq.") and module not in _BEFORE:
            return True
        trace = trace.tb_next
    return False


def probes(views: Views) -> list[web.RouteDef]:
    """What kubelets and Prometheus ask for."""

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(views.alive())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(views.alive() or views.ready())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=views.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]


def _verdict(wrong: str) -> web.Response:
    return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)
