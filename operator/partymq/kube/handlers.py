"""What kopf calls.

Invariant: a handler translates and hands over, it decides nothing. kopf watches, keeps the finalizer and waits for
deletions; it remembers nothing on the resource, because every replica has to see every change.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import kopf
from kubernetes.aio import client

from partymq.kube.client import connection_info
from partymq.kube.controller import Controller
from partymq.kube.resource import API_GROUP, API_VERSION, PLURAL, resource
from partymq.kube.strays import claim_of

FINALIZER: Final = f"{API_GROUP}/finalizer"

_KIND: Final = (API_GROUP, API_VERSION, PLURAL)


def registry(controller: Controller, login: client.Configuration) -> kopf.OperatorRegistry:
    """The handlers of one operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.TEMPORARY, backoff=5.0)
    async def log_in(**_: object) -> kopf.ConnectionInfo:
        return await connection_info(login)

    @kopf.on.event(*_KIND, registry=handlers)
    async def group_changed(body: kopf.Body, **_: object) -> None:
        controller.wake(body["metadata"]["namespace"])

    @kopf.on.delete(*_KIND, registry=handlers)
    async def group_deleted(body: kopf.Body, **_: object) -> None:
        read = resource(body)
        await controller.removed(read.group, read.uid)

    @kopf.on.event("", "v1", "pods", registry=handlers)
    async def pod_changed(body: kopf.Body, **_: object) -> None:
        controller.pod_changed(body["metadata"]["namespace"], body["metadata"]["name"], claim_of(body))

    return handlers


def settings() -> kopf.OperatorSettings:
    """Kopf as a watcher that never gives up, posts nothing and writes nothing but the finalizer."""
    chosen = kopf.OperatorSettings()
    chosen.peering.standalone = True
    chosen.posting.enabled = False
    # The kinds are known and the CRD is there before kopf starts: the operator needs no right to list CRDs.
    chosen.scanning.disabled = True
    chosen.process.ultimate_exiting_timeout = None  # it would kill the process
    chosen.queueing.exit_timeout = 0.5
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.networking.error_backoffs = Patience()
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 330
    chosen.watching.connect_timeout = 30
    chosen.watching.reconnect_backoff = 1
    chosen.watching.field_selectors["v1/pods"] = "status.phase!=Succeeded,status.phase!=Failed"
    chosen.persistence.finalizer = FINALIZER
    chosen.persistence.progress_storage = NoProgress()
    chosen.persistence.diffbase_storage = NoDiff()
    return chosen


class Patience(Iterable[float]):
    """Backoffs without end: with a finite list, kopf stops when the API server is out of order for a minute."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 3)
        while True:
            yield 5


class NoDiff(kopf.DiffBaseStorage):
    """Kopf sees every group as new: what changed is found by listing."""

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was stored."""

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""


class NoProgress(kopf.ProgressStorage):
    """A deletion that a restart interrupts starts again; the only handler that could make progress never fails."""

    def fetch(self, **_: object) -> None:
        """Nothing was stored."""

    def store(self, **_: object) -> None:
        """Nothing is stored."""

    def purge(self, **_: object) -> None:
        """Nothing is stored."""

    def touch(self, **_: object) -> None:
        """Nothing is stored."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing of ours is in the resource."""
        return essence
