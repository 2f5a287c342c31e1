"""The few things that AMQP cannot say or do, over the broker's management API.

Invariant: the API's figures are seconds old, and no promise rests on one of them alone (`amqp.lostnodes` says what a
lost node takes besides). It is for showing who holds messages, and for closing the connection of somebody who was given
the time to let go.
"""

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aiohttp
import orjson

from partymq.amqp.tls import tls_context
from partymq.core.consumers import SESSION_ARGUMENT, Consumer, Consumers, shows
from partymq.core.hazards import QueueFacts
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, ConnectionLostError

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

    def __init__(self, address: BrokerAddress) -> None:
        self._urls, username, password = _bases(address)
        self._vhost = quote(address.vhost, safe="")
        tls: ssl.SSLContext | bool = True if address.tls is None else tls_context(address.tls)
        credentials = b64encode(f"{username}:{password}".encode()).decode()
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Basic {credentials}"},
            connector=aiohttp.TCPConnector(ssl=tls),
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
        found = await self._call("GET", f"/api/queues/{self._vhost}/{quote(queue, safe='')}")
        details = found.get("consumer_details") if isinstance(found, dict) else None
        return [_consumer(one) for one in details or ()]

    async def lost_nodes(self, queue: str) -> frozenset[str]:
        """The nodes of the broker's cluster that do not run; to who may not see them all, those of a quorum queue."""
        try:
            found = await self._call("GET", "/api/nodes?columns=name,running")
        except AccessRefusedError:
            facts = await self._call("GET", f"/api/queues/{self._vhost}/{quote(queue, safe='')}?columns=members,online")
            members, online = (
                (facts.get(key) or () for key in ("members", "online")) if isinstance(facts, dict) else ((), ())
            )
            return frozenset(members) - frozenset(online)
        nodes = found if isinstance(found, list) else ()
        return frozenset(node["name"] for node in nodes if not node.get("running", True))

    async def all_consumers(self) -> Consumers:
        """The consumers of all queues of the virtual host.

        AccessRefusedError for a user who is shown only his own: that none is seen would then mean nothing.
        """
        me = await self._call("GET", "/api/whoami")
        if not isinstance(me, dict) or not _SEES_ALL & set(me.get("tags", ())):
            raise AccessRefusedError(
                f"The management API at {self._url} shows the user of the connection Secret no consumers of other "
                "users: give it the tag `monitoring`, or name another user in the Secret's `management-uri`."
            )
        found = await self._call("GET", f"/api/consumers/{self._vhost}?columns={_COLUMNS}")
        by_queue: dict[str, list[Consumer]] = {}
        for details in found if isinstance(found, list) else ():
            by_queue.setdefault(details["queue"]["name"], []).append(_consumer(details))
        return {queue: tuple(consumers) for queue, consumers in by_queue.items()}

    async def queues(self) -> frozenset[str]:
        """The names of all queues of the virtual host."""
        found = await self._call("GET", f"/api/queues/{self._vhost}?columns=name&disable_stats=true")
        if not isinstance(found, list):
            raise BrokerError(f"The management API at {self._url} does not list the queues.")
        return frozenset(queue["name"] for queue in found)

    async def queue(self, name: str) -> QueueFacts | None:
        """What a queue is, or None when there is no such queue."""
        found = await self._call("GET", f"/api/queues/{self._vhost}/{quote(name, safe='')}?columns={_FACTS}")
        return _facts(found) if isinstance(found, dict) else None

    async def has_policy(self, name: str) -> bool:
        """Whether a policy holds for a queue, which the API knows seconds before it knows what that says."""
        listed = await self._page(f"^{re.escape(name)}$", 1, "name,policy", more="&disable_stats=true")
        return any(details.get("policy") for details in listed["items"])

    async def queues_like(self, pattern: str) -> tuple[QueueFacts, ...]:
        """What the queues are whose names match a regular expression."""
        found: list[QueueFacts] = []
        page, pages = 1, 1
        while page <= pages:
            listed = await self._page(pattern, page, _FACTS)
            found += [_facts(details) for details in listed["items"]]
            page, pages = page + 1, listed["page_count"]
        return tuple(found)

    async def _page(self, pattern: str, page: int, columns: str, *, more: str = "") -> Mapping[str, Any]:
        path = (
            f"/api/queues/{self._vhost}?page={page}&page_size={_PAGE}&name={quote(pattern, safe='')}&use_regex=true"
            f"&columns={columns}{more}"
        )
        found = await self._call("GET", path)
        if not isinstance(found, dict) or "items" not in found:
            raise BrokerError(f"The management API at {self._url} does not list the queues.")
        return found

    async def routing_keys(self, exchange: str) -> tuple[str, ...]:
        """The keys with which queues are bound to an exchange; none where there is no such exchange."""
        found = await self._call("GET", f"/api/exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source")
        bindings = found if isinstance(found, list) else ()
        return tuple(binding["routing_key"] for binding in bindings if binding["destination_type"] == "queue")

    async def close_connection(self, name: str, *, reason: str) -> bool:
        """Have the broker close a connection; False when it is gone already. `reason` is what its client is told."""
        path = f"/api/connections/{quote(name, safe='')}"
        return await self._call("DELETE", path, headers={"X-Reason": reason}) is not None

    @property
    def _url(self) -> str:
        """The address that has answered last."""
        return self._urls[0]

    async def _call(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> object:
        """The decoded answer of the first node that answers; None for what does not exist (any more)."""
        for _ in self._urls[1:]:
            try:
                return await self._call_one(method, path, headers)
            except ConnectionLostError:
                self._urls = [*self._urls[1:], self._urls[0]]
        return await self._call_one(method, path, headers)

    async def _call_one(self, method: str, path: str, headers: Mapping[str, str] | None) -> object:
        try:
            async with self._session.request(method, self._url + path, headers=headers) as response:
                if response.status == 404:
                    return None
                if response.status in {401, 403}:
                    raise AccessRefusedError(
                        f"The management API at {self._url} refuses the user of the connection Secret "
                        f"({response.status}): give it the tag `monitoring`, or `administrator` if it shall close the "
                        "connections of other users, or name another user in the Secret's `management-uri`."
                    )
                if response.status >= 400:
                    raise BrokerError(
                        f"The management API at {self._url} answered {method} {path} with {response.status}."
                    )
                return orjson.loads(await response.read()) if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionLostError(
                f"The management API at {self._url} does not answer ({error or 'timeout'}). If it is somewhere else, "
                "say so in the connection Secret's `management-uri`."
            ) from None
        except orjson.JSONDecodeError:
            raise BrokerError(f"The management API at {self._url} answered {method} {path} with no JSON.") from None


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


def _consumer(details: Mapping[str, Any]) -> Consumer:
    # A consumer whose channel just went has `[]` there: Erlang's empty list for an empty object.
    channel = details.get("channel_details") or {}
    arguments = details.get("arguments") or {}
    return Consumer(
        connection=channel.get("connection_name", ""),
        client=f"{channel.get('peer_host', '')}:{channel.get('peer_port', '')}",
        tag=details.get("consumer_tag", ""),
        active=bool(details.get("active", False)),
        acknowledges=bool(details.get("ack_required", True)),
        prefetch=details.get("prefetch_count", 1),
        priority=arguments.get("x-priority", 0),
        session=str(arguments.get(SESSION_ARGUMENT, "")),
        node=channel.get("node", ""),
    )


def _facts(details: Mapping[str, Any]) -> QueueFacts:
    # Where no policy holds it is null, and its keys are `{}` or `[]`; missing, until the queue's first figures came.
    return QueueFacts(
        name=details["name"],
        kind=details.get("type") or "classic",
        durable=bool(details.get("durable", True)),
        auto_delete=bool(details.get("auto_delete", False)),
        exclusive=bool(details.get("exclusive", False)),
        arguments=details.get("arguments") or {},
        policy=details.get("policy") or "",
        operator_policy=details.get("operator_policy") or "",
        definition=details.get("effective_policy_definition") or {},
        settled="policy" in details,
    )
