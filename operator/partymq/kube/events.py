"""Kubernetes Events about groups and pods, as `kubectl describe` shows them.

Invariant: the same thing said again is the same Event with a higher count, also after a restart of the operator;
telling never makes anybody wait, and what cannot be told within a few minutes is dropped.
"""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from partymq.core.report import Notice
from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.resource import API_GROUP, API_VERSION, KIND
from partymq.kube.status import timestamp

log = logging.getLogger(__name__)

_COMPONENT: Final = "partymq"
_CAPACITY: Final = 1_024
"""Characters of a message, as the API server takes them, and Events in the queue."""
_LONGEST: Final = 230
"""Characters of a name in an Event's name, which has 253 at most."""
_TRIES: Final = 6


class EventsApi(Protocol):
    """What the recorder needs of the client."""

    async def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        """Post an Event; ApiError 409 if there is one of that name."""

    async def read_event(self, namespace: str, name: str) -> dict[str, Any]:
        """An Event that was posted before."""

    async def patch_event(self, namespace: str, name: str, changes: Mapping[str, Any]) -> None:
        """Merge into an Event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    subject: _Subject
    notice: Notice
    at: float


class Recorder:
    """Posts Events one after the other, in the order in which they were told."""

    def __init__(self, api: EventsApi, identity: str) -> None:
        self._api = api
        self._identity = identity
        self._queue: deque[_Told] = deque(maxlen=_CAPACITY)
        self._told = asyncio.Event()
        self._idle = asyncio.Event()

    def tell(self, group: GroupId, uid: str, notice: Notice) -> None:
        """Queue an Event about a group and log it."""
        version = f"{API_GROUP}/{API_VERSION}"
        self._add(_Subject(api_version=version, kind=KIND, namespace=group.namespace, name=group.name, uid=uid), notice)

    def tell_pod(self, namespace: str, name: str, uid: str, notice: Notice) -> None:
        """Queue an Event about a pod and log it."""
        self._add(_Subject(api_version="v1", kind="Pod", namespace=namespace, name=name, uid=uid), notice)

    def _add(self, subject: _Subject, notice: Notice) -> None:
        log.log(
            logging.WARNING if notice.warning else logging.INFO, "%s: %s: %s", subject, notice.reason, notice.message
        )
        self._queue.append(_Told(subject=subject, notice=notice, at=time.time()))
        self._idle.clear()
        self._told.set()

    async def run(self) -> None:
        """Post what is told, for ever."""
        while True:
            await self._told.wait()
            self._told.clear()
            while self._queue:
                await self._post(self._queue.popleft())
            self._idle.set()

    async def idle(self) -> None:
        """Wait until all that was told is posted or given up."""
        await self._idle.wait()

    async def _post(self, told: _Told) -> None:
        for attempt in range(_TRIES):
            try:
                await self._once(told)
            except ApiError as error:
                if 400 <= error.status < 500 and error.status not in (409, 429):
                    log.warning("%s: an Event was lost: %s", told.subject, error)
                    return
                await asyncio.sleep(min(2.0**attempt, 15.0))
            else:
                return
        log.warning("%s: an Event was lost, the API server takes none: %s", told.subject, told.notice.message)

    async def _once(self, told: _Told) -> None:
        event = self._event(told)
        name = event["metadata"]["name"]
        try:
            await self._api.create_event(told.subject.namespace, event)
        except ApiError as error:
            if error.status != 409:
                raise
            known = await self._api.read_event(told.subject.namespace, name)
            await self._api.patch_event(
                told.subject.namespace,
                name,
                {"count": (known.get("count") or 1) + 1, "lastTimestamp": timestamp(told.at)},
            )

    def _event(self, told: _Told) -> dict[str, Any]:
        notice, subject = told.notice, told.subject
        digest = hashlib.sha256(f"{subject.uid}\0{notice.reason}\0{notice.message}".encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{subject.name[:_LONGEST].rstrip('.-')}.{digest}",
                "namespace": subject.namespace,
            },
            "involvedObject": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason,
            "message": notice.message[:_CAPACITY],
            "source": {"component": _COMPONENT, "host": self._identity},
            "reportingComponent": f"{API_GROUP}/{_COMPONENT}",
            "reportingInstance": self._identity,
            "action": notice.reason,
            "firstTimestamp": timestamp(told.at),
            "lastTimestamp": timestamp(told.at),
            "count": 1,
        }
