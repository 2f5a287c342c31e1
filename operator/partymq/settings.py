"""What the operator is told by flags and the environment.

Invariant: a value that comes out of here is usable; what is not is refused with one sentence that names the flag.
A flag wins over its variable, a variable over the default.
"""

import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from typing import Final

from partymq.errors import InvalidSpecError
from partymq.foreign import NAME, shown
from partymq.limits import Limits, load_limits

VERSION: Final = version("partymq")

LEVELS: Final = ("debug", "info", "warning", "error")

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:(?:\d+(?:\.\d+)?)(?:ms|s|m|h))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SIZE: Final = re.compile(r"(\d+)(Ki|Mi|Gi)?")
_SIZE_UNITS: Final = {"": 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
LEAST_IN_FLIGHT: Final = 1024**2
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_HOSTNAME: Final = re.compile(r"[a-z0-9_.:-]{1,253}")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,314}[A-Za-z0-9])?(?:=[A-Za-z0-9_.-]{0,63})?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsApi:
    """How the operator serves clients outside of the cluster; times are seconds."""

    port: int
    host: str = "0.0.0.0"  # noqa: S104 - clients come from outside of the pod
    token: str = field(default="", repr=False)
    """What requests must carry; empty for nothing."""
    check_every: float = 30.0
    expires_after: float = 120.0
    allowed_hosts: tuple[str, ...] = ()
    """Further names of this server, where it asks for no token; `*` for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `partymq operator` needs to know."""

    namespaces: tuple[str, ...] = ()
    """The namespaces that it serves; none means all of them."""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from outside of the pod
    http_port: int = 8080
    log_format: LogFormat = LogFormat.TEXT
    log_level: str = "info"
    identity: str = ""
    """Names this process in statuses, Events and on the broker; the pod's name."""
    kubeconfig: str | None = None
    """How to reach the API server from outside of a cluster; None for what `kubectl` would take."""
    clients: ClientsApi | None = None
    """None where the operator serves pods only."""
    in_flight_bytes: int = 256 * 1024**2
    """Most bytes of messages that all its groups together have read from sources and not handed on yet."""
    secret_label: str = ""
    """The label that connection Secrets must carry, `name=value` or a name; empty where any may be named."""
    limits: Limits = field(default=Limits())
    """How much of anything others may have of it."""


