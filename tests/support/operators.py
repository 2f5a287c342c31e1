"""`partymq operator` in a process of its own, for one namespace of a real API server.

Invariant: the process is gone when the block is left.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from support.api_server import Kubectl
from support.conditions import eventually


@asynccontextmanager
async def operator(
    *flags: str, kubectl: Kubectl, identity: str = "the-pod", within: Sequence[str] = (), **environment: str
) -> AsyncIterator[tuple[Process, str, list[str]]]:
    """A running operator, where it serves HTTP, and its log until now; `within` is what runs the command."""
    process = await asyncio.create_subprocess_exec(
        *(
            *within,
            sys.executable,
            "-W",
            "error::DeprecationWarning",
            "-m",
            "partymq",
            "operator",
            "--log-format",
            "json",
        ),
        *("--namespace", kubectl.namespace, "--http-host", "127.0.0.1", "--http-port", "0", "--identity", identity),
        *("--kubeconfig", kubectl.kubeconfig, *flags),
        stderr=PIPE,
        env={**os.environ, **environment},
    )
    log: list[str] = []
    reading = asyncio.create_task(_read(process, log))
    try:
        await eventually(lambda: bool(log), "a first line", 30.0)
        yield process, f"http://{json.loads(log[0])['message'].split(' at ')[1]}", log
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def _read(process: Process, log: list[str]) -> None:
    assert process.stderr
    while line := await process.stderr.readline():
        log.append(line.decode())


async def get(url: str) -> tuple[int, str]:
    """A GET's status and body."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()
