"""The API server as the operator needs it.

Invariant: every call ends within its deadline, and every failure is an ApiError whose message is a sentence. Bodies are
plain JSON: building the generated models takes a hundred times as long, and lists are read while messages are routed.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import aiohttp
import kopf
import orjson
from kubernetes.aio import client, config

from partymq.amqp.causes import cause
from partymq.errors import InvalidSecretError, PartyMQError
from partymq.foreign import shown
from partymq.kube.resource import API_GROUP, API_VERSION, PLURAL, Body

SAID: Final = 1000
"""Characters of what the API server says."""
TIMEOUT: Final = 10.0
"""Seconds for one call. An API server that does not answer is as good as one that is away."""

_PAGE: Final = 250
"""Pods a page: parsing one keeps the router's thread waiting, so a page is a few milliseconds at most."""

_NOT_INSTALLED: Final = (
    "the kind PartitionGroup is not installed. "
    "Install it: `kubectl apply -f crds/`, or the chart with crds.install=true"
)

_NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"

_Response = Callable[[], Awaitable[aiohttp.ClientResponse]]


class ApiError(PartyMQError):
    """The API server refused a call or could not be asked; `status` is the HTTP status, 0 where there was none."""

    reason = "ApiUnavailable"

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.status = status


class LoginError(PartyMQError):
    """There is no way to the API server: the operator runs in no cluster and no kubeconfig is usable."""

    reason = "LoginFailed"


async def configuration(kubeconfig: str | None = None) -> client.Configuration:
    """A kubeconfig if one is named, else the service account, else what `kubectl` takes; tokens renew themselves."""
    settings = client.Configuration()
    if kubeconfig is None:
        with suppress(config.ConfigException):
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            return settings
    try:
        await config.load_kube_config(kubeconfig, client_configuration=settings)  # type: ignore[no-untyped-call]
    except Exception as error:  # a malformed file raises whatever it happens to hit
        raise LoginError(
            f"The operator runs in no cluster and there is no usable kubeconfig ({_why(error)}). "
            "Set KUBECONFIG to a file that `kubectl` can use."
        ) from error
    return settings


async def connection_info(settings: client.Configuration) -> kopf.ConnectionInfo:
    """The same login for kopf, which asks again when the API server answers 401."""
    scheme, _, token = (await settings.get_api_key_with_prefix("BearerToken") or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=settings.host,
        ca_path=settings.ssl_ca_cert,
        ca_data=None if settings.ssl_ca_cert else settings.ca_cert_data,
        insecure=not settings.verify_ssl,
        username=settings.username or None,
        password=settings.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=settings.cert_file,
        private_key_path=settings.key_file,
        proxy_url=settings.proxy,
        trust_env=True,  # as the client does
    )


