"""`hack/broker.sh` from a test: what is done to a broker from the inside, and not by a client.

Invariant: only brokers that the script itself started are touched.
"""

import asyncio
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

_SCRIPT = Path(__file__).parent.parent.parent / "hack" / "broker.sh"
_LACKING = 3
"""The script's exit code where this machine lacks something."""


class NoBrokerError(Exception):
    """No broker can be started on this machine, or the tests' broker is somebody's own; the script says why."""


async def broker_script(*arguments: str) -> str:
    """What the script prints.

    Into files: with uvloop a process inherits its pipes twice, and a broker that the script starts would keep them.
    """
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        process = await asyncio.create_subprocess_exec(
            _SCRIPT, *arguments, stdout=out, stderr=errors, start_new_session=True
        )
        code = await process.wait()
        out.seek(0)
        errors.seek(0)
        printed, said = out.read(), errors.read()
    if code == _LACKING:
        raise NoBrokerError(said)
    if code:
        raise AssertionError(f"hack/broker.sh {' '.join(arguments)} failed: {said}{printed}")
    return printed.strip()


async def erlang(url: str, expression: str) -> str:
    """An expression's value in the broker at that address, as `rabbitmqctl eval` prints it; takes about a second."""
    return await broker_script("--port", str(urlsplit(url).port or 5672), "ctl", "-q", "eval", expression)
