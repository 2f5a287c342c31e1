"""Where no token is asked for: who may ask all the same.

Invariant: no web page makes a browser ask for its reader what it could not ask itself. What a browser sends for a page
of another site says so in `Origin` or `Sec-Fetch-Site`; what it sends to a name that the page's owner has pointed at
this process has that name in `Host`.
"""

import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from partymq.foreign import NAME, shown
from partymq.http.problems import Handler, problem

ANY: Final = "*"
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_INTERNAL: Final = (".svc", ".cluster.local", ".local", ".internal", ".localhost")
"""Ends of names that nobody on the internet can own."""
_OURS: Final = frozenset(("none", "same-origin"))


def local_only(hosts: Collection[str]) -> Middleware:
    """Refuses what a page of another site asks; `hosts` are further names of this server, or `*`."""
    own = {name.lower() for name in (*hosts, socket.gethostname())}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _host(request.headers.get("Host", ""))
        if ANY not in own and not (host is not None and (host in own or _internal(host))):
            return problem(
                403,
                f"The Host {shown(host or '', NAME)!r} is none of this server's names, and it asks for no token: name "
                "it in PARTYMQ_ALLOWED_HOSTS, or set PARTYMQ_API_TOKEN.",
            )
        if request.headers.get("Sec-Fetch-Site", "none") not in _OURS or not _same(request):
            return problem(403, "A web page of another site asks, and this server asks for no token: it is refused.")
        return await handler(request)

    return check


def _host(text: str) -> str | None:
    """The name or address in a Host header; None where there is none."""
    try:
        return urlsplit(f"//{text}").hostname
    except ValueError:
        return None


def _internal(host: str) -> bool:
    if host.endswith(_INTERNAL) or _LABEL.fullmatch(host):  # a name without a dot is looked up in the own network
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _same(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower() != ""
    except ValueError:
        return False
