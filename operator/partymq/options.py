"""The options of `partymq operator` and `partymq serve`, declared once.

Invariant: a flag, its variable, its default, its value in the chart and what it means stand here and nowhere else. The
command line, the settings, the fields of the file and docs/options.md are made of it.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

from partymq import limits, values
from partymq.core import schema
from partymq.option import Names, Option

LEVELS: Final = ("debug", "info", "warning", "error")
LEAST_IN_FLIGHT: Final = 1024**2

_HOSTNAME: Final = r"\*|[a-z0-9_.:-]{1,253}"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,314}[A-Za-z0-9])?(?:=[A-Za-z0-9_.-]{0,63})?"
_SECRET: Final = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"  # noqa: S105
_NAMESPACE: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


def _matching(pattern: str) -> Callable[[str], str | None]:
    return lambda text: text if re.fullmatch(pattern, text) else None


def _matching_or_none(pattern: str) -> Callable[[str], str | None]:
    return lambda text: text if not text or re.fullmatch(pattern, text) else None


def _hostname(text: str) -> str | None:
    return _matching(_HOSTNAME)(text.lower())


def _in_flight(text: str) -> int | None:
    size = values.size(text)
    return size if size is not None and size >= LEAST_IN_FLIGHT else None


def _log_format(text: str) -> LogFormat | None:
    return LogFormat(text) if text in [form.value for form in LogFormat] else None


def _log_level(text: str) -> str | None:
    return text.lower() if text.lower() in LEVELS else None


_PORT: Final = "is no port: give a number from 0 to 65535."
_DURATION: Final = 'is no duration: give a duration above 0 such as "30s", "2m" or "1m30s".'

NAMESPACES: Final = Names(
    name="namespace",
    short="n",
    repeated=True,
    variable="PARTYMQ_NAMESPACES",
    parse=_matching(_NAMESPACE),
    refusal="is no namespace: give its name, once for each namespace.",
    metavar="NAME",
    help="serve this namespace only; may be given several times, or in the variable with commas",
    more="With namespaces it needs no rights on the rest of the cluster ([security.md](security.md)).",
    otherwise="all",
    chart="watchNamespaces",
)
HTTP_HOST: Final = Option(
    name="http-host",
    variable="PARTYMQ_HTTP_HOST",
    parse=str,
    metavar="ADDRESS",
    help="address of probes and metrics",
    default="0.0.0.0",  # noqa: S104 - probes and scrapes come from outside of the pod
    chart="http.host",
)
HTTP_PORT: Final = Option(
    name="http-port",
    variable="PARTYMQ_HTTP_PORT",
    parse=values.port,
    refusal=_PORT,
    metavar="PORT",
    help="port of probes and metrics",
    more="0 is one that is free.",
    default="8080",
    chart="http.port",
)
LOG_FORMAT: Final = Option(
    name="log-format",
    variable="PARTYMQ_LOG_FORMAT",
    parse=_log_format,
    refusal="is unknown: give text or json.",
    metavar="FORMAT",
    help="text or json",
    default=LogFormat.TEXT.value,
    chart="log.format",
)
LOG_LEVEL: Final = Option(
    name="log-level",
    variable="PARTYMQ_LOG_LEVEL",
    parse=_log_level,
    refusal=f"is unknown: give {', '.join(LEVELS)}.",
    metavar="LEVEL",
    help=", ".join(LEVELS),
    default="info",
    chart="log.level",
)
IDENTITY: Final = Option(
    name="identity",
    variable="PARTYMQ_IDENTITY",
    parse=str,
    metavar="NAME",
    help="this process's name",
    more="In statuses, Events and on the broker. The chart gives it the pod's.",
    otherwise="the host's name",
)
IN_FLIGHT_BYTES: Final = Option(
    name="in-flight-bytes",
    variable="PARTYMQ_IN_FLIGHT_BYTES",
    parse=_in_flight,
    refusal="is no size: give 1Mi or more, such as 256Mi.",
    metavar="SIZE",
    help="most bytes of messages that it has read and not handed on yet",
    more=(
        "Of all groups of the process together; beyond it, messages wait in their queues "
        "([design](design.md#flow-control))."
    ),
    default="256Mi",
    chart="inFlightBytes",
)
LIMIT: Final = Option(
    name="limit",
    repeated=True,
    variable=f"{limits.VARIABLES}<NAME>",
    parse=str,
    metavar="NAME=VALUE",
    help=f"how much of something others may have: {', '.join(limits.names())}",
    more="Each has a default.",
    otherwise="docs/limits.md",
    chart="limits",
)
ALLOWED_HOSTS: Final = Names(
    name="allowed-hosts",
    variable="PARTYMQ_ALLOWED_HOSTS",
    parse=_hostname,
    refusal="is no name of a host: give names or addresses without ports, with commas, or * for any.",
    metavar="NAMES",
    help="further names of this server, with commas, where clients need no token",
    more=(
        "`*` is any. Without a token it answers to addresses, names without a dot and internal ones, and to no web "
        "page of another site ([security.md](security.md#ports))."
    ),
)
KUBECONFIG: Final = Option(
    name="kubeconfig",
    variable="KUBECONFIG",
    parse=str,
    metavar="FILE",
    help="how to reach the API server",
    more="In a pod it is the service account.",
    otherwise="~/.kube/config",
)
SECRET_LABEL: Final = Option(
    name="secret-label",
    variable="PARTYMQ_SECRET_LABEL",
    parse=_matching_or_none(_LABEL),
    refusal="is no label: give NAME=VALUE or a NAME, such as partymq.io/connection=true.",
    metavar="LABEL",
    help="use only connection Secrets that carry this label, NAME=VALUE or a NAME",
    otherwise="any",
    chart="secretLabel",
)
CLIENTS_PORT: Final = Option(
    name="clients-port",
    variable="PARTYMQ_CLIENTS_PORT",
    parse=values.port,
    refusal=_PORT,
    metavar="PORT",
    help="serve clients outside of the cluster over HTTP, too",
    more="By [the API](http-api.md#in-a-cluster) of `partymq serve`. In the chart it needs `clientsApi.enabled`.",
    otherwise="not served",
    chart="clientsApi.port",
)
CLIENTS_HOST: Final = Option(
    name="clients-host",
    variable="PARTYMQ_CLIENTS_HOST",
    parse=str,
    metavar="ADDRESS",
    help="its address",
    default="0.0.0.0",  # noqa: S104 - clients come from outside of the pod
    chart="clientsApi.host",
)
CLIENTS_TOKEN_SECRET: Final = Option(
    name="clients-token-secret",
    variable="PARTYMQ_CLIENTS_TOKEN_SECRET",
    parse=_matching_or_none(_SECRET),
    refusal="is no name of a Secret: give lower case letters, digits, hyphens and dots.",
    metavar="NAME",
    help="the Secret of each namespace whose `token` opens its groups",
    otherwise="none",
    chart="clientsApi.token.namespaceSecretName",
)
CHECK_INTERVAL: Final = Option(
    name="heartbeat-check-interval",
    variable="PARTYMQ_HEARTBEAT_CHECK_INTERVAL",
    parse=values.duration,
    refusal=_DURATION,
    metavar="TIME",
    help="how often that is looked at",
    default="30s",
    in_file="heartbeat.checkInterval",
    chart="clientsApi.heartbeat.checkInterval",
)
EXPIRES_AFTER: Final = Option(
    name="heartbeat-expires-after",
    variable="PARTYMQ_HEARTBEAT_EXPIRES_AFTER",
    parse=values.duration,
    refusal=_DURATION,
    metavar="TIME",
    help="a client's longest silence",
    more="Then it is unbound.",
    default="120s",
    in_file="heartbeat.expiresAfter",
    chart="clientsApi.heartbeat.expiresAfter",
)
API_TOKEN: Final = Option(
    name="",
    variable="PARTYMQ_API_TOKEN",
    parse=str,
    help="a token that requests of clients must carry (Authorization: Bearer ...).",
    more="Set, but empty: refused. With one, all but `/health`, `/healthz`, `/readyz` and `/openapi.json` needs it.",
    otherwise="none",
    chart="clientsApi.token.secretName",
)

CONFIG: Final = Option(
    name="config",
    variable="PARTYMQ_CONFIG",
    parse=str,
    metavar="FILE",
    help="a YAML file with groups and their specs",
)
RABBIT_CS: Final = Option(
    name="rabbit-cs",
    variable="PARTYMQ_RABBIT_CS",
    parse=str,
    metavar="URI",
    help="the broker",
    default="amqp://guest:guest@localhost:5672",
    in_file="broker.uri",
)
MANAGEMENT_URI: Final = Option(
    name="management-uri",
    variable="PARTYMQ_MANAGEMENT_URI",
    parse=str,
    metavar="URI",
    help="its management API",
    more="It is needed by nothing but warnings and the rebuild of a lost journal.",
    otherwise="port 15672 of the broker's host",
    in_file="broker.managementUri",
)
SOURCE_QUEUE: Final = Option(
    name="source-queue",
    variable="PARTYMQ_SOURCE_QUEUE",
    parse=str,
    metavar="QUEUE",
    help="the queue to partition",
    more="Of any type but a stream. While it does not exist the server waits and says so.",
    default="partymq.q.source",
    in_spec=schema.SOURCE_QUEUE.path,
)
KEY_SOURCE: Final = Option(
    name="key-source",
    variable="PARTYMQ_KEY_SOURCE",
    parse=str,
    metavar="PLACE",
    help=f"{', '.join(schema.KEY_FROM.words[:-1])} or {schema.KEY_FROM.words[-1]}",
    default=schema.KEY_FROM.default.value,
    in_spec=schema.KEY_FROM.path,
)
KEY_NAME: Final = Option(
    name="key-name",
    variable="PARTYMQ_KEY_NAME",
    parse=str,
    metavar="NAME",
    help="header, property, JSON field or pointer",
    default=schema.KEY_NAME.with_section,
    in_spec=schema.KEY_NAME.path,
)
NAMESPACE: Final = Option(
    name="namespace",
    variable="PARTYMQ_NAMESPACE",
    parse=str,
    metavar="NAME",
    help="part of all names on the broker",
    default="default",
)
GROUP: Final = Option(
    name="group",
    variable="PARTYMQ_GROUP",
    parse=str,
    metavar="NAME",
    help="the group's name, where there is no file",
    default="default",
)
SERVE_HTTP_HOST: Final = replace(HTTP_HOST, help="address of the clients API, probes and metrics", chart="")
SERVE_HTTP_PORT: Final = replace(
    HTTP_PORT, help="port of the clients API, probes and metrics", default="8085", chart=""
)

COMMON: Final[tuple[Option[Any], ...]] = (LOG_FORMAT, LOG_LEVEL, IDENTITY, IN_FLIGHT_BYTES, LIMIT, ALLOWED_HOSTS)
"""Of both commands."""
OPERATOR: Final[tuple[Option[Any], ...]] = (
    NAMESPACES,
    HTTP_HOST,
    HTTP_PORT,
    *COMMON,
    KUBECONFIG,
    SECRET_LABEL,
    CLIENTS_PORT,
    CLIENTS_HOST,
    CLIENTS_TOKEN_SECRET,
    CHECK_INTERVAL,
    EXPIRES_AFTER,
    API_TOKEN,
)
SERVE: Final[tuple[Option[Any], ...]] = (
    CONFIG,
    RABBIT_CS,
    MANAGEMENT_URI,
    SOURCE_QUEUE,
    KEY_SOURCE,
    KEY_NAME,
    NAMESPACE,
    GROUP,
    CHECK_INTERVAL,
    EXPIRES_AFTER,
    SERVE_HTTP_HOST,
    SERVE_HTTP_PORT,
    *COMMON,
    API_TOKEN,
)
