"""A PartitionGroup as the API server gives it, read into values.

Invariant: what comes out of here is usable as it stands. The CRD refuses most mistakes before they get this far; an
older CRD may not, so every rule stands here too, and every refusal is a sentence that names the field.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from partymq.core.names import Names
from partymq.core.spec import MOST_PARTITIONS, DeletionPolicy, GroupId, GroupSpec, KeyFrom, KeySpec, OnMissing
from partymq.core.window import MAX_WINDOW
from partymq.errors import InvalidSpecError
from partymq.foreign import NAME, shown

API_GROUP: Final = "partymq.io"
API_VERSION: Final = "v1alpha1"
PLURAL: Final = "partitiongroups"
KIND: Final = "PartitionGroup"

GROUP_ANNOTATION: Final = "partymq.io/group"
"""On a pod: the group that it joins."""

FORCE_ANNOTATION: Final = "partymq.io/force-delete"
"""On a PartitionGroup, with the value "true": let it go although its queues could not be deleted."""

PROPERTIES: Final = frozenset(
    (
        "app_id",
        "content_encoding",
        "content_type",
        "correlation_id",
        "message_id",
        "priority",
        "reply_to",
        "type",
        "user_id",
    )
)
"""The properties of a message that can hold a key."""

_LONGEST_SECRET: Final = 253
_SECRET: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
"""The name of a Secret, as the API server takes it (a DNS subdomain); the CRD repeats it."""

Body = Mapping[str, Any]

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What matters of a PartitionGroup besides its spec; `spec` and `status` are as they came."""

    group: GroupId
    uid: str
    version: str
    created: str
    generation: int
    deleting: bool
    forced: bool
    spec: Body
    status: Body


def resource(body: Body) -> Resource:
    """Read the frame of a PartitionGroup; nothing in it can be wrong, the API server writes it."""
    meta = body["metadata"]
    return Resource(
        group=GroupId(namespace=meta["namespace"], name=meta["name"]),
        uid=meta["uid"],
        version=meta["resourceVersion"],
        created=meta.get("creationTimestamp", ""),
        generation=meta.get("generation", 0),
        deleting="deletionTimestamp" in meta,
        forced=(meta.get("annotations") or {}).get(FORCE_ANNOTATION) == "true",
        spec=body.get("spec") or {},
        status=body.get("status") or {},
    )


def secret_name(spec: Body) -> str:
    """The name of the Secret that says how to connect."""
    section = _section(_section(spec, "broker", ""), "connectionSecret", "broker.")
    name = _text(section, "name", "broker.connectionSecret.")
    # It becomes a part of a path at the API server, and of a command that people are told to run.
    if len(name) > _LONGEST_SECRET or not _SECRET.fullmatch(name):
        raise InvalidSpecError(
            f"spec.broker.connectionSecret.name is {shown(name, NAME)!r}, and no Secret has such a name: use at most "
            f"{_LONGEST_SECRET} lower-case letters, digits, hyphens and dots, which do not stand first or last."
        )
    return name


def group_spec(group: GroupId, spec: Body) -> GroupSpec:
    """Read a spec; raises InvalidSpecError with the sentence that its author needs."""
    Names(group)
    default = GroupSpec(source_queue="")
    return GroupSpec(
        source_queue=_source(spec),
        key=_key(spec),
        partitions=_integer(spec, "partitions", default.partitions, 1, MOST_PARTITIONS),
        inbox_window=_integer(spec, "inbox.window", default.inbox_window, 1, MAX_WINDOW),
        backlog_limit=_integer(spec, "backlog.limit", default.backlog_limit, 0, 1_000_000_000),
        rejoin_seconds=_integer(spec, "members.rejoinSeconds", default.rejoin_seconds, 0, 86_400),
        rebalance_delay=_integer(spec, "rebalance.delaySeconds", default.rebalance_delay, 0, 3_600),
        rollout_patience=_integer(spec, "rollout.patienceSeconds", default.rollout_patience, 0, 86_400),
        handoff_timeout=_integer(spec, "handoff.timeoutSeconds", default.handoff_timeout, 1, 86_400),
        on_timeout=_choice(spec, "handoff.onTimeout", default.on_timeout),
        deletion_policy=_choice(spec, "deletionPolicy", default.deletion_policy),
        paused=_flag(spec, "paused", default=default.paused),
    )


