"""The few things that AMQP cannot say or do, over the broker's management API.

Invariant: nothing that a promise rests on comes from here. The API's figures are seconds old; it is for showing who
holds messages, and for closing the connection of somebody who was given the time to let go.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp

from partymq.amqp.tls import tls_context
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, BrokerError, ConnectionLostError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_PLAIN_PORT: Final = 15_672
_TLS_PORT: Final = 15_671


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A queue's consumer: the connection that it belongs to, and whether it is the one that is served."""

    connection: str
    client: str
    """Host and port of the other end, as the broker sees it."""
    tag: str
    active: bool
    acknowledges: bool
    """False for automatic acknowledgement: then nobody knows what it holds."""


def management_url(address: BrokerAddress) -> str:
    """Where the management API of a broker is, unless somebody moved it."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"http://{host}:{_PLAIN_PORT}" if address.tls is None else f"https://{host}:{_TLS_PORT}"


class Management:
    """A client for one virtual host; use it as a context manager."""

    def __init__(self, address: BrokerAddress, *, url: str | None = None) -> None:
        self._url = (url or management_url(address)).rstrip("/")
        self._vhost = quote(address.vhost, safe="")
        tls: ssl.SSLContext | bool = True if address.tls is None else tls_context(address.tls)
        self._session = aiohttp.ClientSession(
            auth=aiohttp.BasicAuth(address.username, address.password, encoding="utf-8"),
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
        return [_consumer(details) for details in (found or {}).get("consumer_details") or []]

    async def close_connection(self, name: str, *, reason: str) -> bool:
        """Have the broker close a connection; False when it is gone already. `reason` is what its client is told."""
        path = f"/api/connections/{quote(name, safe='')}"
        return await self._call("DELETE", path, headers={"X-Reason": reason}) is not None

    async def _call(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        try:
            async with self._session.request(method, self._url + path, headers=headers) as response:
                if response.status == 404:
                    return None
                if response.status in {401, 403}:
                    raise AccessRefusedError(
                        f"The management API at {self._url} refuses the user of the connection Secret: "
                        f"{response.status}. Give it the tag `monitoring`, and `administrator` to close connections."
                    )
                if response.status >= 400:
                    raise BrokerError(
                        f"The management API at {self._url} answered {method} {path} with {response.status}."
                    )
                found = await response.json() if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionLostError(f"No answer from the management API at {self._url}: {error!r}.") from None
        if not isinstance(found, dict):
            raise BrokerError(f"The management API at {self._url} answered {method} {path} with something else.")
        return found


def _consumer(details: Mapping[str, Any]) -> Consumer:
    # A consumer whose channel just went has `[]` there: Erlang's empty list for an empty object.
    channel = details.get("channel_details") or {}
    return Consumer(
        connection=channel.get("connection_name", ""),
        client=f"{channel.get('peer_host', '')}:{channel.get('peer_port', '')}",
        tag=details.get("consumer_tag", ""),
        active=bool(details.get("active", False)),
        acknowledges=bool(details.get("ack_required", True)),
    )
