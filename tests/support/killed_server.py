"""`partymq`, but that it kills itself when it first comes to a named point: `python -m support.killed_server serve`."""

import os
import signal
import sys
from functools import partial

from partymq.cli import main
from partymq.router.failpoints import Point
from partymq.serve import server

KILL_AT = "TEST_KILL_AT"
"""The variable that names the point."""


def _checkpoint(point: Point) -> None:
    if point == os.environ[KILL_AT]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    server.Supervisor = partial(server.Supervisor, checkpoint=_checkpoint)  # type: ignore[assignment, attr-defined]
    sys.exit(main())
