"""Brokers and management APIs that mean harm, in a process of their own; and what memory this process has."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_TESTS = Path(__file__).parents[1]


@asynccontextmanager
async def hostile() -> AsyncIterator[dict[str, int]]:
    """Their ports by the kind of harm (see `hostile_broker`)."""
    environment = {"PYTHONPATH": f"{_TESTS}:{_TESTS.parent / 'operator'}", "PATH": "/usr/bin"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.hostile_broker", stdin=PIPE, stdout=PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


def memory(kind: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{kind}:")) * 1024


def forget_most() -> None:
    """From here on VmHWM counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
