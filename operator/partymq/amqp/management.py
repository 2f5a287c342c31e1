"""The few things that AMQP cannot say or do, over the broker's management API.

Invariant: the API's figures are seconds old, and no promise rests on one of them alone (`amqp.lost_nodes` says what a
lost node takes besides). It is for showing who holds messages, and for closing the connection of somebody who was given
the time to let go. Whatever answers at the address that a tenant has named gets no further than to one sentence of
ours: nothing is followed, nothing unpacked, nothing repeated (`amqp.answers` has the limits).
"""

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Generic, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aiohttp

from partymq.amqp import answers
from partymq.amqp.causes import cause
from partymq.amqp.tls import tls_context
from partymq.core.consumers import SESSION_ARGUMENT, Consumer, Consumers, shows
from partymq.core.hazards import QueueFacts
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, ConnectionLostError
from partymq.foreign import NAME, shown

T = TypeVar("T")
M = TypeVar("M")

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, sock_connect=2)
_SHOWN_EVERY: Final = 0.5
"""Seconds between looks for what the API shows up to five seconds late."""
_PLAIN_PORT: Final = 15_672
_TLS_PORT: Final = 15_671
_PAGE: Final = 500
"""Queues; the most that the API gives at once."""
_SEES_ALL: Final = {"monitoring", "administrator"}
_COLUMNS: Final = ",".join(
    (
        "queue.name",
        "consumer_tag",
        "active",
        "ack_required",
        "prefetch_count",
        "arguments.x-priority",
        f"arguments.{SESSION_ARGUMENT}",
        "channel_details.connection_name",
        "channel_details.peer_host",
        "channel_details.peer_port",
    )
)
_FACTS: Final = ",".join(
    (
        "name",
        "type",
        "durable",
        "auto_delete",
        "exclusive",
        "arguments",
        "policy",
        "operator_policy",
        "effective_policy_definition",
        "members",
        "online",
    )
)


def _bases(address: BrokerAddress) -> tuple[list[str], str, str]:
    """The API's addresses, and the user and password for it: the broker's, unless the address names others."""
    if address.management_uri:
        parts = urlsplit(address.management_uri)
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        if parts.username is not None:
            return [url], unquote(parts.username), unquote(parts.password or "")
        return [url], address.username, address.password
    scheme = f"http://{{}}:{_PLAIN_PORT}" if address.tls is None else f"https://{{}}:{_TLS_PORT}"
    hosts = dict.fromkeys(f"[{host}]" if ":" in host else host for host, _ in address.nodes)
    return [scheme.format(host) for host in hosts], address.username, address.password


def api_url(address: BrokerAddress) -> str:
    """Where the API is asked, without user and password."""
    return ", ".join(_bases(address)[0])


