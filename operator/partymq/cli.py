"""The command line.

Invariant: bad input ends with one sentence and exit code 2, a failure with its reason and exit code 1; a traceback is a
defect.
"""

import argparse
import asyncio
import logging
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from partymq import dead, hook, logs, options, settings, where
from partymq.errors import InvalidSpecError, PartyMQError
from partymq.foreign import shown
from partymq.option import Option

log = logging.getLogger(__name__)

_ADDRESS: Final = re.compile(r"[^\s='\"]*(?:://|@).*")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the whole usage; what looks like an address may hold a password."""
        words = (_ADDRESS.sub("...", word) for word in message.split(" "))
        self.exit(2, f"{self.prog}: {shown(' '.join(words))}. `{self.prog} --help` lists what there is.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "version":
        sys.stdout.write(f"partymq {settings.VERSION}\n")
        return 0
    if chosen.command == "dead":
        return dead.run(chosen)
    if chosen.command == "where":
        return where.run(chosen)
    if chosen.command == "hook":
        return hook.run(chosen)
    if chosen.command == "serve":
        return _serve(chosen)
    try:
        loaded = settings.load(vars(chosen))
    except InvalidSpecError as error:
        sys.stderr.write(f"partymq operator: {error}\n")
        return 2
    return _operate(loaded)


def _serve(chosen: argparse.Namespace) -> int:
    # Late, as in `_operate`; and nothing of Kubernetes' clients is imported on this way.
    from partymq.serve.settings import load_serving

    try:
        serving = load_serving(vars(chosen))
    except InvalidSpecError as error:
        sys.stderr.write(f"partymq serve: {error}\n")
        return 2
    logs.configure(serving.settings.log_format, serving.settings.log_level)
    from partymq.serve.server import Server

    async def run() -> None:
        await Server(serving).run()

    return _run(run)


def _operate(loaded: settings.Settings) -> int:
    logs.configure(loaded.log_format, loaded.log_level)
    # Late, because kopf and its company take a second to import, and `partymq version` needs none of it.
    from partymq.operator_process import Operator

    async def run() -> None:
        await Operator(loaded).run()

    return _run(run)


def _run(main: Callable[[], Coroutine[None, None, None]]) -> int:
    import uvloop

    _open_more_files()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except (PartyMQError, ExceptionGroup) as error:
        return _failed(error)
    return 0


def _open_more_files() -> None:
    """As many as may be: the usual soft limit of 1024 is there for programs that use `select`."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _failed(error: Exception) -> int:
    """Say why, in a sentence if it is one of ours."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PartyMQError):
        log.error("%s", error)
        return 2 if isinstance(error, InvalidSpecError) else 1
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="partymq", description="Ordered, partitioned processing of RabbitMQ queues.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    operator = commands.add_parser(
        "operator",
        help="watch PartitionGroups and route their messages",
        description="Watch PartitionGroups and route their messages, with the pod's service account or the kubeconfig.",
    )
    _add(operator, options.OPERATOR)
    dead.add_parser(commands)
    where.add_parser(commands)
    hook.add_parser(commands)
    serve = commands.add_parser(
        "serve",
        help="route without a cluster, for clients that bind over HTTP",
        description="Route messages to clients that bind over HTTP. Everything has a default: without a flag, a "
        f"variable or a file it serves one group, from the queue {options.SOURCE_QUEUE.default} of the broker on this "
        "host.",
    )
    _add(serve, options.SERVE)
    commands.add_parser("version", help="print the version")
    return parser


def _add(parser: argparse.ArgumentParser, declared: Iterable[Option[Any]]) -> None:
    for option in declared:
        if not option.name:
            parser.epilog = f"{option.variable}: {option.help}"
        elif option.repeated:
            parser.add_argument(
                *option.flags, action="append", default=[], metavar=option.metavar, help=option.help_text
            )
        else:
            parser.add_argument(*option.flags, metavar=option.metavar, help=option.help_text)
