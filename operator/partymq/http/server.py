"""The process's own HTTP endpoints: probes and metrics, and whatever it serves beside them.

Invariant: an answer is made from what is in memory: a probe never waits for the broker, the API server or another
thread. What somebody sends that is no HTTP is answered with 400, and fills no log.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from partymq.errors import InvalidSpecError

log = logging.getLogger(__name__)

STRANGERS_EVERY: Final = 60.0
"""Seconds between two lines about what is no HTTP."""

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
) -> AsyncIterator[int]:
    """Answer until the block is over; gives the port, which the system chooses for 0.

    `what` and `option` say to people what is served, and which setting the port comes from.
    """
    application = web.Application(middlewares=tuple(middlewares), client_max_size=max_body)
    application.add_routes(routes)
    runner = web.AppRunner(
        application, handle_signals=False, access_log=None, shutdown_timeout=1.0, logger=_ServerLog(what)
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            variable = f"PARTYMQ_{option.upper().replace('-', '_')}"
            raise InvalidSpecError(
                f"--{option} {port} ({variable}): {host}:{port} cannot be served ({error.strerror})."
            ) from error
        bound: int = runner.addresses[0][1]
        log.info("Serving %s at %s:%d", what, host, bound)
        yield bound
    finally:
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
        if not isinstance(error, HttpProcessingError):
            return False
        if time.monotonic() - self._told >= STRANGERS_EVERY:
            self._told = time.monotonic()
            why = " ".join(error.message.split())[:120]
            log.info(
                "%s sent what is no HTTP to %s (plain HTTP, no TLS): %s", args[0] if args else "?", self._what, why
            )
        return True


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
