"""Deleting a group.

Invariant: the resource stays until its queues are deleted, an Event has named those that stay, or a person has said
that they do not matter; and whoever waits is told for what, and how to stop waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from partymq.aio import owned
from partymq.core.report import Condition, Notice
from partymq.core.spec import GroupId
from partymq.errors import InvalidSecretError, InvalidSpecError, PartyMQError
from partymq.kube.bridge import Router
from partymq.kube.client import ApiError
from partymq.kube.resource import FORCE_ANNOTATION, Resource, deletion_policy

PATIENCE: Final = 10.0
"""Seconds after which a deletion that is not done is called blocked."""
ATTEMPT: Final = 60.0
"""Seconds after which it is begun again, with what the Secret says then."""
RETRY: Final = 5.0
_NAMED: Final = 20
"""Queues that one Event names."""


class Host(Protocol):
    """The group that is being deleted, as its worker knows it."""

    @property
    def resource(self) -> Resource:
        """The resource as it was listed last."""

    @property
    def speaks(self) -> bool:
        """True if no other replica has to delete the group."""

    @property
    def configured(self) -> bool:
        """True if the router here knows the group."""

    async def prepare_removal(self) -> None:
        """Make the router know the group and the newest address; raises what keeps it from knowing any."""

    def forget(self) -> None:
        """The router is told to remove the group, and knows it no more however that ends."""

    async def let_go(self) -> None:
        """Route the group here no more: another replica deletes it, and must find nobody at the journal."""

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109 - it returns, it does not raise
        """Wait until the resource or the report changed, or for so many seconds."""

    def explain(self, problem: Condition) -> None:
        """Show why the group is not ready."""

    async def tell(self, notice: Notice) -> None:
        """Post an Event and wait for it, for a while."""

    def says(self) -> str:
        """What the router said last."""


class Removal:
    """One group's deletion, from the first look at its deletionTimestamp until nothing is left to do."""

    def __init__(self, host: Host, router: Router, is_terminating: Callable[[str], Awaitable[bool]]) -> None:
        self._host = host
        self._router = router
        self._is_terminating = is_terminating
        self._told = ""

    @property
    def _group(self) -> GroupId:
        return self._host.resource.group

    async def run(self) -> None:
        """Return when the resource may go."""
        self._host.explain(Condition(ok=False, reason="Deleting", message="The group's queues are being deleted."))
        while not self._host.speaks and not self._host.resource.forced:
            await self._host.let_go()
            await self._host.changed(RETRY)
        while not await self._attempt():
            if not self._host.resource.forced:
                await self._host.changed(RETRY)

    async def _attempt(self) -> bool:
        if self._host.resource.forced:
            return await self._let_go(f"the annotation {FORCE_ANNOTATION} says so")
        try:
            await self._host.prepare_removal()
            left = await self._delete()
        except InvalidSpecError as error:
            # The Secret goes with its namespace, before or after us, and nobody can fix it there.
            if isinstance(error, InvalidSecretError) and await self._namespace_goes():
                return await self._let_go("its namespace is being deleted and the Secret is already gone")
            await self._blocked(str(error))
            return False
        except PartyMQError as error:
            await self._blocked(str(error))
            return False
        if left:
            await self._name(left)
        return left is not None

    async def _delete(self) -> tuple[str, ...] | None:
        """The queues that stay; None if the attempt was given up."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._host.forget()
        async with owned(self._router.remove(self._group, deletion_policy(self._host.resource.spec))) as removing:
            while loop.time() < began + ATTEMPT and not self._host.resource.forced:
                async with owned(self._host.changed(PATIENCE)) as change:
                    await asyncio.wait({removing, change}, return_when=asyncio.FIRST_COMPLETED)
                if removing.done():
                    return await removing
                if loop.time() >= began + PATIENCE:
                    await self._blocked(self._host.says())
        return None

    async def _let_go(self, why: str) -> bool:
        if self._host.configured:
            await self._router.release(self._group)
        prefix = f"partymq.{self._group.namespace}.{self._group.name}."
        await self._host.tell(
            Notice(
                warning=True,
                reason="QueuesAbandoned",
                message=f"The group is let go without deleting its queues, because {why}. "
                f"The names of what is left on the broker begin with {prefix}",
            )
        )
        return True

    async def _name(self, left: tuple[str, ...]) -> None:
        named = ", ".join(left[:_NAMED]) + (f" and {len(left) - _NAMED} more" if len(left) > _NAMED else "")
        await self._host.tell(
            Notice(
                warning=True,
                reason="QueuesKept",
                message="Create the group again, with the same name and number of partitions, and all that waits is "
                "delivered, in order. For these queues stay on the broker, because they hold messages (deletionPolicy "
                f"DeleteEmpty): {named}. If their messages are of no use, delete them",
            )
        )

    async def _blocked(self, why: str) -> None:
        group = self._group
        message = (
            f"The group's queues cannot be deleted yet: {why.rstrip('.')}. It is tried again until it works. "
            "To let the resource go and leave the queues: "
            f"kubectl -n {group.namespace} annotate pgrp {group.name} {FORCE_ANNOTATION}=true"
        )
        if message != self._told:
            self._told = message
            self._host.explain(Condition(ok=False, reason="DeletionBlocked", message=message))
            await self._host.tell(Notice(warning=True, reason="DeletionBlocked", message=message))

    async def _namespace_goes(self) -> bool:
        try:
            return await self._is_terminating(self._group.namespace)
        except ApiError:
            return False
