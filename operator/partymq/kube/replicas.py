"""Which replicas of the operator are alive, so that one of them speaks for a group that none of them routes.

Invariant: every replica renews a Lease of its own, and one whose Lease has not changed for LEASE seconds of our own
clock is gone; nobody's wall clock is believed. Nothing that routes messages depends on any of this: who routes a group
is decided by its journal alone.

Replicas that serve the same namespaces choose alike: a group's speaker is the live one with the highest hash of its
name and the group's, so that one that comes or goes changes the speaker of its own share of the groups only. The same
choice, among those that have been there for a while, spreads the groups: their routers make way for the preferred one.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from partymq.core.spec import GroupId
from partymq.kube.client import ApiError
from partymq.kube.resource import API_GROUP, Body

log = logging.getLogger(__name__)

LEASE: Final = 15.0
"""Seconds without a renewal after which a replica counts as gone."""
RENEW: Final = 5.0
LOOK_SOON: Final = 0.2
"""Seconds until the next look when somebody asks about a replica that is not known."""
FORGOTTEN: Final = 600.0
"""Seconds without a renewal after which somebody else's Lease is deleted: its replica was killed."""

SETTLED: Final = 30.0
"""Seconds that a replica must have been there before groups are moved to it: one that crashes again gets none."""

LABEL: Final = f"{API_GROUP}/replica"
NAMESPACES: Final = f"{API_GROUP}/namespaces"
"""On a Lease: the namespaces that the replica serves; missing for all of them."""

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class LeaseApi(Protocol):
    """What this needs of the client."""

    async def list_leases(self, namespace: str, label: str) -> list[dict[str, Any]]:
        """The Leases that carry a label."""

    async def renew_lease(self, namespace: str, name: str, body: Body) -> None:
        """Create a Lease, or change it to this."""

    async def delete_lease(self, namespace: str, name: str) -> None:
        """Delete a Lease; a missing one is no error."""


def home(namespaces: tuple[str, ...]) -> str:
    """Where the Leases are: the pod's namespace, or outside of a cluster the first one that is served."""
    with suppress(OSError):
        return _SERVICE_ACCOUNT.read_text(encoding="utf-8").strip()
    return namespaces[0] if namespaces else "default"


class Replicas:
    """The replicas of this operator, as their Leases show them; for one loop."""

    def __init__(
        self,
        api: LeaseApi,
        *,
        identity: str,
        namespaces: tuple[str, ...] = (),
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is called when replicas have come or gone."""
        self._api = api
        self._identity = identity
        self._namespaces = namespaces
        self._home = home(namespaces)
        self._name = f"partymq-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self._on_change = on_change
        self._seen: dict[str, tuple[str, float]] = {}
        """By Lease: its last renewal, and when we saw that it was new."""
        self._live: dict[str, tuple[str, ...]] = {}
        """By identity: the namespaces that it serves; none means all."""
        self._first: dict[str, float] = {}
        """By identity: since when it has been alive without a break."""
        self._asked: dict[str, float] = {}
        """By identity: when it was asked for first, or that it was seen before anybody asked."""
        self._looked_at = float("-inf")
        self._look_now = asyncio.Event()
        self._failing = ""
        self._left = False
        self.known = False
        """False until Leases could be listed, and always where they may not be."""

    def alive(self, identity: str) -> bool | None:
        """Whether a replica of that name is alive; None if that cannot be known."""
        if identity == self._identity or identity in self._live:
            return True
        # One that was never seen may have come after the last look.
        asked = self._asked.setdefault(identity, _now())
        if self.known and self._looked_at > asked:
            return False
        self._look_now.set()
        return None

    def speaker(self, group: GroupId) -> str:
        """The one that speaks for a group while none of them routes it."""
        able = [name for name, served in self._live.items() if not served or group.namespace in served]
        return max({*able, self._identity}, key=lambda name: weight(name, group))

    def preferred(self, group: GroupId) -> str | None:
        """The one that should route a group, so that groups are spread; None while that is not settled."""
        now = _now()
        able = [
            name
            for name, served in self._live.items()
            if (not served or group.namespace in served) and now - self._first.get(name, now) >= SETTLED
        ]
        return max(able, key=lambda name: weight(name, group), default=None)

    async def run(self) -> None:
        """Renew our Lease and look at the others', for ever."""
        while True:
            try:
                await self._renew()
                began = _now()
                self._look(await self._api.list_leases(self._home, LABEL), began)
            except ApiError as error:
                self._failed(error)
            else:
                self._failing = ""
                await self._sweep()
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW):
                    await self._look_now.wait()
                    await asyncio.sleep(LOOK_SOON)
            self._look_now.clear()

    async def leave(self) -> None:
        """Say that this replica is gone, instead of letting the others find out."""
        self._left = True
        with suppress(ApiError):
            await self._api.delete_lease(self._home, self._name)

    async def _renew(self) -> None:
        if self._left:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        annotations = {NAMESPACES: ",".join(self._namespaces)} if self._namespaces else {}
        await self._api.renew_lease(
            self._home,
            self._name,
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "labels": {LABEL: "true"}, "annotations": annotations},
                "spec": {"holderIdentity": self._identity, "leaseDurationSeconds": int(LEASE), "renewTime": now},
            },
        )

    def _look(self, leases: list[dict[str, Any]], began: float) -> None:
        now, before = _now(), (self.known, self._live)
        seen: dict[str, tuple[str, float]] = {}
        live: dict[str, tuple[str, ...]] = {}
        for lease in leases:
            name, spec = lease["metadata"]["name"], lease.get("spec") or {}
            renewed = str(spec.get("renewTime"))
            last = self._seen.get(name)
            seen[name] = last if last and last[0] == renewed else (renewed, now)
            if now - seen[name][1] <= LEASE:
                live[str(spec.get("holderIdentity"))] = _served(lease)
        self._seen, self._live, self.known = seen, live, True
        self._first = {name: self._first.get(name, now) for name in live}
        answered = {name for name, asked in self._asked.items() if self._looked_at < asked < began} - live.keys()
        self._looked_at = began
        self._asked |= dict.fromkeys(live, float("-inf"))
        if before != (True, live) or answered:
            self._on_change()

    async def _sweep(self) -> None:
        for name, (_, at) in self._seen.items():
            if _now() - at > FORGOTTEN:
                with suppress(ApiError):
                    await self._api.delete_lease(self._home, name)

    def _failed(self, error: ApiError) -> None:
        if not self._failing:
            log.warning("The operator's replicas do not see each other: %s", error)
        self._failing = str(error)
        # Nobody could renew: when the API server is back, all get their whole time again.
        now = _now()
        self._seen = {name: (renewed, now) for name, (renewed, _) in self._seen.items()}
        if 400 <= error.status < 500:
            self.known = False


def _served(lease: Mapping[str, Any]) -> tuple[str, ...]:
    text = (lease["metadata"].get("annotations") or {}).get(NAMESPACES, "")
    return tuple(filter(None, text.split(",")))


def _now() -> float:
    return asyncio.get_running_loop().time()


def weight(identity: str, group: GroupId) -> bytes:
    """How much a replica is for a group: of those that could, the one with the most is taken."""
    return hashlib.sha256(f"{identity}\0{group}".encode()).digest()
