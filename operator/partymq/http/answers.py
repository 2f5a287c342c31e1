"""What the clients API answers, as it is sent and as docs/openapi.json describes it.

Invariant: a body is made of one of these and of nothing else, in the order of its fields. A field without a default is
always there, with null for None; one with a default is left out while it is None.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias

from aiohttp import web

from partymq.core.clients import ClientKind

ClientState: TypeAlias = Literal["pending", "ready", "joining", "active", "idle", "absent", "leaving"]
PartitionState: TypeAlias = Literal["direct", "waiting", "held", "open", "unassigned"]
KeyState: TypeAlias = Literal["pinned", PartitionState]
WaitingFor: TypeAlias = Annotated[str | None, "What it waits for; only while it waits."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The body of an answer, a JSON object; described by the name of its class without this word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingAnswer(Answer):
    """Where a client gets its messages."""

    routing_key: str
    exchange: str
    queue: Annotated[str | None, "The inbox of a managed client."] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAnswer(Answer):
    """One client that is bound; which fields it has depends on its kind."""

    hostname: str
    kind: ClientKind
    state: ClientState
    partitions: Annotated[str, "Partitions that it has as a whole, such as `0-3,7`."]
    queue: str | None = None
    routing_key: str | None = None
    exchange: str | None = None
    slots: Annotated[int | None, "Slots that are pinned to a plain client."] = None
    waiting_for: WaitingFor = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsAnswer(Answer):
    """All of them."""

    clients: tuple[ClientAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotBoundAnswer(Answer):
    """To the heartbeat of a client that is not bound; others get no body."""

    bound: Literal[False]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionAnswer(Answer):
    """One partition, and how many of its slots are pinned to whom."""

    partition: int
    owner: str | None
    slots: Mapping[str, int]
    state: Annotated[PartitionState, "`open`: plain clients are given its slots one by one."]
    waiting_for: WaitingFor = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionsAnswer(Answer):
    """All of them."""

    partitions: tuple[PartitionAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAnswer(Answer):
    """Where the messages of a key go."""

    key: str
    partition: int
    slot: int
    owner: str | None
    state: KeyState
    waiting_for: WaitingFor = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHealth:
    """How a group is."""

    ready: bool
    routing: bool
    reason: str
    message: Annotated[str, "What is in the way, and what to do."]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthAnswer(Answer):
    """That the server lives, and how its groups are."""

    status: Literal["ok"]
    groups: Annotated[Mapping[str, GroupHealth] | None, "Not shown to who sends no token, where one is asked for."] = (
        None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemAnswer(Answer):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: Annotated[str, "What to do."]
    reason: str | None = None


def sent(answer: Answer, *, status: int = 200, content_type: str = "application/json") -> web.Response:
    """The answer with this body."""
    return web.json_response(as_json(answer), status=status, content_type=content_type)


def as_json(value: object) -> Any:  # noqa: ANN401 - JSON
    """What is sent of a value of these classes."""
    if isinstance(value, Answer | GroupHealth):
        shown = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            json_name(field.name): as_json(part)
            for field, part in shown
            if part is not None or field.default is MISSING
        }
    if isinstance(value, tuple):
        return [as_json(part) for part in value]
    if isinstance(value, Mapping):
        return {name: as_json(part) for name, part in value.items()}
    return value.value if isinstance(value, Enum) else value


def json_name(field: str) -> str:
    """A field's name, as JSON has it."""
    first, *others = field.split("_")
    return first + "".join(other.capitalize() for other in others)
