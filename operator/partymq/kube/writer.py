"""Keeps one resource's status equal to what is known.

Invariant: a change is written within two seconds while the API server answers, at most one write a second, and numbers
that follow every message at most one in ten seconds. A replica that does not route the group does not write over one
that does.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.resource import Body, Resource
from partymq.kube.status import Status, View, patch, render, steady

log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two writes."""
NUMBERS: Final = 10.0
"""Seconds between two writes that only refresh numbers."""
RETRY: Final = 2.0
FOREIGN: Final = 10.0
"""Seconds for which a status of another replica is left alone while nobody is seen to route."""
STANDBY: Final = "Standby"
"""The reason of `Ready` with which a router says that another one routes: what it knows is not the truth then."""


class StatusApi(Protocol):
    """What the writer needs of the client."""

    async def patch_status(
        self, namespace: str, name: str, status: Body, *, version: str | None = None
    ) -> dict[str, Any]:
        """Merge into a PartitionGroup's status; the whole object as it is then; ApiError 409 at another version."""


class StatusWriter:
    """Writes one PartitionGroup's status."""

    def __init__(self, resource: Resource, *, api: StatusApi, identity: str) -> None:
        self._group: GroupId = resource.group
        self._api = api
        self._identity = identity
        self._shown: Mapping[str, Any] = resource.status
        self._version = resource.version
        self._view: View | None = None
        self._dirty = asyncio.Event()
        self._written_at = float("-inf")
        self._foreign_since: float | None = None
        self._overruled = ""

    @property
    def foreign(self) -> str | None:
        """The other replica that the status names as the router, unless this one routes."""
        router: str | None = self._shown.get("router")
        if not router or router == self._identity or (self._view and self._view.report and self._view.report.routing):
            return None
        return router

    def observe(self, resource: Resource, *, listed_at: float) -> None:
        """What the API server lists; older than the last write, it says nothing about what is shown now."""
        if listed_at > self._written_at:
            before, self._shown = self._shown, resource.status
            self._version = resource.version
            if before.get("router") != self._shown.get("router"):
                self._foreign_since = None
            self._dirty.set()

    def show(self, view: View) -> None:
        """Show this from now on."""
        self._view = view
        self._dirty.set()

    async def run(self) -> None:
        """Write what changed, for ever."""
        again: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await self._dirty.wait()
            self._dirty.clear()
            again = await self._bring_up_to_date()

    async def flush(self) -> None:
        """Write what is known now, if it differs."""
        self._written_at = float("-inf")
        await self._bring_up_to_date()

    async def _bring_up_to_date(self) -> float | None:
        """Write if it is time to; seconds until to look again, None if only a change makes it necessary."""
        if self._view is None:
            return None
        status = render(self._view, self._shown, time.time())
        if status == self._shown:
            return None
        now = asyncio.get_running_loop().time()
        wait = self._foreign_wait(now)
        if wait is None:
            return None
        pause = PAUSE if steady(status) != steady(self._shown) else NUMBERS
        wait = max(wait, self._written_at + pause - now)
        return wait if wait > 0 else await self._write(status)

    def _foreign_wait(self, now: float) -> float | None:
        """Seconds for which the status is another replica's to write; None while it is."""
        other = self.foreign
        if other is None:
            return 0.0
        report = self._view.report if self._view else None
        # A name that came back after it was written over is alive.
        if other == self._overruled or (report and report.ready.reason == STANDBY):
            return None
        self._foreign_since = now if self._foreign_since is None else self._foreign_since
        wait = self._foreign_since + FOREIGN - now
        if wait <= 0:
            self._overruled = other
        return max(wait, 0.0)

    async def _write(self, status: Status) -> float | None:
        # Only who routes knows that nobody else has written since.
        version = None if "router" in status else self._version
        changes = patch(self._shown, status)
        try:
            body = await self._api.patch_status(self._group.namespace, self._group.name, changes, version=version)
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or written by others: the next list says so
                log.info("%s: the status is not written: %s", self._group, error)
            return RETRY
        self._written_at = asyncio.get_running_loop().time()
        self._shown = body.get("status") or {}
        self._version = body["metadata"]["resourceVersion"]
        return None
