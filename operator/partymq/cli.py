"""The command line.

Invariant: bad input ends with one sentence and exit code 2, a failure with its reason and exit code 1; a traceback is a
defect.
"""

import argparse
import asyncio
import logging
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from partymq import dead, logs, settings, where
from partymq.errors import InvalidSpecError, PartyMQError
from partymq.foreign import shown
from partymq.limits import names

log = logging.getLogger(__name__)

_ADDRESS: Final = re.compile(r"[^\s='\"]*(?:://|@).*")
TOKEN: Final = "PARTYMQ_API_TOKEN: a token that requests of clients must carry (Authorization: Bearer ...)."  # noqa: S105


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
    if chosen.command == "serve":
        return _serve(chosen)
    try:
        loaded = settings.load(
            namespaces=tuple(chosen.namespace),
            http_host=chosen.http_host,
            http_port=chosen.http_port,
            log_format=chosen.log_format,
            log_level=chosen.log_level,
            identity=chosen.identity,
            kubeconfig=chosen.kubeconfig,
            clients_host=chosen.clients_host,
            clients_port=chosen.clients_port,
            heartbeat_check_interval=chosen.heartbeat_check_interval,
            heartbeat_expires_after=chosen.heartbeat_expires_after,
            in_flight_bytes=chosen.in_flight_bytes,
            allowed_hosts=chosen.allowed_hosts,
            secret_label=chosen.secret_label,
            limits=chosen.limit,
        )
    except InvalidSpecError as error:
        sys.stderr.write(f"partymq operator: {error}\n")
        return 2
    return _operate(loaded)


def _serve(chosen: argparse.Namespace) -> int:
    # Late, as in `_operate`; and nothing of Kubernetes' clients is imported on this way.
    from partymq.serving import Flags, load_serving

    try:
        serving = load_serving(Flags(**{name: value for name, value in vars(chosen).items() if name != "command"}))
    except InvalidSpecError as error:
        sys.stderr.write(f"partymq serve: {error}\n")
        return 2
    logs.configure(serving.settings.log_format, serving.settings.log_level)
    from partymq.server import Server

    async def run() -> None:
        await Server(serving).run()

    return _run(run)


def _operate(loaded: settings.Settings) -> int:
    logs.configure(loaded.log_format, loaded.log_level)
    # Late, because kopf and its company take a second to import, and `partymq version` needs none of it.
    from partymq.process import Operator

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
    operator.add_argument(
        "--namespace", "-n", action="append", default=[], metavar="NAME",
        help="serve this namespace only; may be given several times (PARTYMQ_NAMESPACES, with commas; default: all)",
    )  # fmt: skip
    _add_common(operator, serves="probes and metrics", port=8080)
    operator.add_argument(
        "--kubeconfig", metavar="FILE", help="how to reach the API server (KUBECONFIG; ~/.kube/config)"
    )
    operator.add_argument(
        "--secret-label", metavar="LABEL",
        help="use only connection Secrets that carry this label, NAME=VALUE or a NAME (PARTYMQ_SECRET_LABEL; any)",
    )  # fmt: skip
    operator.add_argument(
        "--clients-port", metavar="PORT",
        help="serve clients outside of the cluster over HTTP, too (PARTYMQ_CLIENTS_PORT; default: not served)",
    )  # fmt: skip
    operator.add_argument("--clients-host", metavar="ADDRESS", help="its address (PARTYMQ_CLIENTS_HOST; 0.0.0.0)")
    _add_heartbeats(operator)
    operator.epilog = TOKEN
    dead.add_parser(commands)
    where.add_parser(commands)
    _add_serve(
        commands.add_parser(
            "serve",
            help="route without a cluster, for clients that bind over HTTP",
            description="Route messages to clients that bind over HTTP. Everything has a default: without a flag, a "
            "variable or a file it serves one group, from the queue partymq.q.source of the broker on this host.",
        )
    )
    commands.add_parser("version", help="print the version")
    return parser


def _add_common(parser: argparse.ArgumentParser, *, serves: str, port: int) -> None:
    parser.add_argument("--http-host", metavar="ADDRESS", help=f"address of {serves} (PARTYMQ_HTTP_HOST; 0.0.0.0)")
    parser.add_argument("--http-port", metavar="PORT", help=f"port of {serves} (PARTYMQ_HTTP_PORT; {port})")
    parser.add_argument("--log-format", metavar="FORMAT", help="text or json (PARTYMQ_LOG_FORMAT; text)")
    parser.add_argument("--log-level", metavar="LEVEL", help=f"{', '.join(settings.LEVELS)} (PARTYMQ_LOG_LEVEL; info)")
    parser.add_argument("--identity", metavar="NAME", help="this process's name (PARTYMQ_IDENTITY; the host's name)")
    parser.add_argument(
        "--in-flight-bytes", metavar="SIZE",
        help="most bytes of messages that it has read and not handed on yet (PARTYMQ_IN_FLIGHT_BYTES; 256Mi)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE",
        help=f"how much of something others may have: {', '.join(names())} (PARTYMQ_LIMIT_<NAME>; docs/limits.md)",
    )  # fmt: skip
    parser.add_argument(
        "--allowed-hosts", metavar="NAMES",
        help="further names of this server, with commas, where clients need no token (PARTYMQ_ALLOWED_HOSTS)",
    )  # fmt: skip


def _add_serve(parser: argparse.ArgumentParser) -> None:
    options = (
        ("--config", "FILE", "a YAML file with groups and their specs (PARTYMQ_CONFIG)"),
        ("--rabbit-cs", "URI", "the broker (PARTYMQ_RABBIT_CS; amqp://guest:guest@localhost:5672)"),
        ("--management-uri", "URI", "its management API (PARTYMQ_MANAGEMENT_URI; port 15672 of the broker's host)"),
        ("--source-queue", "QUEUE", "the queue to partition (PARTYMQ_SOURCE_QUEUE; partymq.q.source)"),
        ("--key-source", "PLACE", "header, body, property or routingKey (PARTYMQ_KEY_SOURCE; header)"),
        ("--key-name", "NAME", "header, property, JSON field or pointer (PARTYMQ_KEY_NAME; partitionKey)"),
        ("--namespace", "NAME", "part of all names on the broker (PARTYMQ_NAMESPACE; default)"),
        ("--group", "NAME", "the group's name, where there is no file (PARTYMQ_GROUP; default)"),
    )
    for flag, metavar, text in options:
        parser.add_argument(flag, metavar=metavar, help=text)
    _add_heartbeats(parser)
    _add_common(parser, serves="the clients API, probes and metrics", port=8085)
    parser.epilog = TOKEN


def _add_heartbeats(parser: argparse.ArgumentParser) -> None:
    options = (
        (
            "--heartbeat-check-interval",
            "how often that is looked at (PARTYMQ_HEARTBEAT_CHECK_INTERVAL; 30s)",
        ),
        ("--heartbeat-expires-after", "a client's longest silence (PARTYMQ_HEARTBEAT_EXPIRES_AFTER; 120s)"),
    )
    for flag, text in options:
        parser.add_argument(flag, metavar="TIME", help=text)
