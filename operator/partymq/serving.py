"""What `partymq serve` is told: by flags, the environment, or a file.

Invariant: what comes out is usable; what is not is refused with one sentence that names the flag, the variable or the
field. A flag wins over its variable, a variable over the file, the file over the default.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from partymq.amqp.address import management_address, parse_uri
from partymq.core.names import Names
from partymq.core.spec import ClientsSpec, GroupConfig, GroupId, GroupSpec, limited
from partymq.errors import InvalidSecretError, InvalidSpecError
from partymq.kube.resource import group_spec
from partymq.settings import Settings, api_token, hosts, load, seconds

DEFAULT_PORT: Final = 8085
DEFAULT_BROKER: Final = "amqp://guest:guest@localhost:5672"
DEFAULT_SOURCE: Final = "partymq.q.source"
EXCHANGE: Final = "partymq.ex.write"
"""Of the default group. The others' are named after them: a client's name would otherwise be one for all groups."""

_SPEC: Final[Mapping[str, Any]] = {
    "source": {"queue": None},
    "key": {"from": None, "name": None, "onMissing": None},
    "partitions": None,
    "inbox": {"window": None},
    "backlog": {"limit": None},
    "members": {"rejoinSeconds": None},
    "rebalance": {"delaySeconds": None},
    "rollout": {"patienceSeconds": None},
    "handoff": {"timeoutSeconds": None, "onTimeout": None},
    "deletionPolicy": None,
    "paused": None,
}
_FILE: Final[Mapping[str, Any]] = {
    "broker": {"uri": None, "managementUri": None},
    "heartbeat": {"checkInterval": None, "expiresAfter": None},
    "groups": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """All that the server needs to know; the first group is the default one."""

    settings: Settings
    groups: tuple[GroupConfig, ...]
    token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What was given on the command line; None was not."""

    config: str | None = None
    rabbit_cs: str | None = None
    management_uri: str | None = None
    source_queue: str | None = None
    key_source: str | None = None
    key_name: str | None = None
    heartbeat_check_interval: str | None = None
    heartbeat_expires_after: str | None = None
    namespace: str | None = None
    group: str | None = None
    http_host: str | None = None
    http_port: str | None = None
    log_format: str | None = None
    log_level: str | None = None
    identity: str | None = None
    in_flight_bytes: str | None = None
    allowed_hosts: str | None = None
    limit: tuple[str, ...] = ()


def load_serving(flags: Flags, environ: Mapping[str, str] = os.environ) -> Serving:
    """Everything from flags, environment and file; raises InvalidSpecError."""

    def told(name: str) -> str | None:
        return getattr(flags, name) or environ.get(f"PARTYMQ_{name.upper()}") or None

    path = told("config")
    file = _read(path) if path else {}
    broker = told("rabbit_cs") or _section(file, "broker").get("uri") or DEFAULT_BROKER
    management = told("management_uri") or _section(file, "broker").get("managementUri") or ""
    try:
        management = management_address(str(management))
    except InvalidSecretError:
        raise InvalidSpecError(
            "--management-uri (PARTYMQ_MANAGEMENT_URI) is no address of a management API: write http://host:15672 or "
            "https://user:password@host:15671."
        ) from None
    try:
        address = parse_uri(str(broker), management_uri=management)
    except InvalidSecretError as error:
        raise InvalidSpecError(f"--rabbit-cs (PARTYMQ_RABBIT_CS): {error}") from None
    heartbeat = _section(file, "heartbeat")
    clients = ClientsSpec(
        exchange=EXCHANGE,
        expires_after=seconds(
            "--heartbeat-expires-after (PARTYMQ_HEARTBEAT_EXPIRES_AFTER)",
            told("heartbeat_expires_after") or heartbeat.get("expiresAfter") or "120s",
        ),
        check_every=seconds(
            "--heartbeat-check-interval (PARTYMQ_HEARTBEAT_CHECK_INTERVAL)",
            told("heartbeat_check_interval") or heartbeat.get("checkInterval") or "30s",
        ),
    )
    namespace, given = told("namespace") or "default", file.get("groups")
    overrides = {name: told(name) for name in ("source_queue", "key_source", "key_name")}
    entries = _groups(given, path) if given is not None else [(told("group") or "default", {})]
    groups = []
    for place, (name, spec) in enumerate(entries):
        group = GroupId(namespace=namespace, name=name)
        # Variables speak of the one group that there would be without a file.
        wanted = _spec(spec, overrides if place == 0 else {})
        exchange = EXCHANGE if place == 0 else Names(group).exchange
        groups.append(
            GroupConfig(
                group=group, spec=_read_spec(group, wanted), broker=address, clients=replace(clients, exchange=exchange)
            )
        )
    settings = load(
        http_host=flags.http_host,
        http_port=flags.http_port or environ.get("PARTYMQ_HTTP_PORT") or str(DEFAULT_PORT),
        log_format=flags.log_format,
        log_level=flags.log_level,
        identity=flags.identity,
        in_flight_bytes=flags.in_flight_bytes,
        limits=flags.limit,
        environ=environ,
    )
    return Serving(
        settings=settings,
        groups=tuple(limited(config, settings.limits) for config in groups),
        token=api_token(environ),
        allowed_hosts=hosts(flags.allowed_hosts, environ),
    )