class Client:
    """The calls; all of them may be made at the same time."""

    def __init__(self, api: client.ApiClient, *, secret_label: str = "") -> None:
        """Of Secrets only those that carry `secret_label` are read: `name=value`, or a name; empty for any."""
        self._secret_label = secret_label
        self._core = client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)
        self._coordination = client.CoordinationV1Api(api)

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: client.Configuration, *, secret_label: str = "") -> AsyncIterator["Client"]:
        """A client that closes its connections at the end."""
        async with client.ApiClient(settings) as api:
            yield cls(api, secret_label=secret_label)

    async def list_groups(self, namespace: str | None) -> list[dict[str, Any]]:
        """All PartitionGroups of a namespace, or with None of the cluster."""
        what = "list PartitionGroups" if namespace is None else f"list PartitionGroups of namespace {namespace}"
        try:
            found = await self._call(what, partial(self._groups, namespace))
        except ApiError as error:
            if error.status == 404:
                raise ApiError(what, 404, _NOT_INSTALLED) from error
            raise
        return list(found["items"])

    async def list_pods(self, namespace: str) -> list[dict[str, Any]]:
        """All pods of a namespace whose containers have not ended for good."""
        pods: list[dict[str, Any]] = []
        more: str | None = None
        while True:
            page = await self._call(f"list pods of namespace {namespace}", partial(self._pods, namespace, more))
            pods += page["items"]
            more = page["metadata"].get("continue")
            if not more:
                return pods

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """A Secret's entries as text; None if there is no such Secret, InvalidSecretError if it is not for us."""
        try:
            secret = await self._call(
                f"read Secret {namespace}/{name}",
                lambda: self._core.read_namespaced_secret_without_preload_content(name, namespace),
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if self._secret_label and not _is_labelled(secret, self._secret_label):
            raise InvalidSecretError(
                f"Secret {namespace}/{name} does not carry the label {self._secret_label}, without which this operator "
                f"uses none: kubectl -n {namespace} label secret {name} {self._secret_label}"
            )
        return {key: _decode(namespace, name, key, value) for key, value in (secret.get("data") or {}).items()}

    async def patch_status(self, namespace: str, name: str, status: Body, *, version: str) -> dict[str, Any]:
        """Merge into a PartitionGroup's status; the whole object as it is then; ApiError 409 at another version."""
        changes = {"metadata": {"resourceVersion": version}, "status": status}
        return await self._call(
            f"write the status of PartitionGroup {namespace}/{name}",
            lambda: self._custom.patch_namespaced_custom_object_status_without_preload_content(
                API_GROUP,
                API_VERSION,
                namespace,
                PLURAL,
                name,
                changes,
                _content_type="application/merge-patch+json",
            ),
        )

    async def read_group(self, namespace: str, name: str) -> dict[str, Any]:
        """A PartitionGroup as it is now."""
        return await self._call(
            f"read PartitionGroup {namespace}/{name}",
            lambda: self._custom.get_namespaced_custom_object_without_preload_content(
                API_GROUP, API_VERSION, namespace, PLURAL, name
            ),
        )

    async def delete_group(self, namespace: str, name: str) -> None:
        """Begin to delete a PartitionGroup; one that is gone is no error."""
        try:
            await self._call(
                f"delete PartitionGroup {namespace}/{name}",
                lambda: self._custom.delete_namespaced_custom_object_without_preload_content(
                    API_GROUP, API_VERSION, namespace, PLURAL, name
                ),
            )
        except ApiError as error:
            if error.status != 404:
                raise

    async def create_event(self, namespace: str, event: Body) -> None:
        """Post an Event; ApiError 409 if there is one of that name."""
        await self._call(
            f"post an Event in namespace {namespace}",
            lambda: self._core.create_namespaced_event_without_preload_content(
                namespace, client.CoreV1Event.model_validate(event)
            ),
        )

    async def read_event(self, namespace: str, name: str) -> dict[str, Any]:
        """An Event that was posted before."""
        return await self._call(
            f"read Event {namespace}/{name}",
            lambda: self._core.read_namespaced_event_without_preload_content(name, namespace),
        )

    async def patch_event(self, namespace: str, name: str, changes: Body) -> None:
        """Merge into an Event."""
        await self._call(
            f"renew Event {namespace}/{name}",
            lambda: self._core.patch_namespaced_event_without_preload_content(
                name, namespace, dict(changes), _content_type="application/merge-patch+json"
            ),
        )

    async def list_leases(self, namespace: str, label: str) -> list[dict[str, Any]]:
        """The Leases that carry a label."""
        found = await self._call(
            f"list Leases of namespace {namespace}",
            lambda: self._coordination.list_namespaced_lease_without_preload_content(namespace, label_selector=label),
        )
        return list(found["items"])

    async def renew_lease(self, namespace: str, name: str, body: Body) -> None:
        """Create a Lease, or change it to this."""
        what = f"renew Lease {namespace}/{name}"
        try:
            await self._call(
                what,
                lambda: self._coordination.patch_namespaced_lease_without_preload_content(
                    name, namespace, dict(body), _content_type="application/merge-patch+json"
                ),
            )
        except ApiError as error:
            if error.status != 404:
                raise
            await self._call(
                what,
                lambda: self._coordination.create_namespaced_lease_without_preload_content(
                    namespace, client.V1Lease.model_validate(body)
                ),
            )

    async def delete_lease(self, namespace: str, name: str) -> None:
        """Delete a Lease; a missing one is no error."""
        try:
            await self._call(
                f"delete Lease {namespace}/{name}",
                lambda: self._coordination.delete_namespaced_lease_without_preload_content(name, namespace),
            )
        except ApiError as error:
            if error.status != 404:
                raise

    async def is_terminating(self, namespace: str) -> bool:
        """True while a namespace is being deleted, with all that is in it, and once it is gone."""
        try:
            found = await self._call(
                f"read namespace {namespace}", lambda: self._core.read_namespace_without_preload_content(namespace)
            )
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return "deletionTimestamp" in found["metadata"]

    async def _groups(self, namespace: str | None) -> aiohttp.ClientResponse:
        kind = (API_GROUP, API_VERSION)
        if namespace is None:
            return await self._custom.list_cluster_custom_object_without_preload_content(*kind, PLURAL)
        return await self._custom.list_namespaced_custom_object_without_preload_content(*kind, namespace, PLURAL)

    async def _pods(self, namespace: str, more: str | None) -> aiohttp.ClientResponse:
        return await self._core.list_namespaced_pod_without_preload_content(
            namespace, field_selector=_NOT_ENDED, limit=_PAGE, _continue=more
        )

    @staticmethod
    async def _call(what: str, send: _Response) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TIMEOUT):
                async with await send() as response:
                    body = await response.read()
        except TimeoutError as error:
            raise ApiError(what, 0, f"the API server did not answer within {TIMEOUT:.0f} seconds") from error
        except (aiohttp.ClientError, OSError, config.ConfigException) as error:
            raise ApiError(what, 0, f"the API server cannot be reached ({_why(error)})") from error
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = {"message": body[:200].decode(errors="replace").strip()}
        if not isinstance(answer, dict):
            answer = {"message": "something else than an object"}
        if response.status >= 400:
            said = shown(str(answer.get("message")), SAID)
            raise ApiError(what, response.status, f"the API server answered {response.status}: {said}")
        return answer


def _why(error: Exception) -> str:
    """What went wrong, of which the text says nothing that stood in a file or came over the network."""
    if isinstance(error, config.ConfigException):
        return shown(str(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        return cause(error.os_error)
    return cause(error)


def _is_labelled(secret: Body, label: str) -> bool:
    name, given, value = label.partition("=")
    labels = (secret.get("metadata") or {}).get("labels") or {}
    return name in labels and (not given or labels[name] == value)


def _decode(namespace: str, name: str, key: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidSecretError(
            f"Secret {namespace}/{name}: the value of {key!r} is not text in UTF-8. Write it again."
        ) from error
