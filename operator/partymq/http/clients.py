"""The binding API for clients outside of Kubernetes.

Invariant: what clients of its first version send is understood, and what they get is what they got: bodies may be
empty, no header is needed, statuses are the same. Everything else is new beside it.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from partymq.core.clients import LONGEST_NAME, ClientKind
from partymq.core.report import GroupReport
from partymq.http import views
from partymq.http.answers import (
    BindingAnswer,
    ClientsAnswer,
    GroupHealth,
    HealthAnswer,
    NotBoundAnswer,
    PartitionsAnswer,
    sent,
)
from partymq.http.auth import TRUSTED, Candidates, bearer
from partymq.http.groups import LONG, SHORT, Groups
from partymq.http.openapi import DOCUMENT, WITHOUT_DEFAULT
from partymq.http.origins import local_only
from partymq.http.problems import ProblemError, problems
from partymq.http.tokens import NamespaceTokens
from partymq.router.client_service import ClientService

MAX_BODY: Final = 64 * 1024

log = logging.getLogger(__name__)

BODY_WITHIN: Final = 10.0
"""Seconds for a body, which is a few bytes."""
_LOCAL: Final = frozenset(("127.0.0.1", "::1", "localhost"))
_NAME: Final = re.compile(rf"[A-Za-z0-9_](?:[A-Za-z0-9._-]{{0,{LONGEST_NAME - 2}}}[A-Za-z0-9_])?")

FindGroup = Callable[[web.Request], ClientService]
"""The group that a request is for; raises a problem where there is none."""


def routes(prefix: str, find: FindGroup) -> list[web.RouteDef]:
    """The API of one group, or with variables in `prefix` of several."""
    api = _Api(find)
    client = f"{prefix}/clients/{{hostname}}"
    return [
        web.post(f"{client}/bind", api.bind),
        web.post(f"{client}/ready", api.ready),
        web.post(f"{client}/heartbeat", api.heartbeat),
        web.post(f"{client}/unbind", api.unbind),
        web.get(f"{prefix}/clients", api.clients),
        web.get(client, api.client),
        web.delete(client, api.delete),
        web.get(f"{prefix}/partitions", api.partitions),
        web.get(f"{prefix}/keys/{{key:.+}}", api.key),
    ]


def api(
    groups: Groups, reports: Callable[[], Mapping[str, GroupReport]], *, default: FindGroup | None = None
) -> list[web.RouteDef]:
    """All of the API; `default` finds the group that is served without a prefix, where there is one."""
    return [
        description(DOCUMENT if default is not None else WITHOUT_DEFAULT),
        health(reports),
        *(routes("", default) if default is not None else ()),
        *routes(SHORT, groups.find),
        *routes(LONG, groups.find),
    ]


def middlewares(
    token: str,
    *,
    host: str,
    names: Collection[str] = (),
    tokens: NamespaceTokens | None = None,
    candidates: Candidates = lambda _: (),
) -> list[Middleware]:
    """What stands before the API at `host`: problems, and the token where there is one, or one for each namespace.

    Without one, a browser is not to ask for a page of another site; `names` are further ones of this server.
    """
    if token or tokens is not None:
        return [problems, bearer(token, tokens=tokens, candidates=candidates)]
    if host not in _LOCAL:
        log.warning("The API at %s is open to all who reach it: set PARTYMQ_API_TOKEN unless that is meant.", host)
    return [problems, local_only(names)]


def description(document: Mapping[str, Any]) -> web.RouteDef:
    """The API's OpenAPI document."""

    async def openapi(_: web.Request) -> web.Response:
        return web.json_response(document)

    return web.get("/openapi.json", openapi)