def deletion_policy(spec: Body) -> DeletionPolicy:
    """The policy alone: a group whose spec is unusable can still be deleted."""
    try:
        return _choice(spec, "deletionPolicy", DeletionPolicy.DELETE_EMPTY)
    except InvalidSpecError:
        return DeletionPolicy.DELETE_EMPTY


def _source(spec: Body) -> str:
    queue = _text(_section(spec, "source", ""), "queue", "source.")
    # All of PartyMQ's have a namespace and a group in their names.
    if queue.startswith("amq.") or (queue.startswith("partymq.") and queue.count(".") > 2):
        raise InvalidSpecError(
            f"spec.source.queue is {shown(queue, NAME)!r}: names that begin with `partymq.` are PartyMQ's own, "
            "with `amq.` the broker's. Name a queue of yours."
        )
    if len(queue.encode()) > 255:
        raise InvalidSpecError("spec.source.queue has more than 255 bytes: the broker has no queue of that name.")
    return queue


def _key(spec: Body) -> KeySpec:
    if spec.get("key") is None:
        return KeySpec()
    key = _section(spec, "key", "")
    source = _choice(key, "from", KeyFrom.HEADER, "key.")
    on_missing = _choice(key, "onMissing", OnMissing.SPREAD, "key.")
    if source is KeyFrom.ROUTING_KEY:
        return KeySpec(source=source, name="", on_missing=on_missing)
    name = _text(key, "name", "key.")
    if len(name.encode()) > 255:
        raise InvalidSpecError("spec.key.name has more than 255 bytes: no header has a name of that length.")
    if source is KeyFrom.PROPERTY and name not in PROPERTIES:
        raise InvalidSpecError(
            f"spec.key.name is {shown(name, NAME)!r}, no property of AMQP messages. "
            f"Use {', '.join(sorted(PROPERTIES))}."
        )
    if source is KeyFrom.BODY and name.startswith("/") and "~" in name.replace("~0", "").replace("~1", ""):
        raise InvalidSpecError(
            f"spec.key.name is {shown(name, NAME)!r}, no JSON pointer (RFC 6901). "
            "Write `~` as `~0` and `/` in a name as `~1`."
        )
    return KeySpec(source=source, name=name, on_missing=on_missing)


def _section(parent: Body, name: str, path: str) -> Body:
    section = parent.get(name)
    if not isinstance(section, Mapping):
        raise InvalidSpecError(
            f"spec.{path}{name} is missing. `kubectl explain partitiongroup.spec.{path}{name}` says what it holds."
        )
    return section


def _text(parent: Body, name: str, path: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidSpecError(
            f"spec.{path}{name} is {'missing' if value is None else shown(repr(value), NAME)}; it must be a text. "
            f"`kubectl explain partitiongroup.spec.{path}{name}` says which."
        )
    return value


def _at(spec: Body, path: str) -> object:
    """The value at a dotted path, None where a part of it is missing."""
    value: object = spec
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _integer(spec: Body, path: str, default: float, low: int, high: int) -> int:
    value = _at(spec, path)
    if value is None:
        return int(default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidSpecError(
            f"spec.{path} is {shown(repr(value), NAME)}; it must be a whole number from {low} to {high}."
        )
    return value


def _flag(spec: Body, path: str, *, default: bool) -> bool:
    value = _at(spec, path)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidSpecError(f"spec.{path} is {shown(repr(value), NAME)}; it must be true or false.")
    return value


def _choice(spec: Body, path: str, default: _Choice, prefix: str = "") -> _Choice:
    value = _at(spec, path)
    if value is None:
        return default
    choices = type(default)
    if value not in [choice.value for choice in choices]:
        raise InvalidSpecError(
            f"spec.{prefix}{path} is {shown(repr(value), NAME)}; "
            f"it must be {' or '.join(choice.value for choice in choices)}."
        )
    return choices(value)
