"""The few things that AMQP cannot say or do, over the broker's management API.

Invariant: nothing that a promise rests on comes from here. The API's figures are seconds old; it is for showing who
holds messages, and for closing the connection of somebody who was given the time to let go.
"""

import ssl
from base64 import b64encode
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aiohttp
import orjson

from partymq.amqp.tls import tls_context
from partymq.core.consumers import Consumer, Consumers
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, ConnectionLostError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_PLAIN_PORT: Final = 15_672
_TLS_PORT: Final = 15_671
_SEES_ALL: Final = {"monitoring", "administrator"}
_COLUMNS: Final = ",".join(
    (
        "queue.name",
        "consumer_tag",
        "active",
        "ack_required",
        "prefetch_count",
        "arguments.x-priority",
        "channel_details.connection_name",
        "channel_details.peer_host",
        "channel_details.peer_port",
    )
)


def _base(address: BrokerAddress) -> tuple[str, str, str]:
    """The API's address, and the user and password for it: the broker's, unless the address names others."""
    if address.management_uri:
        parts = urlsplit(address.management_uri)
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        if parts.username is not None:
            return url, unquote(parts.username), unquote(parts.password or "")
        return url, address.username, address.password
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"http://{host}:{_PLAIN_PORT}" if address.tls is None else f"https://{host}:{_TLS_PORT}"
    return url, address.username, address.password


class Management:
    """A client for one virtual host; use it as a context manager."""

    def __init__(self, address: BrokerAddress) -> None:
        self._url, username, password = _base(address)
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

    async def routing_keys(self, exchange: str) -> tuple[str, ...]:
        """The keys with which queues are bound to an exchange; none where there is no such exchange."""
        found = await self._call("GET", f"/api/exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source")
        bindings = found if isinstance(found, list) else ()
        return tuple(binding["routing_key"] for binding in bindings if binding["destination_type"] == "queue")

    async def close_connection(self, name: str, *, reason: str) -> bool:
        """Have the broker close a connection; False when it is gone already. `reason` is what its client is told."""
        path = f"/api/connections/{quote(name, safe='')}"
        return await self._call("DELETE", path, headers={"X-Reason": reason}) is not None

    async def _call(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> object:
        """The decoded answer; None for what does not exist (any more)."""
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


def _consumer(details: Mapping[str, Any]) -> Consumer:
    # A consumer whose channel just went has `[]` there: Erlang's empty list for an empty object.
    channel = details.get("channel_details") or {}
    return Consumer(
        connection=channel.get("connection_name", ""),
        client=f"{channel.get('peer_host', '')}:{channel.get('peer_port', '')}",
        tag=details.get("consumer_tag", ""),
        active=bool(details.get("active", False)),
        acknowledges=bool(details.get("ack_required", True)),
        prefetch=details.get("prefetch_count", 1),
        priority=(details.get("arguments") or {}).get("x-priority", 0),
    )
