"""Probes and metrics answer from memory, and say what is wrong."""

import aiohttp
import pytest

from partymq.errors import InvalidSpecError
from partymq.http.server import Views, probes, serve


async def get(port: int, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text(), response.headers["Content-Type"]


def views(alive: str = "", ready: str = "") -> Views:
    return Views(alive=lambda: alive, ready=lambda: ready, metrics=lambda: b"partymq_info 1\n")


@pytest.mark.parametrize(
    ("shown", "health", "readiness"),
    [
        (views(), (200, "ok\n"), (200, "ok\n")),
        (views(ready="Not listed yet."), (200, "ok\n"), (503, "Not listed yet.\n")),
        (views(alive="Stuck.", ready="Not listed yet."), (503, "Stuck.\n"), (503, "Stuck.\n")),
    ],
)
async def test_probes(shown: Views, health: tuple[int, str], readiness: tuple[int, str]) -> None:
    async with serve("127.0.0.1", 0, probes(shown)) as port:
        assert (await get(port, "/healthz"))[:2] == health
        assert (await get(port, "/readyz"))[:2] == readiness


async def test_metrics_are_in_prometheus_text_format() -> None:
    async with serve("127.0.0.1", 0, probes(views())) as port:
        status, text, kind = await get(port, "/metrics")
    assert (status, text) == (200, "partymq_info 1\n")
    assert kind.startswith("text/plain; version=")


async def test_a_port_that_is_taken_is_named() -> None:
    async with serve("127.0.0.1", 0, probes(views())) as port:
        with pytest.raises(InvalidSpecError, match=rf"--http-port {port} .*cannot be served"):
            async with serve("127.0.0.1", port, probes(views())):
                pass
