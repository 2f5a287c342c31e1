"""The command line.

Invariant: bad input ends with one sentence and exit code 2, a failure with its reason and exit code 1; a traceback is a
defect.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from partymq import dead, logs, settings
from partymq.errors import InvalidSpecError, PartyMQError

log = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the whole usage."""
        self.exit(2, f"{self.prog}: {message}. `{self.prog} --help` lists what there is.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "version":
        sys.stdout.write(f"partymq {settings.VERSION}\n")
        return 0
    if chosen.command == "dead":
        return dead.run(chosen)
    try:
        loaded = settings.load(
            namespaces=tuple(chosen.namespace),
            http_host=chosen.http_host,
            http_port=chosen.http_port,
            log_format=chosen.log_format,
            log_level=chosen.log_level,
            identity=chosen.identity,
            kubeconfig=chosen.kubeconfig,
        )
    except InvalidSpecError as error:
        sys.stderr.write(f"partymq operator: {error}\n")
        return 2
    return _operate(loaded)


def _operate(loaded: settings.Settings) -> int:
    logs.configure(loaded.log_format, loaded.log_level)
    # Late, because kopf and its company take a second to import, and `partymq version` needs none of it.
    import uvloop

    from partymq.process import Operator

    async def run() -> None:
        await Operator(loaded).run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except (PartyMQError, ExceptionGroup) as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Say why, in a sentence if it is one of ours."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PartyMQError):
        log.error("%s", error)
        return 2 if isinstance(error, InvalidSpecError) else 1
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="partymq", description="Ordered, partitioned processing of RabbitMQ queues on Kubernetes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    operator = commands.add_parser(
        "operator",
        help="watch PartitionGroups and route their messages",
        description="Watch PartitionGroups and route their messages, with the pod's service account or the kubeconfig.",
    )
    operator.add_argument(
        "--namespace", "-n", action="append", default=[], metavar="NAME",
        help="serve this namespace only; may be given several times (PARTYMQ_NAMESPACES, with commas; default: all)",
    )  # fmt: skip
    operator.add_argument(
        "--http-host", metavar="ADDRESS", help="address of probes and metrics (PARTYMQ_HTTP_HOST; 0.0.0.0)"
    )
    operator.add_argument("--http-port", metavar="PORT", help="port of probes and metrics (PARTYMQ_HTTP_PORT; 8080)")
    operator.add_argument("--log-format", metavar="FORMAT", help="text or json (PARTYMQ_LOG_FORMAT; text)")
    operator.add_argument(
        "--log-level", metavar="LEVEL", help=f"{', '.join(settings.LEVELS)} (PARTYMQ_LOG_LEVEL; info)"
    )
    operator.add_argument("--identity", metavar="NAME", help="this process's name (PARTYMQ_IDENTITY; the host's name)")
    operator.add_argument(
        "--kubeconfig", metavar="FILE", help="how to reach the API server (KUBECONFIG; ~/.kube/config)"
    )
    dead.add_parser(commands)
    commands.add_parser("version", help="print the version")
    return parser
