"""Which group a request of the clients API is for.

Invariant: a path means one group or none. Names of groups are unique in a namespace only: the short path stands for the
one group of that name, and is refused, with the long ones, where there are several.
"""

from collections.abc import Callable, Collection
from typing import Final

from aiohttp import web

from partymq.core.spec import GroupId
from partymq.http.problems import ProblemError
from partymq.router.registry import NotRoutingError, Registry

SHORT: Final = "/groups/{group}"
LONG: Final = "/namespaces/{namespace}/groups/{group}"


class Groups:
    """The groups that a process knows now."""

    def __init__(
        self,
        *,
        known: Callable[[], Collection[GroupId]],
        registry: Callable[[GroupId], Registry | None],
        unready: Callable[[], str] = lambda: "",
    ) -> None:
        """`unready` says why not all groups are known yet; empty if they are."""
        self._known = known
        self._registry = registry
        self._unready = unready

    def find(self, request: web.Request) -> Registry:
        """The group that the path names; raises a problem that says what to ask for instead."""
        name, namespace = request.match_info["group"], request.match_info.get("namespace")
        found = sorted(group for group in self._known() if group.name == name and namespace in (None, group.namespace))
        if len(found) > 1:
            paths = " or ".join(LONG.format(namespace=group.namespace, group=group.name) for group in found)
            raise ProblemError(409, f"There are {len(found)} groups {name!r}: use {paths}.")
        registry = self._registry(found[0]) if found else None
        if registry is not None:
            return registry
        if unready := self._unready():
            raise NotRoutingError(f"This PartyMQ does not know its groups yet: {unready} Ask again in a moment.")
        wanted = name if namespace is None else f"{namespace}/{name}"
        raise ProblemError(404, f"There is no group {wanted[:130]!r}: GET /health lists those that there are.")
