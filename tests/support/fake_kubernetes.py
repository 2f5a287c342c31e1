"""An API server and a router in memory, and time that passes only while nobody has anything to do."""

import asyncio
import functools
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from partymq.core.membership import Pod
from partymq.core.report import Condition, Counters, GroupReport
from partymq.core.spec import DeletionPolicy, GroupConfig, GroupId
from partymq.kube.client import ApiError
from partymq.kube.controller import Controller
from partymq.kube.replicas import NAMESPACES
from partymq.limits import Limits

P = ParamSpec("P")

ORDERS = GroupId(namespace="shop", name="orders")
GOOD_SECRET = {"uri": "amqp://user:old@broker:5672/"}


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeping takes no time: when all tasks wait, the clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 1_000.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits and nothing will ever happen")
        if not ready and timeout:
            self._loop.now += timeout
        return ready


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an asynchronous test on a loop whose clock jumps."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(_bounded(test(*args, **kwargs)))

    return run


async def _bounded(work: Awaitable[None]) -> None:
    async with asyncio.timeout(100_000):
        await work


def group_body(name: str = "orders", namespace: str = "shop", *, uid: str = "", **spec: object) -> dict[str, Any]:
    """A PartitionGroup as the API server gives it."""
    return {
        "apiVersion": "partymq.io/v1alpha1",
        "kind": "PartitionGroup",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid or f"uid-{name}",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"broker": {"connectionSecret": {"name": "rabbitmq"}}, "source": {"queue": name}} | spec,
    }


def pod_body(
    name: str,
    *,
    group: str | None = "orders",
    namespace: str = "shop",
    phase: str = "Running",
    ready: bool = True,
    owner: str = "ReplicaSet",
    **meta: object,
) -> dict[str, Any]:
    """A pod as the API server gives it."""
    annotations = {} if group is None else {"partymq.io/group": group}
    owners = [{"kind": owner, "name": "owner", "controller": True}] if owner else []
    return {
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations, "ownerReferences": owners}
        | meta,
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def report(**changes: object) -> GroupReport:
    """What a router that does well reports."""
    good = Condition(ok=True, reason="Routing", message="messages are routed")
    values: dict[str, Any] = {
        "routing": True,
        "epoch": 1,
        "partitions_total": 64,
        "partitions_assigned": 64,
        "partitions_held": 0,
        "source_ready": 0,
        "backlog": 0,
        "members": (),
        "handoffs": (),
        "ready": good,
        "broker_connected": good,
        "balanced": good,
        "counters": Counters(),
        "consumers_safe": good,
        "queues_safe": good,
        "working": good,
    }
    return GroupReport(**values | changes)


