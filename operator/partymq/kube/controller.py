"""Keeps the router's picture of the cluster equal to the API server's.

Invariant: what is handed on comes from a complete list, never from an event: events may be missed, they only say where
to look. A list that fails changes nothing, and is asked for again until it succeeds.
"""

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from partymq.core.report import Condition, GroupReport, Notice
from partymq.core.spec import BrokerAddress, GroupId
from partymq.errors import PartyMQError
from partymq.kube.bridge import Router
from partymq.kube.client import ApiError
from partymq.kube.events import EventsApi, Recorder
from partymq.kube.group import Group, GroupApi
from partymq.kube.pods import pods_of
from partymq.kube.quota import surplus
from partymq.kube.replicas import LeaseApi, Replicas
from partymq.kube.resource import Body, Resource, resource
from partymq.kube.sources import rival
from partymq.kube.strays import Strays
from partymq.limits import Limits

log = logging.getLogger(__name__)

DEBOUNCE: Final = 0.1
"""Seconds in which events are collected before their namespace is listed."""
RELIST: Final = 30.0
"""Seconds after which everything is listed again, for what no event told."""
DELETING: Final = 2.0
"""The same for the namespace of a group that is being deleted."""
_BACKOFF: Final = (0.5, 5.0)
_CONCLUDE: Final = 3.0
_DEFECT: Final = "PartyMQ has a defect: please report what the operator's log says."