def load(
    *,
    namespaces: tuple[str, ...] | None = None,
    http_host: str | None = None,
    http_port: str | None = None,
    log_format: str | None = None,
    log_level: str | None = None,
    identity: str | None = None,
    kubeconfig: str | None = None,
    clients_host: str | None = None,
    clients_port: str | None = None,
    heartbeat_check_interval: str | None = None,
    heartbeat_expires_after: str | None = None,
    in_flight_bytes: str | None = None,
    allowed_hosts: str | None = None,
    secret_label: str | None = None,
    limits: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Settings from flags (None: not given) and the environment; raises InvalidSpecError."""
    default = Settings()
    port = clients_port or environ.get("PARTYMQ_CLIENTS_PORT")
    return Settings(
        namespaces=_namespaces(namespaces or tuple(environ.get("PARTYMQ_NAMESPACES", "").split(","))),
        http_host=http_host or environ.get("PARTYMQ_HTTP_HOST") or default.http_host,
        http_port=_port("http-port", http_port or environ.get("PARTYMQ_HTTP_PORT") or str(default.http_port)),
        log_format=_log_format(log_format or environ.get("PARTYMQ_LOG_FORMAT") or default.log_format),
        log_level=_log_level(log_level or environ.get("PARTYMQ_LOG_LEVEL") or default.log_level),
        identity=identity or environ.get("PARTYMQ_IDENTITY") or socket.gethostname(),
        kubeconfig=kubeconfig or None,
        in_flight_bytes=_in_flight(
            in_flight_bytes or environ.get("PARTYMQ_IN_FLIGHT_BYTES") or str(default.in_flight_bytes)
        ),
        secret_label=_label(secret_label or environ.get("PARTYMQ_SECRET_LABEL") or ""),
        limits=load_limits(limits, environ),
        clients=ClientsApi(
            allowed_hosts=hosts(allowed_hosts, environ),
            host=clients_host or environ.get("PARTYMQ_CLIENTS_HOST") or "0.0.0.0",  # noqa: S104
            port=_port("clients-port", port),
            token=api_token(environ),
            check_every=seconds(
                "--heartbeat-check-interval (PARTYMQ_HEARTBEAT_CHECK_INTERVAL)",
                heartbeat_check_interval or environ.get("PARTYMQ_HEARTBEAT_CHECK_INTERVAL") or "30s",
            ),
            expires_after=seconds(
                "--heartbeat-expires-after (PARTYMQ_HEARTBEAT_EXPIRES_AFTER)",
                heartbeat_expires_after or environ.get("PARTYMQ_HEARTBEAT_EXPIRES_AFTER") or "120s",
            ),
        )
        if port
        else None,
    )


def api_token(environ: Mapping[str, str]) -> str:
    """What requests of clients must carry, empty where no variable says so; raises InvalidSpecError."""
    given = environ.get("PARTYMQ_API_TOKEN")
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


def hosts(given: str | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Further names of the server, with commas; raises InvalidSpecError."""
    names = (given or environ.get("PARTYMQ_ALLOWED_HOSTS", "")).split(",")
    chosen = tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    for name in chosen:
        if name != "*" and not _HOSTNAME.fullmatch(name):
            raise InvalidSpecError(
                f"--allowed-hosts {shown(name, NAME)!r} (PARTYMQ_ALLOWED_HOSTS) is no name of a host: give names or "
                "addresses without ports, with commas, or * for any."
            )
    return chosen


def seconds(where: str, text: object) -> float:
    """A duration such as "1m30s"; raises InvalidSpecError."""
    if isinstance(text, str) and _DURATION.fullmatch(text):
        found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if found > 0:
            return found
    raise InvalidSpecError(f'{where} is {text!r}: give a duration above 0 such as "30s", "2m" or "1m30s".')


def _namespaces(names: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in chosen:
        if not _NAMESPACE.fullmatch(name):
            raise InvalidSpecError(
                f"--namespace {name!r} (PARTYMQ_NAMESPACES) is no namespace: give its name, once for each namespace."
            )
    return chosen


def _label(text: str) -> str:
    if text and not _LABEL.fullmatch(text):
        raise InvalidSpecError(
            f"--secret-label {shown(text, NAME)!r} (PARTYMQ_SECRET_LABEL) is no label: give NAME=VALUE or a NAME, such "
            "as partymq.io/connection=true."
        )
    return text


def _port(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65_535):
        variable = f"PARTYMQ_{option.upper().replace('-', '_')}"
        raise InvalidSpecError(f"--{option} {text!r} ({variable}) is no port: give a number from 0 to 65535.")
    return int(text)


def _in_flight(text: str) -> int:
    found = _SIZE.fullmatch(text)
    size = int(found[1]) * _SIZE_UNITS[found[2] or ""] if found else 0
    if size < LEAST_IN_FLIGHT:
        raise InvalidSpecError(
            f"--in-flight-bytes {text!r} (PARTYMQ_IN_FLIGHT_BYTES) is no size: give 1Mi or more, such as 256Mi."
        )
    return size


def _log_format(text: str) -> LogFormat:
    if text not in [form.value for form in LogFormat]:
        raise InvalidSpecError(f"--log-format {text!r} (PARTYMQ_LOG_FORMAT) is unknown: give text or json.")
    return LogFormat(text)


def _log_level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise InvalidSpecError(f"--log-level {text!r} (PARTYMQ_LOG_LEVEL) is unknown: give {', '.join(LEVELS)}.")
    return text.lower()
