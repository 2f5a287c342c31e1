"""The way from kopf's thread to the router's.

Invariant: the router is only ever called on its own loop's thread, in the order in which the calls were made here, and
only immutable values cross.
"""

import asyncio
from typing import Protocol

from partymq.core.membership import Pod
from partymq.core.spec import DeletionPolicy, GroupConfig, GroupId


class Router(Protocol):
    """What this side asks of the router's supervisor."""

    def configure(self, config: GroupConfig) -> None:
        """Create or change a group."""

    def set_pods(self, group: GroupId, pods: tuple[Pod, ...]) -> None:
        """The whole current list of the group's pods."""

    def prefer(self, group: GroupId, identity: str | None) -> None:
        """The replica that should route the group; None if it does not matter."""

    async def remove(self, group: GroupId, policy: DeletionPolicy) -> tuple[str, ...]:
        """Stop routing and delete the group's queues; the names of those that stay because they hold messages."""

    async def release(self, group: GroupId) -> None:
        """Stop routing here and touch no queue."""


class Bridge:
    """A router of another thread; a Router itself, to be called on this thread."""

    def __init__(self, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self._router = router
        self._loop = loop
        self._groups: set[GroupId] = set()

    @property
    def groups(self) -> frozenset[GroupId]:
        """The groups that the router was told of and shall still know."""
        return frozenset(self._groups)

    def configure(self, config: GroupConfig) -> None:
        """Create or change a group."""
        self._groups.add(config.group)
        self._loop.call_soon_threadsafe(self._router.configure, config)

    def set_pods(self, group: GroupId, pods: tuple[Pod, ...]) -> None:
        """The whole current list of the group's pods."""
        self._loop.call_soon_threadsafe(self._router.set_pods, group, pods)

    def prefer(self, group: GroupId, identity: str | None) -> None:
        """The replica that should route the group; None if it does not matter."""
        self._loop.call_soon_threadsafe(self._router.prefer, group, identity)

    async def remove(self, group: GroupId, policy: DeletionPolicy) -> tuple[str, ...]:
        """Delete the group's queues; cancelling this cancels it over there."""
        self._groups.discard(group)
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._router.remove(group, policy), self._loop)
        )

    async def release(self, group: GroupId) -> None:
        """Stop routing; cancelling this cancels it over there."""
        self._groups.discard(group)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._router.release(group), self._loop))