class Api(GroupApi, EventsApi, LeaseApi, Protocol):
    """What the controller needs of the client."""

    async def list_groups(self, namespace: str | None) -> list[dict[str, Any]]:
        """All PartitionGroups of a namespace, or with None of the cluster."""

    async def list_pods(self, namespace: str) -> list[dict[str, Any]]:
        """All pods of a namespace whose containers have not ended for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    group: Group
    following: asyncio.Task[None]
    presenting: asyncio.Task[None]


class Controller:
    """All groups of the namespaces that this operator serves; no namespaces means all of them."""

    def __init__(
        self,
        *,
        api: Api,
        router: Router,
        identity: str,
        namespaces: tuple[str, ...] = (),
        inherited: frozenset[GroupId] = frozenset(),
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """`inherited` are the groups that the router knows from an earlier controller; it loses those that are gone."""
        self._api = api
        self._router = router
        self._identity = identity
        self._namespaces = namespaces
        self._inherited = inherited
        self._limits = limits
        self._surplus: Mapping[GroupId, str] | None = None
        """The groups that are too many; None where that is to be found out anew."""
        self._listed: Mapping[GroupId, Resource] = {}
        """What a list of the whole cluster has, while its namespaces are looked at one after the other."""
        self._recorder = Recorder(api, identity)
        self._strays = Strays(self._tell_pod)
        self._replicas = Replicas(api, identity=identity, namespaces=namespaces, on_change=self._reconsider)
        self._groups: dict[GroupId, _Running] = {}
        self._releases: dict[GroupId, asyncio.Task[None]] = {}
        self._removals: dict[tuple[str, str], asyncio.Event] = {}
        """Deletions that kopf waits for, by namespace and uid."""
        self._dirty: set[str] = set()
        self._woken = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._failing = ""
        self.synced = asyncio.Event()
        """Set once everything has been listed."""

    @property
    def failing(self) -> str:
        """Why the API server could not be listed the last time; empty if it could."""
        return self._failing

    def wake(self, namespace: str) -> None:
        """Something in this namespace may have changed."""
        self._dirty.add(namespace)
        self._woken.set()

    def pod_changed(self, namespace: str, pod: str, claim: str | None) -> None:
        """A pod was created, changed or deleted; `claim` is what it says now of the group that it joins."""
        for name, running in self._groups.items():
            if name.namespace == namespace and (name.name == claim or running.group.knows(pod)):
                self.wake(namespace)
        if claim is not None and GroupId(namespace=namespace, name=claim) not in self._groups:
            self._strays.saw(namespace, pod, claim, asyncio.get_running_loop().time())
            self._woken.set()  # not to list anything now, but to do so when it is due

    async def removed(self, group: GroupId, uid: str) -> None:
        """Return when nothing of a group that is being deleted is left to do."""
        done = self._removals.setdefault((group.namespace, uid), asyncio.Event())
        while not done.is_set():
            # kopf tells nothing of an object while a handler of it is at work, and a person may force the deletion.
            self.wake(group.namespace)
            with suppress(TimeoutError):
                async with asyncio.timeout(DELETING):
                    await done.wait()

    def report(self, group: GroupId, report: GroupReport) -> None:
        """What the router reports; it may still do so for a group that is gone."""
        if running := self._groups.get(group):
            running.group.report(report)

    def notice(self, group: GroupId, notice: Notice) -> None:
        """What the router notices."""
        if running := self._groups.get(group):
            running.group.notice(notice)

    async def run(self) -> None:
        """Follow the API server until cancelled or until `quiesce`, and show what the router says until cancelled.

        Raises ApiError when the API server refuses the login.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run(), name="events")
            tasks.create_task(self._replicas.run(), name="replicas")
            self._following = tasks.create_task(self._follow(tasks), name="lists")

    async def quiesce(self) -> None:
        """Hand nothing on to the router any more; what it says is still shown."""
        following = [running.following for running in self._groups.values()]
        following += [self._following] if self._following else []
        await _end(following)

    async def conclude(self) -> None:
        """Say the last word on all groups that are this operator's to speak of; give up after a while."""
        presenting = [running.presenting for running in self._groups.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONCLUDE):
                await _end(presenting)
                await asyncio.gather(*(running.group.conclude() for running in self._groups.values()))
                await self._replicas.leave()

    def _reconsider(self) -> None:
        for running in self._groups.values():
            running.group.reconsider()

    def _tell_pod(self, namespace: str, name: str, uid: str, notice: Notice) -> None:
        """Every replica sees the pod, one of them tells it."""
        if self._replicas.speaker(GroupId(namespace=namespace, name=name)) == self._identity:
            self._recorder.tell_pod(namespace, name, uid, notice)

    def _rival(self, resource: Resource, broker: BrokerAddress) -> GroupId | None:
        others = ((running.group.resource, running.group.address) for running in self._groups.values())
        return rival(resource, broker, others)

    def _too_many(self, group: GroupId) -> str:
        if self._surplus is None:
            known = {**self._listed, **{name: running.group.resource for name, running in self._groups.items()}}
            routed = {name for name, running in self._groups.items() if running.group.configured}
            self._surplus = surplus(known.values(), self._limits, routed=routed)
        return self._surplus.get(group, "")

    def _configured(self, resource: Resource) -> None:
        """Two groups may have read their Secrets at the same time, and found the source free."""
        for name, running in self._groups.items():
            if name != resource.group and running.group.resource.spec.get("source") == resource.spec.get("source"):
                running.group.reconsider()

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        relist_at, failures = loop.time(), 0
        while True:
            everything = loop.time() >= relist_at
            dirty, self._dirty = self._dirty | self._strays.overdue(loop.time()), set()
            self._woken.clear()
            try:
                await (self._list_all(tasks) if everything else self._list(tasks, dirty))
            except ApiError as error:
                if error.status == 401:
                    raise  # only a new login helps
                self._dirty |= dirty
                failures += 1
                self._failed(error)
                # Not woken by events: they come in thousands when an API server returns.
                await asyncio.sleep(min(_BACKOFF[0] * 2 ** min(failures, 6), _BACKOFF[1]) * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            failures = 0
            self._succeeded()
            if everything:
                relist_at = loop.time() + RELIST
                self.synced.set()
                for gone in self._inherited - self._groups.keys():
                    self._releases[gone] = tasks.create_task(self._release(gone), name=f"{gone}: release")
                self._inherited = frozenset()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(relist_at, self._strays.due)):
                    await self._woken.wait()
                    await asyncio.sleep(DEBOUNCE)

    def _failed(self, error: ApiError) -> None:
        if not self._failing:
            log.warning("The API server cannot be listed, routing goes on with what is known: %s", error)
        self._failing = str(error)

    def _succeeded(self) -> None:
        if self._failing:
            log.info("The API server can be listed again.")
        self._failing = ""

    async def _list_all(self, tasks: asyncio.TaskGroup) -> None:
        if self._namespaces:
            await self._list(tasks, self._namespaces)
            return
        listed_at = asyncio.get_running_loop().time()
        groups: defaultdict[str, list[Body]] = defaultdict(list)
        for body in await self._api.list_groups(None):
            groups[body["metadata"]["namespace"]].append(body)
        self._listed = {read.group: read for bodies in groups.values() for read in map(resource, bodies)}
        known = {name.namespace for name in self._groups} | {namespace for namespace, _ in self._removals}
        known |= self._strays.namespaces
        for namespace in sorted(groups.keys() | known):
            await self._observe(tasks, namespace, groups[namespace], listed_at)
        self._listed = {}

    async def _list(self, tasks: asyncio.TaskGroup, namespaces: Iterable[str]) -> None:
        refused: ApiError | None = None
        for namespace in sorted(namespaces):
            listed_at = asyncio.get_running_loop().time()
            try:
                await self._observe(tasks, namespace, await self._api.list_groups(namespace), listed_at)
            except ApiError as error:
                if not error.status:
                    raise
                refused = error  # perhaps of this namespace only: the others must not wait for it
        if refused:
            raise refused

    async def _observe(
        self, tasks: asyncio.TaskGroup, namespace: str, bodies: Sequence[Body], listed_at: float
    ) -> None:
        """Make the groups of one namespace what this list says."""
        pods = await self._api.list_pods(namespace) if bodies or namespace in self._strays.namespaces else []
        resources = {read.group: read for read in map(resource, bodies)}
        uids = {read.uid for read in resources.values()}
        for name, running in [*self._groups.items()]:
            if name.namespace == namespace and running.group.resource.uid not in uids:
                await self._drop(tasks, name)
        self._surplus = None
        for name, read in resources.items():
            running = self._groups.get(name) or self._add(tasks, read)
            listed, refused = pods_of(name, pods, now=time.time())
            running.group.observe(read, listed, refused, listed_at=listed_at)
        self._strays.observe(namespace, pods, self._groups.keys(), asyncio.get_running_loop().time())
        for (where, uid), done in [*self._removals.items()]:
            if where == namespace and uid not in uids:
                done.set()
                del self._removals[where, uid]

    def _add(self, tasks: asyncio.TaskGroup, read: Resource) -> _Running:
        name = read.group
        group = Group(
            read,
            api=self._api,
            router=self._router,
            recorder=self._recorder,
            identity=self._identity,
            replicas=self._replicas,
            rival=self._rival,
            surplus=self._too_many,
            on_configured=self._configured,
        )
        running = _Running(
            group=group,
            following=tasks.create_task(
                self._persist(group, partial(self._take_care, group)), name=f"{name}: spec, pods"
            ),
            presenting=tasks.create_task(self._persist(group, group.present), name=f"{name}: status"),
        )
        self._groups[name] = running
        return running

    async def _take_care(self, group: Group) -> None:
        if release := self._releases.get(group.resource.group):
            await asyncio.wait({release})  # a namesake that was here before
        await group.follow()
        self._removals.setdefault((group.resource.group.namespace, group.resource.uid), asyncio.Event()).set()

    async def _drop(self, tasks: asyncio.TaskGroup, name: GroupId) -> None:
        """The resource is gone: routing it ends, whether or not its queues were deleted."""
        running = self._groups.pop(name)
        await _end([running.following, running.presenting])
        if running.group.configured and not running.group.removed.is_set():
            self._releases[name] = tasks.create_task(self._release(name), name=f"{name}: release")

    async def _release(self, name: GroupId) -> None:
        try:
            await self._router.release(name)
        except PartyMQError as error:
            log.warning("%s: routing did not end well: %s", name, error)
        finally:
            del self._releases[name]

    async def _persist(self, group: Group, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work of one group; a fault in it must not take the others' routing away."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("%s: internal error", group.resource.group)
                group.explain(Condition(ok=False, reason=PartyMQError.reason, message=_DEFECT))
                await asyncio.sleep(RELIST)
            else:
                return


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are over."""
    ending = set(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
