"""A cluster as its users have it: kubectl and helm for what people type, the API for what is asked many times a second.

Invariant: a command that fails says which one it was and what it said; nothing here waits without a deadline.
"""

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

Object = dict[str, Any]


class CommandError(AssertionError):
    """A command ended with an error."""


async def run(*command: str, stdin: str = "", deadline: float = 120.0) -> str:
    """A command's output."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(deadline):
            out, err = await process.communicate(stdin.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise CommandError(f"{' '.join(command)} ended with {process.returncode}: {err.decode().strip()}")
    return out.decode()


class Kube:
    """One namespace of the cluster that KUBECONFIG names."""

    def __init__(self, namespace: str, api: client.ApiClient) -> None:
        self.namespace = namespace
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    async def kubectl(self, *arguments: str, stdin: str = "", deadline: float = 60.0) -> str:
        """What `kubectl -n <namespace> ARGUMENTS` prints."""
        return await run("kubectl", "-n", self.namespace, *arguments, stdin=stdin, deadline=deadline)

    async def apply(self, *objects: Mapping[str, object]) -> None:
        """Create or change objects."""
        documents = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        await self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(documents))

    async def group(self, name: str) -> Object:
        """A PartitionGroup; empty when there is none."""
        try:
            found = await self._custom.get_namespaced_custom_object(
                "partymq.io", "v1alpha1", self.namespace, "partitiongroups", name, _request_timeout=10
            )
        except ApiException as error:
            if error.status == 404:
                return {}
            raise
        return cast("Object", found)

    async def pods(self, selector: str) -> list[Object]:
        """The pods with a label, those that are being deleted included."""
        found = await self._core.list_namespaced_pod_without_preload_content(
            self.namespace, label_selector=selector, _request_timeout=10
        )
        return list(json.loads(await found.read())["items"])

    async def events(self, name: str) -> list[Object]:
        """The Events about a PartitionGroup, oldest first."""
        selector = f"involvedObject.kind=PartitionGroup,involvedObject.name={name}"
        found = await self._core.list_namespaced_event_without_preload_content(
            self.namespace, field_selector=selector, _request_timeout=10
        )
        items = json.loads(await found.read())["items"]
        return sorted(items, key=lambda event: str(event["lastTimestamp"]))


@asynccontextmanager
async def kube(namespace: str) -> AsyncIterator[Kube]:
    """A connection to the cluster; the namespace need not exist yet."""
    settings = client.Configuration()
    await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    async with client.ApiClient(settings) as api:
        yield Kube(namespace, api)


@asynccontextmanager
async def temporary_namespace(name: str) -> AsyncIterator[Kube]:
    """A namespace that is deleted in the end, and awaited until it is gone."""
    async with kube(name) as cluster:
        await run("kubectl", "create", "namespace", name)
        try:
            yield cluster
        finally:
            await run("kubectl", "delete", "namespace", name, "--wait=true", "--timeout=90s", deadline=100)
