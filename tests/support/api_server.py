"""A real API server for tests: `kubectl` in one namespace, the operator's Kubernetes side, a line that can be cut.

There is no kubelet and there are no controllers: a pod's status is what a test writes into it.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import yaml

from partymq.core.spec import GroupId
from partymq.kube.thread import KubernetesThread
from support.conditions import eventually
from support.fake_kubernetes import FakeRouter


class Kubectl:
    """`kubectl` in one namespace."""

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it, whatever comes of it."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """What it says; it must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is such an object."""
        return self.run("get", kind, name).returncode == 0

    def group(self, name: str = "orders", **spec: object) -> GroupId:
        """Create a PartitionGroup."""
        whole = {"broker": {"connectionSecret": {"name": "rabbitmq"}}, "source": {"queue": name}} | spec
        self.apply(
            {"apiVersion": "partymq.io/v1alpha1", "kind": "PartitionGroup", "metadata": {"name": name}, "spec": whole}
        )
        return GroupId(namespace=self.namespace, name=name)

    def secret(self, uri: str = "amqp://user:password@broker:5672/", name: str = "rabbitmq") -> None:
        """Create or change a Secret."""
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"uri": uri}})

    def pod(self, *names: str, group: str = "orders", ready: bool = False) -> None:
        """Create pods that join a group; they run at once if they are to be ready."""
        self.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "annotations": {"partymq.io/group": group}},
                    "spec": {"automountServiceAccountToken": False, "containers": [{"name": "c", "image": "none"}]},
                }
                for name in names
            )
        )
        if ready:
            for name in names:
                self.pod_status(name, "Running", ready=True)

    def pod_status(self, name: str, phase: str, *, ready: bool) -> None:
        """What a kubelet would write."""
        status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
        self("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))

    def status(self, name: str = "orders") -> dict[str, Any]:
        """A PartitionGroup's status."""
        status: dict[str, Any] = self.get("partitiongroup", name).get("status", {})
        return status

    def condition(self, kind: str, name: str = "orders") -> dict[str, Any]:
        """A PartitionGroup's condition."""
        found: dict[str, Any] = {c["type"]: c for c in self.status(name).get("conditions", ())}.get(kind, {})
        return found

    def events(self) -> dict[str, str]:
        """The messages of the namespace's Events by reason."""
        return {event["reason"]: event["message"] for event in json.loads(self("get", "events", "-o", "json"))["items"]}


@contextmanager
def namespace(kubeconfig: str, name: str) -> Iterator[Kubectl]:
    """`kubectl` in a new namespace, which is gone in the end with all that is in it."""
    own = Kubectl(kubeconfig, name)
    own("create", "namespace", name)
    own("create", "serviceaccount", "default")  # no controller makes it, and pods are refused without
    try:
        yield own
    finally:
        own("delete", "partitiongroups", "--all", "--wait=false")
        for group in own("get", "partitiongroups", "-o", "name").split():
            own.run("patch", group, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        own("delete", "--raw", f"/api/v1/namespaces/{name}/pods?gracePeriodSeconds=0")
        own("delete", "namespace", name, "--wait=false")


class Watching:
    """The Kubernetes side at work for a router that only notes what it is told."""

    def __init__(self, thread: KubernetesThread, router: FakeRouter) -> None:
        self.thread = thread
        self.router = router

    def states(self, group: GroupId) -> dict[str, str]:
        """The pods that the router knows."""
        return {pod.name: pod.state.value for pod in self.router.pods.get(group, ())}

    async def sees(self, group: GroupId, **states: str) -> float:
        """Wait until the router knows exactly these pods; how long it took."""
        wanted = {name.replace("_", "-"): state for name, state in states.items()}
        return await eventually(
            lambda: self.states(group) == wanted, lambda: f"{self.states(group)} are {wanted}", every=0.002
        )

    def away(self) -> bool:
        """Whether the API server is known to be away; looks now instead of within half a minute."""
        stretch = self.thread._stretch
        assert stretch
        if stretch.watch.controller.failing:
            return True
        stretch.loop.call_soon_threadsafe(stretch.watch.controller.wake, "default")
        return False

    async def configured(self, group: GroupId) -> None:
        """Wait until the router knows a group."""
        await eventually(lambda: group in self.router.configs, f"the router knows {group}", every=0.005)


class Start(Protocol):
    """Starts the Kubernetes side; without namespaces it serves the test's own."""

    async def __call__(
        self,
        identity: str = ...,
        *,
        namespaces: tuple[str, ...] | None = ...,
        kubeconfig: str | None = ...,
        ready: bool = ...,
    ) -> Watching:
        """The Kubernetes side at work, until the test ends."""


@asynccontextmanager
async def watching(
    *, identity: str, namespaces: tuple[str, ...], kubeconfig: str, ready: bool
) -> AsyncIterator[Watching]:
    """The Kubernetes side at work until the block is over; `ready` waits until it knows the cluster."""
    router = FakeRouter()
    thread = KubernetesThread(router, identity=identity, namespaces=namespaces, kubeconfig=kubeconfig)
    thread.start()
    try:
        if ready:
            await eventually(lambda: not thread.unready() or thread.ended.done(), thread.unready)
        yield Watching(thread, router)
    finally:
        await thread.quiesce()
        await thread.stop()
        thread.ended.result()


class Line:
    """A TCP line to the API server. Held, it answers as little as a server that is stopped; cut, it refuses."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def connect(self) -> None:
        """Be there."""
        self._server = await asyncio.start_server(self._serve, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Be away: connections are reset and refused."""
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """Forward nothing any more."""
        self._open.clear()

    def go_on(self) -> None:
        """Forward what was held, and all that follows."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
            try:
                await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
