"""A real Prometheus beside a test, which scrapes an operator as the chart has it scraped, and has the chart's alerts.

Invariant: the process is gone when the block is left.
"""

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import yaml

from support.conditions import eventually
from support.stage import CHART, free_port

CACHE: Final = Path(os.environ.get("PARTYMQ_CACHE") or Path.home() / ".cache/partymq")
PROGRAM: Final = shutil.which("prometheus", path=f"{CACHE / 'bin'}:{os.environ.get('PATH', '')}")
"""None where it could not be had."""


class Prometheus:
    """Answers what is asked over its HTTP API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def firing(self) -> list[tuple[str, Mapping[str, str]]]:
        """The alerts that fire, with their labels."""
        found = await self._ask("/api/v1/alerts")
        return [
            (alert["labels"]["alertname"], alert["labels"]) for alert in found["alerts"] if alert["state"] == "firing"
        ]

    async def ready(self) -> bool:
        """Whether it has scraped its target."""
        try:
            found = await self._ask("/api/v1/targets")
        except aiohttp.ClientError:
            return False
        return [target["health"] for target in found["activeTargets"]] == ["up"]

    async def _ask(self, path: str) -> dict[str, Any]:
        async with self._session.get(f"{self._url}{path}") as answer:
            answer.raise_for_status()
            data: dict[str, Any] = (await answer.json())["data"]
            return data


@asynccontextmanager
async def prometheus(directory: Path, metrics: str) -> AsyncIterator[Prometheus]:
    """One that has scraped `metrics`, the address of an operator, for the first time."""
    assert PROGRAM
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    scrape = {
        "job_name": "partymq",
        "scrape_interval": values["metrics"]["serviceMonitor"]["interval"],
        "honor_labels": True,
        # As in a cluster, where a target has the namespace of the operator's pod.
        "static_configs": [{"targets": [urlsplit(metrics).netloc], "labels": {"namespace": "ops"}}],
    }
    config = {"scrape_configs": [scrape], "rule_files": [str(CHART / "files/alerts.yaml")]}
    path, port = directory / "prometheus.yaml", free_port()
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, f"--config.file={path}", f"--storage.tsdb.path={directory / 'prometheus'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            asked = Prometheus(f"http://127.0.0.1:{port}", session)
            await eventually(asked.ready, "Prometheus does not scrape the operator", 30.0)
            yield asked
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
