"""The clients API as an OpenAPI 3.1 document, which the server serves and docs/openapi.json repeats.

Invariant: every route of the API is in it, and nothing else; what it says of an answer's body is what the class of that
body says (`http.answers`). The operator, which has no default group, serves it without the paths of one.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from partymq.core.clients import LONGEST_NAME
from partymq.http.answers import (
    Answer,
    BindingAnswer,
    ClientAnswer,
    ClientsAnswer,
    HealthAnswer,
    KeyAnswer,
    PartitionAnswer,
    PartitionsAnswer,
    ProblemAnswer,
    json_name,
)
from partymq.http.groups import LONG, SHORT
from partymq.settings import VERSION

_JSON: Final = "application/json"


def _answer(description: str, schema: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if schema:
        answer["content"] = {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return answer


def _problem(description: str) -> dict[str, Any]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": description, "content": {"application/problem+json": schema}}


_COMMON: Final = {
    "400": _problem("The path is no UTF-8."),
    "401": _problem("The bearer token is missing or wrong, or another namespace's (only where one is asked for)."),
    "403": _problem(
        "A web page of another site asks, or by a name that is none of this server's (only without a token)."
    ),
    "422": _problem("The name cannot be a client's."),
    "503": _problem(
        "This server does not route the group now, or too many requests wait; `Retry-After` says when to ask again."
    ),
}


def _operation(summary: str, answers: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"summary": summary, **more, "responses": {**_COMMON, **answers}}


def _parameter(name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", **more}}


_HOSTNAME: Final = {"$ref": "#/components/parameters/hostname"}

_CLIENT_PATHS: Final[dict[str, Any]] = {
    "/clients": {"get": _operation("All clients that are bound", {"200": _answer("The clients", "Clients")})},
    "/clients/{hostname}": {
        "parameters": [_HOSTNAME],
        "get": _operation("One client", {"200": _answer("The client", "Client"), "404": _problem("It is not bound.")}),
        "delete": _operation(
            "Unbind a client", {"204": _answer("It is unbound."), "404": _problem("It is not bound.")}
        ),
    },
    "/clients/{hostname}/bind": {
        "parameters": [_HOSTNAME],
        "post": _operation(
            "Announce a client",
            {
                "200": _answer("Where it gets its messages", "Binding"),
                "400": _problem("The body is no JSON or has a field that is not known."),
                "408": _problem("The body did not come in time."),
                "409": _problem("It is pending already, or bound as another kind."),
                "429": _problem("The group has as many clients as it may have, or it binds again and again."),
            },
            description=(
                "Without a body the client binds a queue of its own to `exchange` with `routingKey`, calls `ready` and "
                "from then on `heartbeat`. A managed client consumes `queue`, and nothing more is needed."
            ),
            requestBody={
                "required": False,
                "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Bind"}}},
            },
        ),
    },
    "/clients/{hostname}/ready": {
        "parameters": [_HOSTNAME],
        "post": _operation(
            "Say that the queue is bound",
            {"200": _answer("Messages may come."), "409": _problem("It is unknown, or ready already.")},
        ),
    },
    "/clients/{hostname}/heartbeat": {
        "parameters": [_HOSTNAME],
        "post": _operation(
            "Say that the client lives", {"200": _answer("Heard; a body says so where the client is not bound.")}
        ),
    },
    "/clients/{hostname}/unbind": {
        "parameters": [_HOSTNAME],
        "post": _operation("Unbind a client", {"200": _answer("It is unbound, whether or not it was bound.")}),
    },
    "/partitions": {"get": _operation("All partitions", {"200": _answer("The partitions", "Partitions")})},
    "/keys/{key}": {
        "parameters": [_parameter("key")],
        "get": _operation("Where a key's messages go, and why they wait", {"200": _answer("The key", "Key")}),
    },
}


def _of_group(prefix: str, path: dict[str, Any]) -> dict[str, Any]:
    names = ("group",) if prefix == SHORT else ("namespace", "group")
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in names]
    missing = {"404": _problem("There is no such group.")}
    several = {"409": _problem("Groups of several namespaces have that name.")} if prefix == SHORT else {}
    found: dict[str, Any] = {"parameters": [*parameters, *path.get("parameters", [])]}
    for method, operation in path.items():
        if method != "parameters":
            found[method] = {**operation, "responses": {**missing, **several, **operation["responses"]}}
    return found


def _component(answer: type[Answer]) -> str:
    return answer.__name__.removesuffix(Answer.__name__)


def _object(described: type) -> dict[str, Any]:
    """The schema of a dataclass; what has a default may be left out, and is never null."""
    hints = get_type_hints(described, include_extras=True)
    optional = {field.name for field in fields(described) if field.default is not MISSING}
    return {
        "type": "object",
        "required": [json_name(name) for name in hints if name not in optional],
        "properties": {json_name(name): _schema(hint, null=name not in optional) for name, hint in hints.items()},
    }


def _schema(hint: Any, *, null: bool = True) -> dict[str, Any]:  # noqa: ANN401 - a type, as it is written
    """The schema of a field's type; without `null`, None stands for what is left out."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return {**_schema(parts[0], null=null), "description": parts[1]}
    if kind is UnionType:
        (kept,) = (part for part in parts if part is not NoneType)
        schema = _schema(kept)
        return {**schema, "type": [schema["type"], "null"]} if null else schema
    if kind is Literal:
        return {"const": parts[0]} if len(parts) == 1 else {"enum": list(parts)}
    if kind is tuple:
        return {"type": "array", "items": _schema(parts[0])}
    if kind is Mapping:
        return {"type": "object", "additionalProperties": _schema(parts[1])}
    if issubclass(hint, Answer):
        return {"$ref": f"#/components/schemas/{_component(hint)}"}
    if issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    return {"type": _NAMES[hint]} if hint in _NAMES else _object(hint)


_NAMES: Final[Mapping[type, str]] = {str: "string", int: "integer", bool: "boolean"}
_BODIES: Final = (
    BindingAnswer,
    ClientAnswer,
    ClientsAnswer,
    PartitionAnswer,
    PartitionsAnswer,
    KeyAnswer,
    HealthAnswer,
    ProblemAnswer,
)
_SCHEMAS: Final[dict[str, Any]] = {
    "Bind": {
        "type": "object",
        "required": [],
        "properties": {"managed": {"type": "boolean", "default": False}},
        "additionalProperties": False,
    },
    **{_component(body): _object(body) for body in _BODIES},
}

DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": "PartyMQ clients API",
        "version": VERSION,
        "description": "Binds consumers outside of Kubernetes to a group. See docs/http-api.md.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "paths": {
        "/health": {
            "get": {
                "summary": "That the server lives, and how its groups are",
                "security": [],
                "responses": {"200": _answer("It lives", "Health")},
            }
        },
        **_CLIENT_PATHS,
        **{
            f"{prefix}{path}": _of_group(prefix, operations)
            for prefix in (SHORT, LONG)
            for path, operations in _CLIENT_PATHS.items()
        },
    },
    "components": {
        "parameters": {
            "hostname": {
                "name": "hostname",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "maxLength": LONGEST_NAME},
            },
            "group": _parameter("group"),
            "namespace": _parameter("namespace"),
        },
        "schemas": _SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{}, {"token": []}],
}

WITHOUT_DEFAULT: Final[dict[str, Any]] = {
    **DOCUMENT,
    "paths": {path: operations for path, operations in DOCUMENT["paths"].items() if path not in _CLIENT_PATHS},
}
