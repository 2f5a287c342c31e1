"""What `partymq serve` is told: by flags, the environment, or a file.

Invariant: what comes out is usable; what is not is refused with one sentence that names the flag, the variable or the
field. A flag wins over its variable, a variable over the file, the file over the default.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from partymq import options
from partymq.amqp.address import management_address, parse_uri
from partymq.core.names import Names
from partymq.core.schema import BROKER, FIELDS
from partymq.core.spec import BrokerAddress, ClientsSpec, GroupConfig, GroupId, GroupSpec, KeyFrom, limited
from partymq.core.spec_reader import group_spec
from partymq.errors import InvalidSecretError, InvalidSpecError
from partymq.option import Given
from partymq.settings import Settings, api_token, load_common

EXCHANGE: Final = "partymq.ex.write"
"""Of the default group. The others' are named after them: a client's name would otherwise be one for all groups."""


def _tree(paths: Iterable[str]) -> dict[str, Any]:
    """A mapping of mappings with these dotted paths, and None at the end of each."""
    tree: dict[str, Any] = {}
    for path in paths:
        *sections, last = path.split(".")
        inner = tree
        for name in sections:
            inner = inner.setdefault(name, {})
        inner[last] = None
    return tree


_SPEC: Final = _tree(field.path for field in FIELDS if not field.path.startswith(f"{BROKER.path}."))
_FILE: Final = {**_tree(option.in_file for option in options.SERVE if option.in_file), "groups": None}
_OVERRIDES: Final = tuple(option for option in options.SERVE if option.in_spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """All that the server needs to know; the first group is the default one."""

    settings: Settings
    groups: tuple[GroupConfig, ...]
    token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()


def load_serving(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Serving:
    """Everything from flags by the options' keys, environment and file; raises InvalidSpecError."""
    given = Given(flags=flags or {}, environ=environ)
    if path := options.CONFIG.read(given):
        given = replace(given, file=_read(path))
    broker = _broker(given)
    clients = ClientsSpec(
        exchange=EXCHANGE,
        expires_after=options.EXPIRES_AFTER.read(given),
        check_every=options.CHECK_INTERVAL.read(given),
    )
    listed = given.file.get("groups")
    groups = []
    for place, (name, spec) in enumerate(
        _groups(listed, path) if listed is not None else [(options.GROUP.read(given), {})]
    ):
        group = GroupId(namespace=options.NAMESPACE.read(given), name=name)
        # Flags and variables speak of the one group that there would be without a file.
        overrides = {option.in_spec: option.said(given) for option in _OVERRIDES} if place == 0 else {}
        exchange = EXCHANGE if place == 0 else Names(group).exchange
        groups.append(
            GroupConfig(
                group=group,
                spec=_read_spec(group, _spec(spec, overrides)),
                broker=broker,
                clients=replace(clients, exchange=exchange),
            )
        )
    settings = load_common(given, http_host=options.SERVE_HTTP_HOST, http_port=options.SERVE_HTTP_PORT)
    return Serving(
        settings=settings,
        groups=tuple(limited(config, settings.limits) for config in groups),
        token=api_token(environ),
        allowed_hosts=options.ALLOWED_HOSTS.read_all(given),
    )


def _broker(given: Given) -> BrokerAddress:
    """Its address; what stands in an address may be a password, and is not shown."""
    try:
        management = management_address(options.MANAGEMENT_URI.read(given))
    except InvalidSecretError:
        raise InvalidSpecError(
            "--management-uri (PARTYMQ_MANAGEMENT_URI) is no address of a management API: write http://host:15672 or "
            "https://user:password@host:15671."
        ) from None
    try:
        return parse_uri(options.RABBIT_CS.read(given), management_uri=management)
    except InvalidSecretError as error:
        raise InvalidSpecError(f"--rabbit-cs (PARTYMQ_RABBIT_CS): {error}") from None


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


def _spec(spec: Mapping[str, Any], said: Mapping[str, str]) -> dict[str, Any]:
    """A group's spec with what is `said` of its fields by flags and variables, and this server's defaults."""
    key = {"from": options.KEY_SOURCE.default, **(spec.get("key") or {})}
    if source := said.get(options.KEY_SOURCE.in_spec):
        key["from"] = source
    if name := said.get(options.KEY_NAME.in_spec):
        key["name"] = name
    if key["from"] != KeyFrom.ROUTING_KEY:
        key.setdefault("name", options.KEY_NAME.default)
    queue = said.get(options.SOURCE_QUEUE.in_spec) or (spec.get("source") or {}).get("queue")
    return {**spec, "key": key, "source": {"queue": queue or options.SOURCE_QUEUE.default}}


def _read_spec(group: GroupId, spec: Mapping[str, Any]) -> GroupSpec:
    try:
        return group_spec(group, spec, lambda _path, _which: "See docs/http-api.md.")
    except InvalidSpecError as error:
        raise InvalidSpecError(f"group {group.name}: {error}") from None
