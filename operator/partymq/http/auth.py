"""A token for the clients API, where one is wanted.

Invariant: with a token set, nothing but probes and the API's description is answered without it, nothing of a group
shows in these, and how long the refusal takes says nothing about the token. The token of a namespace opens the groups
of that namespace and shows nothing of others, not even that there are any.
"""

import hmac
from collections.abc import Callable, Collection
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from partymq.http.problems import Handler, problem
from partymq.http.tokens import NamespaceTokens

OPEN: Final = frozenset(("/health", "/healthz", "/readyz", "/openapi.json"))
TRUSTED: Final = web.RequestKey("trusted", bool)
"""A request's item: False where a token is asked for and the one for everything did not come."""
NAMESPACES: Final = web.RequestKey("namespaces", frozenset[str])
"""A request's item: the namespaces that its token is good for; there is none where it is good for all."""

Candidates = Callable[[web.Request], Collection[str]]
"""The namespaces of the groups that a request may mean; raises NotRoutingError while they are not known."""


def bearer(token: str, *, tokens: NamespaceTokens | None = None, candidates: Candidates = lambda _: ()) -> Middleware:
    """Asks for `Authorization: Bearer <token>`; empty where only namespaces have one, which are in `tokens`."""
    expected = f"Bearer {token}".encode()
    whose = "of PARTYMQ_API_TOKEN" if tokens is None else "of the group's namespace, or of PARTYMQ_API_TOKEN"

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        request[TRUSTED] = hmac.compare_digest(given, expected) and bool(token)
        if request.path in OPEN or request[TRUSTED]:
            return await handler(request)
        if tokens is not None and given and (found := await tokens.accepting(given, candidates(request))):
            request[NAMESPACES] = found
            return await handler(request)
        answer = problem(401, f"Send the header `Authorization: Bearer <token>` with the token {whose}.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    return check