class Management:
    """A client for one virtual host; use it as a context manager."""

    def __init__(self, address: BrokerAddress, *, keeps: int | None = None) -> None:
        """`keeps` are the bytes of all answers together, where what is made of them is kept."""
        self._limits = address.limits
        self._keeps = keeps
        self.kept = 0
        """Bytes of all answers until now."""
        self._urls, username, password = _bases(address)
        self._vhost = quote(address.vhost, safe="")
        tls: ssl.SSLContext | bool = True if address.tls is None else tls_context(address.tls)
        credentials = b64encode(f"{username}:{password}".encode()).decode()
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Basic {credentials}", "Accept-Encoding": "identity"},
            auto_decompress=False,  # a few bytes could be gigabytes
            connector=aiohttp.TCPConnector(ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the HTTP connections."""
        await self._session.close()

    async def consumers(self, queue: str) -> list[Consumer]:
        """A queue's consumers; none when there is no such queue."""
        path = f"/api/queues/{self._vhost}/{quote(queue, safe='')}"
        return await self._ask(path, answers.details, missing=[])

    async def lost_nodes(self, queue: str) -> frozenset[str]:
        """The nodes of the broker's cluster that do not run; to who may not see them all, those of a quorum queue."""
        try:
            return await self._ask("/api/nodes?columns=name,running", answers.stopped, missing=frozenset())
        except AccessRefusedError:
            path = f"/api/queues/{self._vhost}/{quote(queue, safe='')}?columns=members,online"
            return await self._ask(path, answers.offline, missing=frozenset())

    async def members(self, queue: str) -> Mapping[str, bool]:
        """The nodes that a quorum queue has members on, and whether these run at this moment; none where it is none."""
        path = f"/api/queues/quorum/{self._vhost}/{quote(queue, safe='')}/status"
        return await self._ask(path, answers.members, missing={})

    async def all_consumers(self) -> Consumers:
        """The consumers of all queues of the virtual host, of each queue a hundred at most.

        AccessRefusedError for a user who is shown only their own: that none is seen would then mean nothing.
        """
        mine: frozenset[str] = await self._ask("/api/whoami", answers.tags, missing=frozenset())
        if not _SEES_ALL & mine:
            raise AccessRefusedError(
                f"The management API at {self._url} shows the user of the connection Secret no consumers of other "
                "users: give it the tag `monitoring`, or name another user in the Secret's `management-uri`."
            )
        path = f"/api/consumers/{self._vhost}?columns={_COLUMNS}"
        return await self._ask(path, partial(answers.consumers, most=self._limits.listed), missing={})

    async def queues(self) -> frozenset[str]:
        """The names of all queues of the virtual host."""
        path = f"/api/queues/{self._vhost}?columns=name&disable_stats=true"
        found = await self._ask(path, answers.queue_names, missing=None)
        if found is None:
            raise self._no_list()
        return found

    async def queue(self, name: str) -> QueueFacts | None:
        """What a queue is, or None when there is no such queue."""
        path = f"/api/queues/{self._vhost}/{quote(name, safe='')}?columns={_FACTS}"
        return await self._ask(path, answers.queue_facts, missing=None)

    async def has_policy(self, name: str) -> bool:
        """Whether a policy holds for a queue, which the API knows seconds before it knows what that says."""
        listed, _ = await self._page(f"^{re.escape(name)}$", 1, "name,policy", more="&disable_stats=true")
        return any(facts.policy for facts in listed)

    async def queues_like(self, pattern: str) -> tuple[QueueFacts, ...]:
        """What the queues are whose names match a regular expression."""
        found: list[QueueFacts] = []
        page, pages = 1, 1
        while page <= pages:
            listed, pages = await self._page(pattern, page, _FACTS)
            found += listed
            if pages > -(-self._limits.listed // _PAGE) or len(found) > self._limits.listed:
                raise BrokerError(
                    f"The management API at {self._url} lists more than {self._limits.listed} queues (the limit "
                    "`listed`, docs/limits.md): they are not looked at."
                )
            page += 1
        return tuple(found)

    async def _page(
        self, pattern: str, page: int, columns: str, *, more: str = ""
    ) -> tuple[tuple[QueueFacts, ...], int]:
        path = (
            f"/api/queues/{self._vhost}?page={page}&page_size={_PAGE}&name={quote(pattern, safe='')}&use_regex=true"
            f"&columns={columns}{more}"
        )
        found = await self._ask(path, answers.page, missing=None)
        if found is None:
            raise self._no_list()
        return found

    def _no_list(self) -> BrokerError:
        return BrokerError(f"The management API at {self._url} does not list the queues.")

    async def routing_keys(self, exchange: str) -> tuple[str, ...]:
        """The keys with which queues are bound to an exchange; none where there is no such exchange."""
        path = f"/api/exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source"
        return await self._ask(path, answers.keys, missing=())

    async def close_connection(self, name: str, *, reason: str) -> bool:
        """Have the broker close a connection; False when it is gone already. `reason` is what its client is told."""
        path = f"/api/connections/{quote(name, safe='')}"
        return await self._call("DELETE", path, answers.nothing, headers={"X-Reason": reason}) is not None

    @property
    def _url(self) -> str:
        """The address that has answered last."""
        return self._urls[0]

    async def _ask(self, path: str, read: Callable[[object], T], *, missing: M) -> T | M:
        """What `read` makes of the answer; `missing` for what does not exist (any more)."""
        found = await self._call("GET", path, read)
        return missing if found is None else found.value

    async def _call(
        self, method: str, path: str, read: Callable[[object], T], headers: Mapping[str, str] | None = None
    ) -> "_Found[T] | None":
        """The answer of the first node that answers; None for what does not exist (any more)."""
        for _ in self._urls[1:]:
            try:
                return await self._call_one(method, path, read, headers)
            except ConnectionLostError:
                self._urls = [*self._urls[1:], self._urls[0]]
        return await self._call_one(method, path, read, headers)

    async def _call_one(
        self, method: str, path: str, read: Callable[[object], T], headers: Mapping[str, str] | None
    ) -> "_Found[T] | None":
        try:
            async with self._session.request(
                method, self._url + path, headers=headers, allow_redirects=False
            ) as response:
                if response.status == 404:
                    return None
                self._check(response, method, path)
                data = await answers.ARRIVING.read(response, self._room) if response.status == 200 else b"{}"
            self.kept += len(data)
            return _Found(await answers.understood(data, read))
        except answers.UnreadableError as error:
            raise BrokerError(
                f"The management API at {self._url} answered {method} {_plain(path)} with {error}. If that is no "
                "management API, name it in the connection Secret's `management-uri` (docs/limits.md has the limits)."
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConnectionLostError(
                f"The management API at {self._url} does not answer ({_why(error)}). If it is somewhere else, "
                "say so in the connection Secret's `management-uri`."
            ) from None

    @property
    def _room(self) -> int:
        """The most bytes of the next answer."""
        most = self._limits.answer
        return most if self._keeps is None else max(0, min(most, self._keeps - self.kept))

    def _check(self, response: aiohttp.ClientResponse, method: str, path: str) -> None:
        if response.status in {401, 403}:
            raise AccessRefusedError(
                f"The management API at {self._url} refuses the user of the connection Secret "
                f"({response.status}): give it the tag `monitoring`, or `administrator` if it is to close the "
                "connections of other users, or name another user in the Secret's `management-uri`."
            )
        if 300 <= response.status < 400:
            raise BrokerError(
                f"The management API at {self._url} sends us somewhere else ({response.status}), and redirects are "
                "not followed: name its own address in the connection Secret's `management-uri`."
            )
        if response.status >= 400:
            raise BrokerError(
                f"The management API at {self._url} answered {method} {_plain(path)} with {response.status}."
            )
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise answers.UnreadableError("something compressed, which was not asked for")


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    value: T


def _plain(path: str) -> str:
    return shown(path.partition("?")[0], NAME)


def _why(error: Exception) -> str:
    """Why there is no answer, in our words: those of whatever answers there instead are nobody's business."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return cause(error.certificate_error)
        case aiohttp.ClientConnectorError():
            return cause(error.os_error)
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return "no answer in time"
        case aiohttp.ServerConnectionError() | aiohttp.ClientOSError():
            return "it closes the connection"
        case OSError():
            return cause(error)
        case _:
            return "what answers there speaks no HTTP"


async def prove(management: Management, *, address: BrokerAddress, journal: str, session: str, tries: int = 1) -> None:
    """Returns when the API shows `session` as a consumer of `journal`: then it is the API of the broker that has it.

    It is looked for `tries` times, one each half second: a new consumer is shown up to five seconds late. Raises
    `BrokerError`.
    """
    for _ in range(tries - 1):
        if shows(await management.consumers(journal), session):
            return
        await asyncio.sleep(_SHOWN_EVERY)
    if not shows(await management.consumers(journal), session):
        raise BrokerError(
            f"The management API at {api_url(address)} does not show this router's consumer of {journal}: it is "
            "another broker's (the Secret's `management-uri` says which one is asked), or is some seconds behind."
        )
