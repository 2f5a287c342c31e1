"""From a Secret's name to the broker's address.

Invariant: an address that was read stays in use until another one can be read: nothing that happens to the Secret takes
a working connection away.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from partymq.amqp.address import from_service_binding
from partymq.core.spec import BrokerAddress
from partymq.errors import InvalidSecretError
from partymq.kube.client import ApiError

REREAD: Final = 30.0
"""Seconds after which a Secret is read again: a rotated password is noticed before the old one is refused for long."""
REREAD_IN_TROUBLE: Final = 5.0
"""The same while the Secret is unusable or the broker is not connected, which a new password may fix."""


class SecretsApi(Protocol):
    """What this needs of the client."""

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """A Secret's entries as text; None if there is no such Secret."""


class ConnectionSecret:
    """The Secret that a group names, read again when it may have changed."""

    def __init__(self, api: SecretsApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = ""
        self._address: BrokerAddress | None = None
        self._failure: InvalidSecretError | None = None
        self._read_at = 0.0

    @property
    def last(self) -> BrokerAddress | None:
        """The address that was read last."""
        return self._address

    async def address(self, name: str, *, trouble: bool) -> BrokerAddress:
        """The address, at most REREAD seconds old; raises InvalidSecretError, or ApiError if it cannot be read now."""
        age = asyncio.get_running_loop().time() - self._read_at
        fresh = age < (REREAD_IN_TROUBLE if trouble or self._failure else REREAD)
        if name != self._name or not fresh or (self._address is None and self._failure is None):
            await self._read(name)
        if self._failure:
            raise self._failure
        assert self._address is not None
        return self._address

    async def _read(self, name: str) -> None:
        self._failure = None
        try:
            self._address = await self._parsed(name)
        except InvalidSecretError as error:
            self._failure = error
        self._name, self._read_at = name, asyncio.get_running_loop().time()

    async def _parsed(self, name: str) -> BrokerAddress:
        where = f"Secret {self._namespace}/{name}"
        try:
            entries = await self._api.read_secret(self._namespace, name)
        except ApiError as error:
            if error.status != 403:
                raise
            raise InvalidSecretError(
                f"{where} may not be read by the operator. Allow its service account to get it."
            ) from error
        if entries is None:
            raise InvalidSecretError(
                f"{where} does not exist. Create it, for example: kubectl -n {self._namespace} create secret generic "
                f"{name} --from-literal=uri=amqp://USER:PASSWORD@HOST:5672/"
            )
        try:
            return from_service_binding(entries)
        except InvalidSecretError as error:
            raise InvalidSecretError(f"{where}: {error}") from error
