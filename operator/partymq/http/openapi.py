"""The clients API as an OpenAPI 3.1 document, which the server serves and docs/openapi.json repeats.

Invariant: every route of the API is in it, and nothing else. The operator, which has no default group, serves it
without the paths of one.
"""

from typing import Any, Final

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
    "401": _problem("The bearer token is missing or wrong (only where the server has one)."),
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
                "429": _problem("The group has as many clients as it may have."),
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


def _object(required: list[str], **properties: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"type": "object", "required": required, "properties": properties}


_TEXT: Final = {"type": "string"}
_WAITING: Final = {"type": "string", "description": "What it waits for; only while it waits."}
_OWNER: Final = {"type": ["string", "null"]}

_SCHEMAS: Final[dict[str, Any]] = {
    "Bind": {**_object([], managed={"type": "boolean", "default": False}), "additionalProperties": False},
    "Binding": _object(
        ["routingKey", "exchange"],
        routingKey=_TEXT,
        exchange=_TEXT,
        queue={"type": "string", "description": "The inbox of a managed client."},
    ),
    "Client": _object(
        ["hostname", "kind", "state", "partitions"],
        hostname=_TEXT,
        kind={"enum": ["plain", "managed"]},
        state={"enum": ["pending", "ready", "joining", "active", "idle", "absent", "leaving"]},
        partitions={"type": "string", "description": "Partitions that it has as a whole, such as `0-3,7`."},
        slots={"type": "integer", "description": "Slots that are pinned to a plain client."},
        routingKey=_TEXT,
        exchange=_TEXT,
        queue=_TEXT,
    ),
    "Clients": _object(["clients"], clients={"type": "array", "items": {"$ref": "#/components/schemas/Client"}}),
    "Partition": _object(
        ["partition", "owner", "state", "slots"],
        partition={"type": "integer"},
        owner=_OWNER,
        state={
            "enum": ["direct", "waiting", "held", "open", "unassigned"],
            "description": "`open`: plain clients are given its slots one by one.",
        },
        slots={"type": "object", "additionalProperties": {"type": "integer"}},
        waitingFor=_WAITING,
    ),
    "Partitions": _object(
        ["partitions"], partitions={"type": "array", "items": {"$ref": "#/components/schemas/Partition"}}
    ),
    "Key": _object(
        ["key", "partition", "slot", "owner", "state"],
        key=_TEXT,
        partition={"type": "integer"},
        slot={"type": "integer"},
        owner=_OWNER,
        state={"enum": ["pinned", "direct", "waiting", "held", "open", "unassigned"]},
        waitingFor=_WAITING,
    ),
    "Health": _object(
        ["status"],
        status={"const": "ok"},
        groups={
            "type": "object",
            "description": "Not shown to who sends no token, where one is asked for.",
            "additionalProperties": _object(
                ["ready", "routing", "reason", "message"],
                ready={"type": "boolean"},
                routing={"type": "boolean"},
                reason=_TEXT,
                message={"type": "string", "description": "What is in the way, and what to do."},
            ),
        },
    ),
    "Problem": _object(
        ["type", "title", "status", "detail"],
        type=_TEXT,
        title=_TEXT,
        status={"type": "integer"},
        detail={"type": "string", "description": "What to do."},
        reason=_TEXT,
    ),
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
                "schema": {"type": "string", "maxLength": 200},
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