def _read(path: str) -> Mapping[str, Any]:
    import yaml  # late: a server without a file starts without it

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpecError(f"--config {path} (PARTYMQ_CONFIG) cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:  # its own text shows lines of the file, and so passwords
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise InvalidSpecError(f"--config {path} (PARTYMQ_CONFIG) is no YAML in UTF-8{where}.") from None
    if not isinstance(found, Mapping):
        raise InvalidSpecError(f"--config {path} (PARTYMQ_CONFIG) must hold a mapping with `groups`.")
    _refuse_unknown(found, _FILE, "")
    return found


def _groups(given: object, path: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(given, list) or not given:
        raise InvalidSpecError(f"{path}: `groups` must be a list of `{{name: ..., spec: {{...}}}}`, with one at least.")
    groups: list[tuple[str, Mapping[str, Any]]] = []
    for place, entry in enumerate(given):
        where = f"groups[{place}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise InvalidSpecError(f"{path}: {where} needs a `name`, a text.")
        spec = entry.get("spec") or {}
        if not isinstance(spec, Mapping):
            raise InvalidSpecError(
                f"{path}: {where}.spec must be a mapping with the fields of a PartitionGroup's spec."
            )
        _refuse_unknown(entry, {"name": None, "spec": _SPEC}, f"{where}.")
        if entry["name"] in [name for name, _ in groups]:
            raise InvalidSpecError(f"{path}: there are two groups {entry['name']!r}.")
        groups.append((entry["name"], spec))
    return groups


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    for name, value in given.items():
        if name not in known:
            raise InvalidSpecError(f"The file's field {path}{name} is unknown: use {', '.join(known)}.")
        if known[name] is not None and value is not None:
            if not isinstance(value, Mapping):
                raise InvalidSpecError(
                    f"The file's field {path}{name} must be a mapping with {', '.join(known[name])}."
                )
            _refuse_unknown(value, known[name], f"{path}{name}.")


def _section(file: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return file.get(name) or {}


def _spec(spec: Mapping[str, Any], told: Mapping[str, str | None]) -> dict[str, Any]:
    """A group's spec with what flags and variables say, and this server's defaults."""
    key = {"from": "header", **(spec.get("key") or {})}
    if told.get("key_source"):
        key["from"] = told["key_source"]
    if told.get("key_name"):
        key["name"] = told["key_name"]
    if key["from"] != "routingKey":
        key.setdefault("name", "partitionKey")
    source = told.get("source_queue") or (spec.get("source") or {}).get("queue") or DEFAULT_SOURCE
    return {**spec, "key": key, "source": {"queue": source}}


def _read_spec(group: GroupId, spec: Mapping[str, Any]) -> GroupSpec:
    try:
        return group_spec(group, spec)
    except InvalidSpecError as error:
        said = re.sub(r" `kubectl explain [^`]*` says .*", " See docs/http-api.md.", str(error))
        raise InvalidSpecError(f"group {group.name}: {said}") from None