class FakeApi:
    """The API server. `failure` is what every call is answered with while it is set."""

    def __init__(self) -> None:
        self.groups: dict[GroupId, dict[str, Any]] = {}
        self.pods: dict[tuple[str, str], dict[str, Any]] = {}
        self.secrets: dict[tuple[str, str], Mapping[str, str] | Exception] = {("shop", "rabbitmq"): GOOD_SECRET}
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.terminating: set[str] = set()
        self.leases: dict[str, dict[str, Any]] = {}
        self.replicas: dict[str, str] = {}
        """Other replicas that renew their Leases, and the namespaces that they serve."""
        self.leases_refused: ApiError | None = None
        self.failure: ApiError | None = None
        self.failing_namespaces: dict[str, ApiError] = {}
        self.lists = 0
        self.secret_reads = 0
        self.status_writes: list[tuple[float, dict[str, Any]]] = []

    def add(self, *bodies: dict[str, Any]) -> None:
        """Store groups and pods."""
        for body in bodies:
            namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
            if body.get("kind") == "PartitionGroup":
                self.groups[GroupId(namespace=namespace, name=name)] = body
            else:
                self.pods[namespace, name] = body

    def status(self, group: GroupId = ORDERS) -> dict[str, Any]:
        """A group's status."""
        found: dict[str, Any] = self.groups[group].get("status", {})
        return found

    def condition(self, kind: str, group: GroupId = ORDERS) -> dict[str, Any]:
        """A group's condition."""
        found: dict[str, Any] = {c["type"]: c for c in self.status(group).get("conditions", [])}.get(kind, {})
        return found

    def reasons(self) -> list[str]:
        """The reasons of all Events, in the order in which they came first."""
        return [event["reason"] for event in self.events.values()]

    def _answer(self, namespace: str | None = None) -> None:
        if self.failure:
            raise self.failure
        if namespace in self.failing_namespaces:
            raise self.failing_namespaces[namespace]

    async def list_groups(self, namespace: str | None) -> list[dict[str, Any]]:
        self._answer(namespace)
        self.lists += 1
        return [_copy(body) for group, body in self.groups.items() if namespace in (None, group.namespace)]

    async def list_pods(self, namespace: str) -> list[dict[str, Any]]:
        self._answer(namespace)
        return [_copy(body) for (where, _), body in self.pods.items() if where == namespace]

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        self._answer()
        self.secret_reads += 1
        secret = self.secrets.get((namespace, name))
        if isinstance(secret, Exception):
            raise secret
        return secret

    async def patch_status(
        self, namespace: str, name: str, status: Mapping[str, Any], *, version: str
    ) -> dict[str, Any]:
        self._answer()
        group = GroupId(namespace=namespace, name=name)
        if group not in self.groups:
            raise ApiError("patch", 404, "gone")
        body = self.groups[group]
        if version != body["metadata"]["resourceVersion"]:
            raise ApiError("patch", 409, "the object has been modified")
        body["metadata"]["resourceVersion"] += "'"
        body["status"] = _merged(body.get("status", {}), status)
        self.status_writes.append((asyncio.get_running_loop().time(), body["status"]))
        written: dict[str, Any] = _copy(body)
        return written

    async def read_group(self, namespace: str, name: str) -> dict[str, Any]:
        self._answer()
        group = GroupId(namespace=namespace, name=name)
        if group not in self.groups:
            raise ApiError("read", 404, "gone")
        read: dict[str, Any] = _copy(self.groups[group])
        return read

    async def delete_group(self, namespace: str, name: str) -> None:
        self._answer()
        group = GroupId(namespace=namespace, name=name)
        if (self.groups.get(group) or {}).get("metadata", {}).get("finalizers"):
            self.groups[group]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            self.groups.pop(group, None)

    async def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        self._answer()
        key = (namespace, event["metadata"]["name"])
        if key in self.events:
            raise ApiError("post", 409, "exists")
        self.events[key] = dict(event)

    async def read_event(self, namespace: str, name: str) -> dict[str, Any]:
        self._answer()
        return dict(self.events[namespace, name])

    async def patch_event(self, namespace: str, name: str, changes: Mapping[str, Any]) -> None:
        self._answer()
        self.events[namespace, name] |= changes

    async def list_leases(self, namespace: str, label: str) -> list[dict[str, Any]]:
        self._answer()
        if self.leases_refused:
            raise self.leases_refused
        now = str(asyncio.get_running_loop().time())
        for identity, served in self.replicas.items():
            meta: dict[str, Any] = {"name": f"lease-{identity}", "labels": {label: "true"}}
            if served:
                meta["annotations"] = {NAMESPACES: served}
            self.leases[f"lease-{identity}"] = {
                "metadata": meta,
                "spec": {"holderIdentity": identity, "renewTime": now},
            }
        return [_copy(lease) for lease in self.leases.values()]

    async def renew_lease(self, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        self._answer()
        if self.leases_refused:
            raise self.leases_refused
        self.leases[name] = _copy(body)

    async def delete_lease(self, namespace: str, name: str) -> None:
        self._answer()
        self.leases.pop(name, None)

    async def is_terminating(self, namespace: str) -> bool:
        self._answer()
        return namespace in self.terminating


class FakeRouter:
    """The router. `removal` says how a removal ends: with these queues left, this error, or never (None)."""

    def __init__(self) -> None:
        self.configs: dict[GroupId, GroupConfig] = {}
        self.pods: dict[GroupId, tuple[Pod, ...]] = {}
        self.calls: list[str] = []
        self.released: list[GroupId] = []
        self.preferred: dict[GroupId, str | None] = {}
        self.removal: tuple[str, ...] | Exception | None = ()

    def configure(self, config: GroupConfig) -> None:
        self.calls.append("configure")
        self.configs[config.group] = config

    def set_pods(self, group: GroupId, pods: tuple[Pod, ...]) -> None:
        self.calls.append("set_pods")
        self.pods[group] = pods

    def prefer(self, group: GroupId, identity: str | None) -> None:
        self.preferred[group] = identity

    async def remove(self, group: GroupId, policy: DeletionPolicy) -> tuple[str, ...]:
        self.calls.append(f"remove {policy.value}")
        if self.configs.pop(group, None) is None:
            raise AssertionError("a router that does not know a group finds nothing to delete")
        if self.removal is None:
            await asyncio.Event().wait()
        if isinstance(self.removal, Exception):
            raise self.removal
        return self.removal or ()

    async def release(self, group: GroupId) -> None:
        self.calls.append("release")
        self.released.append(group)
        self.configs.pop(group, None)


class World:
    """A controller between an API server and a router."""

    def __init__(
        self,
        *,
        identity: str = "operator-a",
        namespaces: tuple[str, ...] = (),
        api: FakeApi | None = None,
        inherited: frozenset[GroupId] = frozenset(),
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.api = api or FakeApi()
        self.router = FakeRouter()
        self.controller = Controller(
            api=self.api,
            router=self.router,
            identity=identity,
            namespaces=namespaces,
            inherited=inherited,
            limits=limits,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """The controller at work until the block is over."""
        task = asyncio.create_task(self.controller.run())
        try:
            yield self
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def settle(self, seconds: float = 3.0) -> None:
        """Let time pass in which things are listed, handed over and shown."""
        self.controller.wake("shop")
        await asyncio.sleep(seconds)


def _merged(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _copy(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
