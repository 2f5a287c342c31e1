"""A token for the clients API, where one is wanted.

Invariant: with a token set, nothing but probes and the API's description is answered without it, nothing of a group
shows in these, and how long the refusal takes says nothing about the token.
"""

import hmac
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from partymq.http.problems import Handler, problem

OPEN: Final = frozenset(("/health", "/healthz", "/readyz", "/openapi.json"))
TRUSTED: Final = web.RequestKey("trusted", bool)
"""A request's item: False where a token is asked for and did not come."""


def bearer(token: str) -> Middleware:
    """Asks for `Authorization: Bearer <token>`."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        request[TRUSTED] = hmac.compare_digest(given, expected)
        if request.path in OPEN or request[TRUSTED]:
            return await handler(request)
        answer = problem(401, "Send the header `Authorization: Bearer <token>` with the token of PARTYMQ_API_TOKEN.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    return check
