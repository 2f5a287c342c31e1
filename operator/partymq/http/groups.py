"""Which group a request of the clients API is for.

Invariant: a path means one group or none. Names of groups are unique in a namespace only: the short path stands for the
one group of that name, and is refused, with the long ones, where there are several.
"""

from collections.abc import Callable, Collection
from typing import Final

from aiohttp import web

from partymq.core.spec import GroupId
from partymq.http.auth import NAMESPACES
from partymq.http.problems import ProblemError
from partymq.router.client_service import ClientService, NotRoutingError

SHORT: Final = "/groups/{group}"
LONG: Final = "/namespaces/{namespace}/groups/{group}"


class Groups:
    """The groups that a process knows now."""

    def __init__(
        self,
        *,
        known: Callable[[], Collection[GroupId]],
        service: Callable[[GroupId], ClientService | None],
        unready: Callable[[], str] = lambda: "",
    ) -> None:
        """`unready` says why not all groups are known yet; empty if they are."""
        self._known = known
        self._service = service
        self._unready = unready

    def find(self, request: web.Request) -> ClientService:
        """The group that the path names; raises a problem that says what to ask for instead."""
        name, namespace = request.match_info["group"], request.match_info.get("namespace")
        found = self._named(request)
        if (open_ := request.get(NAMESPACES)) is not None:
            found = [group for group in found if group.namespace in open_]
        if len(found) > 1:
            paths = " or ".join(LONG.format(namespace=group.namespace, group=group.name) for group in found)
            raise ProblemError(409, f"There are {len(found)} groups {name!r}: use {paths}.")
        service = self._service(found[0]) if found else None
        if service is not None:
            return service
        if unready := self._unready():
            raise NotRoutingError(f"This PartyMQ does not know its groups yet: {unready} Ask again in a moment.")
        wanted = name if namespace is None else f"{namespace}/{name}"
        raise ProblemError(404, f"There is no group {wanted[:130]!r}: GET /health lists those that there are.")

    def namespaces(self, request: web.Request) -> Collection[str]:
        """Those of the groups that the path may mean; raises NotRoutingError while these are not known."""
        found = {group.namespace for group in self._named(request)}
        if not found and "group" in request.match_info and (unready := self._unready()):
            raise NotRoutingError(f"This PartyMQ does not know its groups yet: {unready} Ask again in a moment.")
        return found

    def _named(self, request: web.Request) -> list[GroupId]:
        name, namespace = request.match_info.get("group"), request.match_info.get("namespace")
        return sorted(group for group in self._known() if group.name == name and namespace in (None, group.namespace))
