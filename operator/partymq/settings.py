"""What a process is told by flags and the environment.

Invariant: a value that comes out of here is usable; what is not is refused with one sentence that names the flag.
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Final

from partymq import options
from partymq.errors import InvalidSpecError
from partymq.limits import Limits, load_limits
from partymq.option import Given, Option
from partymq.options import LogFormat as LogFormat

VERSION: Final = version("partymq")

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsApi:
    """How the operator serves clients outside of the cluster; times are seconds."""

    port: int
    host: str = options.CLIENTS_HOST.standard
    token: str = field(default="", repr=False)
    """What requests must carry; empty for nothing."""
    check_every: float = options.CHECK_INTERVAL.standard
    expires_after: float = options.EXPIRES_AFTER.standard
    token_secret: str = ""
    """The Secret of each namespace that has the token for its groups; empty where namespaces have none."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names of this server, where it asks for no token; `*` for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process needs to know; `partymq serve` has only a part of it."""

    namespaces: tuple[str, ...] = ()
    """The namespaces that it serves; none means all of them."""
    http_host: str = options.HTTP_HOST.standard
    http_port: int = options.HTTP_PORT.standard
    log_format: LogFormat = options.LOG_FORMAT.standard
    log_level: str = options.LOG_LEVEL.standard
    identity: str = ""
    """Names this process in statuses, Events and on the broker; the pod's name."""
    kubeconfig: str | None = None
    """How to reach the API server from outside of a cluster; None for what `kubectl` would take."""
    clients: ClientsApi | None = None
    """None where the operator serves pods only."""
    in_flight_bytes: int = options.IN_FLIGHT_BYTES.standard
    """Most bytes of messages that all its groups together have read from sources and not handed on yet."""
    secret_label: str = ""
    """The label that connection Secrets must carry, `name=value` or a name; empty where any may be named."""
    limits: Limits = field(default=Limits())
    """How much of anything others may have of it."""


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The operator's settings, from flags by the options' keys and the environment; raises InvalidSpecError."""
    given = Given(flags=flags or {}, environ=environ)
    return replace(
        load_common(given, http_host=options.HTTP_HOST, http_port=options.HTTP_PORT),
        namespaces=options.NAMESPACES.read_all(given),
        kubeconfig=given.flags.get(options.KUBECONFIG.key) or None,  # the variable is for whoever looks for the file
        secret_label=options.SECRET_LABEL.read(given),
        clients=_clients(given) if options.CLIENTS_PORT.said(given) else None,
    )


def load_common(given: Given, *, http_host: Option[str], http_port: Option[int]) -> Settings:
    """What every process is told; raises InvalidSpecError."""
    return Settings(
        http_host=http_host.read(given),
        http_port=http_port.read(given),
        log_format=options.LOG_FORMAT.read(given),
        log_level=options.LOG_LEVEL.read(given),
        identity=options.IDENTITY.read(given) or socket.gethostname(),
        in_flight_bytes=options.IN_FLIGHT_BYTES.read(given),
        limits=load_limits(given.flags.get(options.LIMIT.key) or (), given.environ),
    )


def _clients(given: Given) -> ClientsApi:
    return ClientsApi(
        allowed_hosts=options.ALLOWED_HOSTS.read_all(given),
        host=options.CLIENTS_HOST.read(given),
        port=options.CLIENTS_PORT.read(given),
        token=api_token(given.environ),
        token_secret=options.CLIENTS_TOKEN_SECRET.read(given),
        check_every=options.CHECK_INTERVAL.read(given),
        expires_after=options.EXPIRES_AFTER.read(given),
    )


def api_token(environ: Mapping[str, str]) -> str:
    """What requests of clients must carry, empty where no variable says so; raises InvalidSpecError."""
    given = environ.get(options.API_TOKEN.variable)
    if given is None:
        return ""
    token = given.strip()  # a Secret that was made from a file ends with a line break, which no header can carry
    if not token:
        raise InvalidSpecError(
            "PARTYMQ_API_TOKEN is empty, which would let everybody in: give a token, in its Secret if it comes from "
            "one, or unset the variable to ask for none."
        )
    if not _TOKEN.fullmatch(token):
        raise InvalidSpecError(
            "PARTYMQ_API_TOKEN has a line break, a space or another character that no header can carry: use letters, "
            "digits and signs of ASCII."
        )
    return token
