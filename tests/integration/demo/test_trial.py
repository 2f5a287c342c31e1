"""`make try` does what it says, and leaves nothing: no process, no queue, no exchange, no file."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from demo.plan import FIRST, PLAN
from support.broker import amqp_url, management_url
from support.conditions import eventually

TESTS = Path(__file__).parents[2]
QUICK = ("--seconds", "0.2", "--rate", "200", "--keys", "50")


@asynccontextmanager
async def trial(directory: Path, *arguments: str) -> AsyncIterator[Process]:
    """It, with its files in a folder of the test's own; a process that is left over carries the folder's name."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
        "PARTYMQ_AMQP_URL": amqp_url(),
        "PARTYMQ_MANAGEMENT_URL": management_url(),
        "PARTYMQ_API_TOKEN": "what is meant for another server",
        "TMPDIR": str(directory),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "demo.trial", *QUICK, *arguments, stdout=PIPE, stderr=STDOUT, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process: Process, until: str = "") -> str:
    """What it prints, until it has printed that, or ends."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(60):
        while line := await process.stdout.readline():
            text += line.decode()
            if until and until in text:
                break
    return text


def processes(directory: Path) -> list[str]:
    """Those that were started with the name of this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory) in (entry / "environ").read_text(errors="replace"):
                found.append((entry / "cmdline").read_text(errors="replace"))
        except OSError:
            continue  # it has just ended, or is somebody else's
    return found


async def on_broker(group: str) -> list[str]:
    """Queues and exchanges with that name in theirs."""
    found = []
    async with aiohttp.ClientSession(raise_for_status=True) as api:
        for kind in ("queues", "exchanges"):
            async with api.get(f"{management_url()}/api/{kind}?columns=name&disable_stats=true") as answer:
                found += [one["name"] for one in await answer.json() if group in one["name"]]
    return found


async def leaves_nothing(directory: Path, text: str) -> None:
    group = re.search(r"a queue, (try-[0-9a-f]+)\.source", text)
    assert group, text
    assert processes(directory) == []
    assert await on_broker(group[1]) == []
    assert os.listdir(directory) == []  # noqa: PTH208 - its files are gone, and quickly so


async def test_all_of_it_is_shown_and_judged_and_nothing_is_left(tmp_path: Path) -> None:
    async with trial(tmp_path) as process:
        text = await told(process)
        assert await process.wait() == 0, text
    for said in (
        *(step.announced(3) for step in PLAN), *FIRST, "shared by 3 consumers", "shared by 4 consumers",
        "shared by 2 consumers", "HandoffCommitted", "held one key at a time", "make demo", "PARTYMQ_AMQP_URL",
    ):  # fmt: skip
        assert said in text
    assert re.search(r"^AUDIT ok$", text, re.MULTILINE), text
    await leaves_nothing(tmp_path, text)


@pytest.mark.parametrize("moment", ["partymq serve", "a producer", "kill -9", "cleaning up"])
async def test_ctrl_c_at_any_moment_takes_everything_away(moment: str, tmp_path: Path) -> None:
    async with trial(tmp_path) as process:
        text = await told(process, moment)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # by somebody in a hurry
        text += await told(process)
        assert await process.wait() == 130, text
    assert text.endswith("stopped; everything is cleaned up\n")
    await leaves_nothing(tmp_path, text)


async def test_a_broker_that_is_not_there_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTYMQ_MANAGEMENT_URL", management_url())
    monkeypatch.setenv("PARTYMQ_AMQP_URL", "amqp://guest:hidden@127.0.0.1:1/")
    async with trial(tmp_path) as process:
        text = await told(process)
        assert await process.wait() == 1
    assert "127.0.0.1:1" in text
    assert "Traceback" not in text
    assert "hidden" not in text
    assert processes(tmp_path) == []


async def test_the_script_hands_a_signal_on_and_waits(tmp_path: Path) -> None:
    environment = {**os.environ, "PARTYMQ_AMQP_URL": amqp_url(), "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        TESTS.parent / "hack" / "try.sh", *QUICK, stdout=PIPE, stderr=STDOUT, env=environment, start_new_session=True
    )
    try:
        text = await told(process, "scaling up")
        process.send_signal(signal.SIGTERM)
        text += await told(process)
        assert await process.wait() == 130, text
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
    assert "stopped; everything is cleaned up" in text
    await eventually(lambda: not processes(tmp_path), lambda: f"still there: {processes(tmp_path)}")
    await leaves_nothing(tmp_path, text)
