"""The process's own HTTP endpoints: probes and metrics, and whatever it serves beside them.

Invariant: an answer is made from what is in memory: a probe never waits for the broker, the API server or another
thread.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from partymq.errors import InvalidSpecError

log = logging.getLogger(__name__)

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
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
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
