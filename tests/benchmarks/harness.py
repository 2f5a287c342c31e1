"""What every section is given, and the machine that it ran on."""

import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.results import Results
from partymq.amqp.topology import Topology
from support.broker import management_url
from support.conditions import eventually

_TICKS = os.sysconf("SC_CLK_TCK")
_LIBRARIES = ("partymq", "uvloop", "aio-pika", "aiormq", "pamqp", "mmh3", "orjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the suite."""

    results: Results
    quick: bool
    """A smoke run: everything is tried, nothing is worth quoting."""
    rounds: int
    steady_seconds: float
    directory: Path
    """For the logs of processes."""
    topology: Topology
    """Declares, polls and deletes; nothing that is measured uses it."""
    broker_pid: int | None
    """The broker's process, where it runs on this machine."""
    say: Callable[[str], None]


Section = Callable[[Run], Awaitable[None]]


def cpu_seconds(pid: int | None) -> float:
    """CPU time that a process has used; 0 for one that is not here."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    """The memory of a process that is in use, in MiB."""
    return _status(pid, "VmRSS:")


def peak_mib(pid: int) -> float:
    """The most that was ever in use of it, in MiB."""
    return _status(pid, "VmHWM:")


def _status(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def clock() -> float:
    """Seconds of a clock that all processes of this machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


async def broker_process() -> int | None:
    """The broker's process id, if it is a process of this machine."""
    nodes: list[dict[str, Any]] = []

    async def known() -> bool:
        nodes[:] = await _management("/api/nodes")
        return all("os_pid" in node for node in nodes)

    await eventually(
        known, "the broker does not tell its process: it does some seconds after its start", 60.0, every=1.0
    )
    pid = int(nodes[0]["os_pid"]) if len(nodes) == 1 else 0
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return None
    return pid if name.startswith("beam") else None


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


async def versions() -> dict[str, str]:
    """What was measured."""
    overview = await _management("/api/overview")
    return {
        "python": platform.python_version(),
        "rabbitmq": overview["rabbitmq_version"],
        "erlang": overview["erlang_version"],
        **{name: version(name) for name in _LIBRARIES},
    }


async def _management(path: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(management_url() + path) as answer:
        answer.raise_for_status()
        return await answer.json()
