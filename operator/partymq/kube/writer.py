"""Keeps one resource's status equal to what is known.

Invariant: a change is written within two seconds while the API server answers, at most one write a second, and numbers
that follow every message at most once a minute. One replica writes: the one that routes the group, as long as
it is alive; else the group's speaker. A router that was replaced, and does not know it yet, writes over nobody.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.replicas import Replicas
from partymq.kube.resource import Body, Resource
from partymq.kube.status import Status, View, patch, render, steady, stopped

log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two writes."""
NUMBERS: Final = 60.0
"""Seconds between two writes that only refresh numbers: each is a line of `kubectl get -w`."""
RETRY: Final = 2.0
CONFLICT: Final = 0.05
"""Seconds until the next try where others have changed the resource since it was read; it has been read again."""
FOREIGN: Final = 10.0
"""Seconds for which a status of another replica is left alone where nobody can say whether that one is alive."""
STANDBY: Final = "Standby"
"""The reason of `Ready` with which a router says that another one routes."""


class StatusApi(Protocol):
    """What the writer needs of the client."""

    async def patch_status(self, namespace: str, name: str, status: Body, *, version: str) -> dict[str, Any]:
        """Merge into a PartitionGroup's status; the whole object as it is then; ApiError 409 at another version."""

    async def read_group(self, namespace: str, name: str) -> dict[str, Any]:
        """A PartitionGroup as it is now."""


class StatusWriter:
    """Writes one PartitionGroup's status."""

    def __init__(self, resource: Resource, *, api: StatusApi, identity: str, replicas: Replicas) -> None:
        self._group: GroupId = resource.group
        self._api = api
        self._identity = identity
        self._replicas = replicas
        self._shown: Mapping[str, Any] = resource.status
        self._version = resource.version
        self._view: View | None = None
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()
        """The last word waits for a write that is under way: it would meet the version from before."""
        self._written_at = float("-inf")
        self._foreign_since: float | None = None
        self._overruled = ""

    @property
    def speaks(self) -> bool:
        """Whether what there is to say of the group is this replica's to say now."""
        return self._turn() == 0.0

    def observe(self, resource: Resource, *, listed_at: float) -> None:
        """What the API server lists; older than the last write, it says nothing about what is shown now."""
        if listed_at > self._written_at:
            before, self._shown = self._shown, resource.status
            self._version = resource.version
            if before.get("router") != self._shown.get("router"):
                self._foreign_since = None
            self._dirty.set()

    def wake(self) -> None:
        """Whose turn it is may have changed."""
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
            async with self._writing:
                again = await self._bring_up_to_date()

    async def conclude(self) -> None:
        """Say that nobody routes the group from now on, where that is this replica's to say."""
        async with self._writing:
            again: float | None = CONFLICT
            while again == CONFLICT:
                again = await self._last_word()
                await asyncio.sleep(again or 0)

    async def _last_word(self) -> float | None:
        if self._view is None or not self.speaks:
            return None
        now = time.time()
        return await self._write(stopped(render(self._view, self._shown, now), self._shown, now))

    async def _bring_up_to_date(self) -> float | None:
        """Write if it is time to; seconds until to look again, None if only a change makes it necessary."""
        if self._view is None:
            return None
        status = render(self._view, self._shown, time.time())
        if status == self._shown:
            return None
        now = asyncio.get_running_loop().time()
        wait = self._turn()
        if wait is None:
            return None
        pause = PAUSE if steady(status) != steady(self._shown) else NUMBERS
        wait = max(wait, self._written_at + pause - now)
        return wait if wait > 0 else await self._write(status)

    @property
    def _routes(self) -> bool:
        """True if this replica routes the group, and no later session of another one is known."""
        report = self._view.report if self._view else None
        if report is None or not report.routing:
            return False
        return self._shown.get("router") in (None, self._identity) or report.epoch >= self._shown.get("epoch", 0)

    def _turn(self) -> float | None:
        """Seconds until the status is ours to write; None while it is another replica's."""
        named = self._shown.get("router")
        if self._routes or named == self._identity:
            return 0.0
        alive = self._replicas.alive(named) if named else False
        # A name that came back after it was written over is alive, though perhaps no replica of ours.
        if alive:
            self._overruled = ""
            return None
        if named and named == self._overruled:
            return None
        if alive is None:
            return self._patience()
        return 0.0 if self._replicas.speaker(self._group) == self._identity else None

    def _patience(self) -> float | None:
        """The same where nobody can say whether the router that the status names is alive."""
        report = self._view.report if self._view else None
        if report and report.ready.reason == STANDBY:
            return None
        now = asyncio.get_running_loop().time()
        self._foreign_since = now if self._foreign_since is None else self._foreign_since
        return max(self._foreign_since + FOREIGN - now, 0.0)

    async def _write(self, status: Status) -> float | None:
        named = self._shown.get("router")
        if named and named != self._identity and "router" not in status:
            self._overruled = named
        changes = patch(self._shown, status)
        try:
            body = await self._api.patch_status(self._group.namespace, self._group.name, changes, version=self._version)
        except ApiError as error:
            if error.status == 409:
                return await self._read_again()
            if error.status != 404:  # gone: the next list says so
                log.info("%s: the status is not written: %s", self._group, error)
            return RETRY
        self._written_at = asyncio.get_running_loop().time()
        self._take(body)
        return None

    async def _read_again(self) -> float:
        """Others have changed the resource, if only its finalizers: what they said decides what may be written."""
        try:
            self._take(await self._api.read_group(self._group.namespace, self._group.name))
        except ApiError as error:
            log.info("%s: the status is not written: %s", self._group, error)
            return RETRY
        return CONFLICT

    def _take(self, body: Mapping[str, Any]) -> None:
        self._shown = body.get("status") or {}
        self._version = body["metadata"]["resourceVersion"]