def health(reports: Callable[[], Mapping[str, GroupReport]]) -> web.RouteDef:
    """Says that the process lives, and to those who may know it how its groups are."""

    async def answer(request: web.Request) -> web.Response:
        if not request.get(TRUSTED, True):
            return sent(HealthAnswer(status="ok"))
        groups = {
            name: GroupHealth(
                ready=report.ready.ok,
                routing=report.routing,
                reason=report.ready.reason,
                message=report.ready.message,
            )
            for name, report in reports().items()
        }
        return sent(HealthAnswer(status="ok", groups=groups))

    return web.get("/health", answer)


class _Api:
    def __init__(self, find: FindGroup) -> None:
        self._find = find

    async def bind(self, request: web.Request) -> web.Response:
        name = _hostname(request)
        kind = ClientKind.MANAGED if await _managed(request) else ClientKind.PLAIN
        binding = await self._find(request).bind(name, kind)
        return sent(BindingAnswer(routing_key=binding.routing_key, exchange=binding.exchange, queue=binding.queue))

    async def ready(self, request: web.Request) -> web.Response:
        await self._find(request).ready(_hostname(request))
        return web.Response()

    async def heartbeat(self, request: web.Request) -> web.Response:
        name = _hostname(request)
        if await self._find(request).heartbeat(name):
            return web.Response()
        # Not an error: it never was one, and a client may beat before it binds.
        return sent(NotBoundAnswer(bound=False, detail=f"{name} is not bound (any more): call bind to get messages."))

    async def unbind(self, request: web.Request) -> web.Response:
        await self._find(request).leave(_hostname(request))
        return web.Response()

    async def delete(self, request: web.Request) -> web.Response:
        name = _hostname(request)
        if not await self._find(request).leave(name):
            raise _unknown(name)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def clients(self, request: web.Request) -> web.Response:
        service = self._find(request)
        seen = await service.snapshot()
        names = sorted(seen.ledger.clients)
        shown = (views.client(name, seen, service.names, service.spec) for name in names)
        return sent(ClientsAnswer(clients=tuple(shown)))

    async def client(self, request: web.Request) -> web.Response:
        service, name = self._find(request), _hostname(request)
        seen = await service.snapshot()
        if name not in seen.ledger.clients:
            raise _unknown(name)
        return sent(views.client(name, seen, service.names, service.spec))

    async def partitions(self, request: web.Request) -> web.Response:
        return sent(PartitionsAnswer(partitions=views.partitions(await self._find(request).snapshot())))

    async def key(self, request: web.Request) -> web.Response:
        return sent(views.key(request.match_info["key"], await self._find(request).snapshot()))


def _hostname(request: web.Request) -> str:
    name = request.match_info["hostname"]
    if not _NAME.fullmatch(name):
        raise ProblemError(
            422,
            f"{name[:60]!r} cannot be a client's name: use 1 to {LONGEST_NAME} letters, digits, dots, hyphens and "
            "underscores; the first and the last are no dot and no hyphen.",
        )
    return name


async def _managed(request: web.Request) -> bool:
    try:
        async with asyncio.timeout(BODY_WITHIN):
            body = await request.read()
    except TimeoutError:
        raise ProblemError(408, f"The body did not come within {BODY_WITHIN:g} seconds: send it at once.") from None
    if request.query:
        raise ProblemError(
            400,
            f'The query has {_quoted(sorted(request.query))}, and bind reads none: send the body {{"managed": true}}.',
        )
    if not body.strip():
        return False
    try:
        asked: Any = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError):
        raise ProblemError(400, 'The body is no JSON: send none, or {"managed": true}.') from None
    if isinstance(asked, dict) and (unknown := sorted(asked.keys() - {"managed"})):
        raise ProblemError(
            400, f'The body has the unknown field {_quoted(unknown)}: send no body, or {{"managed": true}}.'
        )
    managed = asked.get("managed", False) if isinstance(asked, dict) else None
    if not isinstance(managed, bool):
        raise ProblemError(422, 'The body must be empty or an object such as {"managed": true}.')
    return managed


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:3])


def _unknown(name: str) -> ProblemError:
    return ProblemError(404, f"{name} is not bound: POST /clients/{name}/bind binds it.")
