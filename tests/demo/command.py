"""Runs a play for a person at a terminal: shows it, judges it, and ends it in order when it is interrupted.

Invariant: however it ends, the play has cleaned up before the last line is printed: a signal cancels it once, and
whoever presses Ctrl-C again is told to wait. The exit code is 0 only if every promise was kept.
"""

import asyncio
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aio_pika.exceptions import AMQPError
from rich.console import Console

from demo.picture import Picture
from demo.view import View, table
from partymq.errors import PartyMQError
from support.verdict import Verdict

STOPPED: Final = 130
"""What a shell says of a command that Ctrl-C ended."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a play leaves: the verdict, the last picture, and what else is to be said of it."""

    verdict: Verdict
    picture: Picture
    remarks: tuple[str, ...] = ()


Play = Callable[[View, Path], Coroutine[None, None, Outcome]]
"""What happens, with a folder for the clients' reports."""


def run(play: Play, *, title: str, line_every: float, next_steps: str = "") -> int:
    """The exit code; all of it is said."""
    # aio-pika reports what we cut short at the end; what matters here comes as an exception.
    logging.basicConfig(level=logging.ERROR)
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="partymq-demo-"))
    kept = f"Logs and the clients' reports are kept in {directory}"
    try:
        with View(console, title, line_every=line_every) as view:
            outcome = asyncio.run(_until_stopped(view, play(view, directory)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        shutil.rmtree(directory)
        _say(console, "stopped; everything is cleaned up")
        return STOPPED
    except (PartyMQError, AssertionError, AMQPError, OSError, ExceptionGroup) as error:
        for line in (*_sentences(error), kept):
            _say(console, line)
        return 1
    return _judge(console, outcome, directory, next_steps, kept)


async def _until_stopped(view: View, play: Coroutine[None, None, Outcome]) -> Outcome:
    loop, playing = asyncio.get_running_loop(), asyncio.current_task()
    assert playing is not None
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            view.note("it is being cleaned up: a moment")
        else:
            stopping = True
            playing.cancel()  # first: the terminal may be gone
            view.step("stopping: what was started and made is taken away again")

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGINT:  # nohup means it
            loop.add_signal_handler(number, stop)
    return await play


def _judge(console: Console, outcome: Outcome, directory: Path, next_steps: str, kept: str) -> int:
    verdict = outcome.verdict
    console.print(table(verdict, outcome.picture))
    for line in (*outcome.remarks, *verdict.violations):
        _say(console, line)
    console.print(str(verdict), style="bold green" if verdict.ok else "bold red", highlight=False)
    if not verdict.ok:
        _say(console, kept)
        return 1
    shutil.rmtree(directory)
    if next_steps:
        _say(console, next_steps)
    return 0


def _sentences(error: BaseException) -> list[str]:
    """What happened, without a trace: the first of several, and what its notes say."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return [f"failed: {error or type(error).__name__}", *getattr(error, "__notes__", ())]


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
