"""However a play ends, it has cleaned up, and its end is said."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from demo.command import STOPPED, Outcome, Play, run
from demo.picture import NOTHING
from demo.view import View
from partymq.errors import BrokerError
from support.auditor import audit
from support.events import Event, Kind

HISTORY = [
    [Event(1, Kind.SENT, "p", "k", 0), Event(2, Kind.CONFIRMED, "p", "k", 0)],
    [Event(3, Kind.RECEIVED, "c", "k", 0), Event(4, Kind.ACKED, "c", "k", 0)],
]
KEPT = audit(HISTORY)
LOST = audit(HISTORY[:1])


def play(play: Play, capsys: pytest.CaptureFixture[str], **options: str) -> tuple[int, str]:
    code = run(play, title="test", line_every=1.0, **options)
    return code, capsys.readouterr().out


def test_a_kept_promise_is_said_last_but_for_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    directories = []

    async def kept(view: View, directory: Path) -> Outcome:
        view.step("a step")
        directories.append(directory)
        return Outcome(verdict=KEPT, picture=NOTHING, remarks=("a remark",))

    code, out = play(kept, capsys, next_steps="what next")
    assert code == 0
    assert out.splitlines()[-3:] == ["a remark", "AUDIT ok", "what next"]
    assert not directories[0].exists()


def test_a_broken_promise_keeps_the_reports_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(view: View, directory: Path) -> Outcome:
        (directory / "report").touch()
        return Outcome(verdict=LOST, picture=NOTHING)

    code, out = play(broken, capsys, next_steps="what next")
    assert code == 1
    assert "AUDIT failed: 1 lost" in out
    assert "what next" not in out
    kept = Path(out.split()[-1])
    (kept / "report").unlink()
    kept.rmdir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_once_however_often_it_comes(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    async def interrupted(view: View, directory: Path) -> Outcome:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            loop = asyncio.get_running_loop()
            ready = loop.create_future()
            loop.call_later(0.01, ready.set_result, None)
            await ready  # a cancellation here would skip what follows
            cleaned.append(directory)
        raise AssertionError

    code, out = play(interrupted, capsys)
    assert code == STOPPED
    assert out.splitlines()[-1] == "stopped; everything is cleaned up"
    assert "a moment" in out
    assert len(cleaned) == 1
    assert not cleaned[0].exists()


def test_a_failure_is_a_sentence_with_its_notes(capsys: pytest.CaptureFixture[str]) -> None:
    directories = []

    async def fails(view: View, directory: Path) -> Outcome:
        directories.append(directory)
        error = BrokerError("the broker is away")
        error.add_note("start it")
        raise ExceptionGroup("several", [error])

    code, out = play(fails, capsys)
    directories[0].rmdir()
    assert code == 1
    assert out.splitlines()[:2] == ["failed: the broker is away", "start it"]
