"""What is done around the operator's removal, by a process of its own that outlives it.

Invariant: nothing is said of a group that somebody may still route, and no group is deleted without the operator that
takes its queues away. The last word is written only when the operator's pods are gone; groups are deleted only before.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from partymq.errors import PartyMQError
from partymq.kube.client import ApiError
from partymq.kube.replicas import LABEL
from partymq.kube.resource import Body, Resource, resource
from partymq.kube.status import patch, stopped

EVERY: Final = 0.5
"""Seconds between two looks at what is waited for."""
_TRIES: Final = 5
_NAMED: Final = 10
"""Groups that one sentence names."""


class StillThereError(PartyMQError):
    """What should be gone by now is still there; the message names it, and says what to do."""


class Api(Protocol):
    """What this needs of the client."""

    async def list_groups(self, namespace: str | None) -> list[dict[str, Any]]:
        """All PartitionGroups of a namespace, or with None of the cluster."""

    async def delete_group(self, namespace: str, name: str) -> None:
        """Begin to delete a PartitionGroup; one that is gone is no error."""

    async def read_group(self, namespace: str, name: str) -> dict[str, Any]:
        """A PartitionGroup as it is now."""

    async def patch_status(self, namespace: str, name: str, status: Body, *, version: str) -> dict[str, Any]:
        """Merge into a PartitionGroup's status; the whole object as it is then; ApiError 409 at another version."""

    async def list_pods(self, namespace: str) -> list[dict[str, Any]]:
        """All pods of a namespace whose containers have not ended for good."""

    async def list_leases(self, namespace: str, label: str) -> list[dict[str, Any]]:
        """The Leases that carry a label."""

    async def delete_lease(self, namespace: str, name: str) -> None:
        """Delete a Lease; a missing one is no error."""


async def delete_groups(api: Api, *, namespaces: Sequence[str], within: float) -> None:
    """Delete all PartitionGroups of the cluster, while the operator is there to take their queues away.

    `namespaces` are those that it serves, none means all of them; `within` is seconds. Raises StillThereError for a
    group that another operator serves, before anything is deleted, and for groups that do not go.
    """
    groups = await _groups(api, ())
    others = [group for group in groups if namespaces and group.group.namespace not in namespaces]
    if others:
        raise StillThereError(
            f"Nothing is deleted: without the kind PartitionGroup {_named(others)} would be lost, which this operator "
            "does not serve. Delete them first, or keep the kind: "
            "`helm upgrade ... --reuse-values --set crds.keep=true`, then uninstall"
        )
    for group in groups:
        await api.delete_group(group.group.namespace, group.group.name)

    async def gone() -> bool:
        return not await _groups(api, ())

    if not await _comes(gone, within):
        left = await _groups(api, ())
        raise StillThereError(
            f"{_named(left)} could not be deleted within {within:.0f} s, so nothing else is removed. {_why(left)}. "
            "Fix that and uninstall again"
        )


async def say_last_word(
    api: Api, *, home: str, selector: Mapping[str, str], namespaces: Sequence[str], within: float
) -> None:
    """Say of every group that nobody routes it any more, when the operator's pods are gone, and sweep up after them.

    The pods are those in the namespace `home` with the labels `selector`; `namespaces` are those that they have served,
    none means all of them; `within` is seconds. Raises StillThereError for pods that do not go.
    """
    living: set[str] = set()
    seen: set[str] = set()

    async def gone() -> bool:
        pods = await api.list_pods(home)
        living.clear()
        living.update(pod["metadata"]["name"] for pod in pods)
        ours = {
            pod["metadata"]["name"] for pod in pods if selector.items() <= (pod["metadata"].get("labels") or {}).items()
        }
        seen.update(ours)
        return not ours

    if not await _comes(gone, within):
        raise StillThereError(
            f"Pods of the operator are still there after {within:.0f} s; what groups show was not brought up to date"
        )
    # Those that were gone before we looked have left a Lease: with their rights they could not even delete that.
    leases = {
        each["metadata"]["name"]: each["spec"].get("holderIdentity") for each in await api.list_leases(home, LABEL)
    }
    left = {name: holder for name, holder in leases.items() if holder not in living}
    for group in await _groups(api, namespaces):
        await _conclude(api, group, frozenset(seen.union(left.values())))
    for name in left:
        await api.delete_lease(home, name)


async def _conclude(api: Api, group: Resource, dead: frozenset[str]) -> None:
    """One that is not routed may be another operator's, too: that one then writes again what it knows."""
    for _ in range(_TRIES):
        router, now = group.status.get("router"), time.time()
        last = stopped(group.status, group.status, now)
        if not group.status or last == group.status or (router and router not in dead):
            return
        changes = patch(group.status, last)
        namespace, name = group.group.namespace, group.group.name
        try:
            await api.patch_status(namespace, name, changes, version=group.version)
        except ApiError as error:
            if error.status == 404:
                return
            if error.status != 409:
                raise
            group = resource(await api.read_group(namespace, name))
        else:
            return


async def _groups(api: Api, namespaces: Sequence[str]) -> list[Resource]:
    try:
        return [resource(body) for one in namespaces or (None,) for body in await api.list_groups(one)]
    except ApiError as error:
        if error.status == 404:  # the kind is gone, and all groups with it
            return []
        raise


async def _comes(condition: Callable[[], Awaitable[bool]], within: float) -> bool:
    end = asyncio.get_running_loop().time() + within
    while not await condition():
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(EVERY)
    return True


def _named(groups: Sequence[Resource]) -> str:
    more = f" and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
    return f"PartitionGroups {', '.join(str(group.group) for group in groups[:_NAMED])}{more}"


def _why(groups: Sequence[Resource]) -> str:
    """What the first of them says of itself."""
    conditions = {one["type"]: one["message"] for one in groups[0].status.get("conditions") or ()}
    return f"{groups[0].group} says: {conditions.get('Ready', 'nothing')}".rstrip(".") if groups else ""
