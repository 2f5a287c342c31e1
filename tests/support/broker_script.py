"""`hack/broker.sh` from a test: what is done to a broker from the inside, and not by a client.

Invariant: only brokers that the script itself started are touched.
"""

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path
from urllib.parse import urlsplit

_SCRIPT = Path(__file__).parent.parent.parent / "hack" / "broker.sh"
_LACKING = 3
"""The script's exit code where this machine lacks something."""


class NoBrokerError(Exception):
    """No broker can be started on this machine, or the tests' broker is somebody's own; the script says why."""


async def broker_script(*arguments: str) -> str:
    """What the script prints."""
    process = await asyncio.create_subprocess_exec(
        _SCRIPT, *arguments, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    out, errors = await process.communicate()
    if process.returncode == _LACKING:
        raise NoBrokerError(errors.decode())
    if process.returncode:
        raise AssertionError(f"hack/broker.sh {' '.join(arguments)} failed: {errors.decode()}{out.decode()}")
    return out.decode().strip()


async def erlang(url: str, expression: str) -> str:
    """An expression's value in the broker at that address, as `rabbitmqctl eval` prints it; takes about a second."""
    return await broker_script("--port", str(urlsplit(url).port or 5672), "ctl", "-q", "eval", expression)
