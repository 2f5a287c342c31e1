"""One group's affairs on this side: its spec, Secret and pods to the router, the router's reports to its status.

Invariant: what works is replaced only by what is usable. A spec or a Secret that cannot be used is shown as the group's
problem while the router goes on with what it had; an API server that is away changes nothing at all.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from partymq.core.membership import Pod
from partymq.core.report import Condition, GroupReport, Notice
from partymq.core.spec import BrokerAddress, GroupConfig, GroupId, GroupSpec
from partymq.errors import InvalidSecretError, InvalidSpecError, PartyMQError, SourceTakenError, TooManyGroupsError
from partymq.kube.bridge import Router
from partymq.kube.client import ApiError
from partymq.kube.connection_secret import REREAD, REREAD_IN_TROUBLE, ConnectionSecret, SecretsApi
from partymq.kube.events import Recorder
from partymq.kube.removal import Removal
from partymq.kube.replicas import Replicas
from partymq.kube.resource import Resource, group_spec, secret_name
from partymq.kube.status import View, known_members
from partymq.kube.writer import StatusApi, StatusWriter

log = logging.getLogger(__name__)

_PASSING: Final = (InvalidSecretError, SourceTakenError, TooManyGroupsError)
"""What may be over without a change of the spec."""
_TELLING: Final = 5.0
"""Seconds that a deletion waits for its Events."""


class GroupApi(SecretsApi, StatusApi, Protocol):
    """What a group needs of the client."""

    async def is_terminating(self, namespace: str) -> bool:
        """True while a namespace is being deleted."""


class Rival(Protocol):
    """Finds the group to which a source belongs that another one wants, too."""

    def __call__(self, resource: Resource, broker: BrokerAddress) -> GroupId | None:
        """The other group; None where the source is free."""


class Surplus(Protocol):
    """Says whether a group is one too many."""

    def __call__(self, group: GroupId) -> str:
        """Why it is; empty if it is not."""


class Group:
    """A PartitionGroup from the first list that has it to the first that has it no more."""

    def __init__(
        self,
        resource: Resource,
        *,
        api: GroupApi,
        router: Router,
        recorder: Recorder,
        identity: str,
        replicas: Replicas,
        rival: Rival,
        surplus: Surplus,
        on_configured: Callable[[Resource], None],
    ) -> None:
        self._resource = resource
        self._pods: tuple[Pod, ...] = ()
        self._refused: tuple[str, ...] = ()
        self._api = api
        self._router = router
        self._recorder = recorder
        self._identity = identity
        self._rival = rival
        self._surplus = surplus
        self._on_configured = on_configured
        self._replicas = replicas
        self._preferred: str | None = None
        self._connection = ConnectionSecret(api, resource.group.namespace)
        self._writer = StatusWriter(resource, api=api, identity=identity, replicas=replicas)
        self._applied: tuple[GroupSpec, BrokerAddress] | None = None
        self._epoch = 0
        """The highest that the router was told of."""
        self._generation = resource.status.get("observedGeneration", 0)
        self._sent: tuple[Pod, ...] | None = None
        self._told: tuple[str, ...] = ()
        self._report: GroupReport | None = None
        self._problem: Condition | None = None
        self._change = asyncio.Event()
        self.removed = asyncio.Event()
        """Set when the group is being deleted and the resource may go."""

    @property
    def resource(self) -> Resource:
        """The resource as it was listed last."""
        return self._resource

    @property
    def configured(self) -> bool:
        """True if the router here knows the group."""
        return self._applied is not None

    @property
    def speaks(self) -> bool:
        """True if this replica routes the group, or nobody does and it is the one that speaks for it."""
        return self._writer.speaks

    @property
    def address(self) -> BrokerAddress | None:
        """The broker, once it is known."""
        return self._connection.last

    def knows(self, pod: str) -> bool:
        """True if a pod of this name is among the group's."""
        return any(known.name == pod for known in self._pods)

    def observe(self, resource: Resource, pods: tuple[Pod, ...], refused: tuple[str, ...], *, listed_at: float) -> None:
        """What the API server lists now; `listed_at` is when it was asked."""
        self._resource, self._pods, self._refused = resource, pods, refused
        self._writer.observe(resource, listed_at=listed_at)
        self._change.set()

    def reconsider(self) -> None:
        """Replicas have come or gone, or another group has taken the source."""
        self._writer.wake()
        self._change.set()

    def report(self, report: GroupReport) -> None:
        """What the router reports."""
        connected = report.broker_connected.ok
        if self._report is None or self._report.broker_connected.ok != connected:
            self._change.set()
        self._report = report
        self._show()

    def notice(self, notice: Notice) -> None:
        """What is noticed: every replica notices it, one of them tells it."""
        if self.speaks:
            self._recorder.tell(self._resource.group, self._resource.uid, notice)
        else:
            log.info("%s: %s: %s", self._resource.group, notice.reason, notice.message)

    async def follow(self) -> None:
        """Bring what the API server says to the router, for ever."""
        while not self._resource.deleting:
            await self.changed(await self._bring())
        await Removal(self, self._router, self._api.is_terminating).run()
        self.removed.set()

    async def present(self) -> None:
        """Bring what the router says to the API server, for ever."""
        await self._writer.run()

    async def conclude(self) -> None:
        """Say the last word before the operator stops."""
        await self._writer.conclude()

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109 - it returns, it does not raise
        """Wait until the resource or the broker's connection changed, or for so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._change.wait()
                self._change.clear()

    async def prepare_removal(self) -> None:
        """Make the router know the group and the newest address; raises what keeps it from knowing any."""
        resource = self._resource
        try:
            spec = group_spec(resource.group, resource.spec)
            address = await self._connection.address(secret_name(resource.spec), trouble=self._trouble)
        except PartyMQError:
            if self._applied is None:
                raise
        else:
            if self._applied is None:
                # Nothing is routed any more, and a journal that is gone was deleted by us before a restart.
                self._configure(replace(spec, paused=True), address, known_epoch=0)
            elif address != self._applied[1]:
                self._configure(self._applied[0], address)
        self._hand_over_pods()

    def forget(self) -> None:
        """The router is told to remove the group, and knows it no more however that ends."""
        self._applied = self._sent = None

    async def let_go(self) -> None:
        """Route the group here no more: another replica deletes it, and must find nobody at the journal."""
        if self._applied is not None:
            self.forget()
            await self._router.release(self._resource.group)
            self._report = None
            self._show()

    def explain(self, problem: Condition) -> None:
        """Show why the group is not ready."""
        self._problem = problem
        self._generation = self._resource.generation
        self._show()

    async def tell(self, notice: Notice) -> None:
        """Post an Event and wait for it, for a while: the resource may be gone afterwards."""
        self._recorder.tell(self._resource.group, self._resource.uid, notice)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TELLING):
                await self._recorder.idle()

    def says(self) -> str:
        """What the router said last."""
        if self._report is None:
            return "the router has not reported yet"
        condition = self._report.ready if self._report.broker_connected.ok else self._report.broker_connected
        return f"the router says: {condition.message}"

    async def _bring(self) -> float:
        """Hand over what changed; seconds until it should be looked at again."""
        try:
            await self._hand_over()
        except InvalidSpecError as error:
            self._generation = self._resource.generation
            self._set_problem(self._described(error))
            return REREAD_IN_TROUBLE if isinstance(error, _PASSING) else REREAD
        except ApiError as error:
            log.info("%s: goes on with what is known: %s", self._resource.group, error)
            return REREAD_IN_TROUBLE
        self._set_problem(None)
        return REREAD_IN_TROUBLE if self._trouble else REREAD

    async def _hand_over(self) -> None:
        resource = self._resource
        # Pods first: that the spec is bad or the Secret is gone must not keep the router from knowing who is there.
        if self._applied:
            self._hand_over_pods()
        elif why := self._surplus(resource.group):
            raise TooManyGroupsError(f"This group is not routed: {why}.")
        wanted = (
            group_spec(resource.group, resource.spec),
            await self._connection.address(secret_name(resource.spec), trouble=self._trouble),
        )
        await self._yield_source(*wanted)
        if wanted != self._applied or resource.status.get("epoch", 0) > self._epoch:
            self._configure(*wanted)
            self._on_configured(resource)
        self._hand_over_pods()
        if (preferred := self._replicas.preferred(resource.group)) != self._preferred:
            self._router.prefer(resource.group, preferred)
            self._preferred = preferred
        if self._generation != resource.generation:
            self._generation = resource.generation
            self._show()

    async def _yield_source(self, spec: GroupSpec, broker: BrokerAddress) -> None:
        """Raise if the source is another group's; what routes it here already, stops."""
        rival = self._rival(self._resource, broker)
        if rival is None:
            return
        if self._applied and self._applied[0].source_queue == spec.source_queue and self._applied[1] == broker:
            await self.let_go()
        raise SourceTakenError(
            f"the source queue {spec.source_queue!r} belongs to the PartitionGroup {rival} of the same broker: two "
            "groups would share its messages out and lose their order. Name another queue in spec.source.queue, or "
            f"delete {rival}; this group then starts by itself."
        )

    def _hand_over_pods(self) -> None:
        if self._pods != self._sent:
            self._router.set_pods(self._resource.group, self._pods)
            self._sent = self._pods
        for sentence in set(self._refused) - set(self._told):
            self.notice(Notice(warning=True, reason="PodRefused", message=sentence))
        self._told = self._refused

    def _configure(self, spec: GroupSpec, broker: BrokerAddress, *, known_epoch: int | None = None) -> None:
        epoch = max(self._resource.status.get("epoch", 0), self._report.epoch if self._report else 0)
        group = self._resource.group
        known = epoch if known_epoch is None else known_epoch
        self._epoch = known
        members = known_members(self._resource.status)
        self._router.configure(
            GroupConfig(
                group=group,
                spec=spec,
                broker=broker,
                known_epoch=known,
                known_members=members,
                uid=self._resource.uid,
            )
        )
        self._applied = (spec, broker)

    @property
    def _trouble(self) -> bool:
        return self._report is not None and not self._report.broker_connected.ok

    def _described(self, error: InvalidSpecError) -> Condition:
        goes_on = " Routing goes on with the settings from before." if self._applied else ""
        return Condition(ok=False, reason=error.reason, message=f"{error}{goes_on}")

    def _set_problem(self, problem: Condition | None) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            self.notice(Notice(warning=True, reason=problem.reason, message=problem.message))
        else:
            text = "The spec and the connection Secret can be used now."
            self.notice(Notice(warning=False, reason="Accepted", message=text))
        self._show()

    def _show(self) -> None:
        self._writer.show(
            View(identity=self._identity, generation=self._generation, report=self._report, problem=self._problem)
        )
