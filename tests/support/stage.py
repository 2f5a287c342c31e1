"""What the demo and the end-to-end tests put on the cluster: the operator, groups, and pods that report to the auditor.

Invariant: everything is in a namespace of its own and carries its name on the broker; leaving the block takes all of it
back, groups before the operator, so that no finalizer is left without somebody to honour it.
"""

import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from support.broker import amqp_url, management_url
from support.conditions import eventually
from support.kube import CommandError, Kube, run
from support.options import ConsumerOptions, to_argument

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "partymq"
RELEASE = "partymq"
KIND = "partitiongroups.partymq.io"
OPERATOR = "partymq\0operator"
"""In the command line of the operator's process."""
_CLIENT = Path(__file__).parent
_CLIENT_FILES = (
    "__init__.py",
    "aio_pika_consumer.py",
    "auditor.py",
    "client.py",
    "conditions.py",
    "events.py",
    "message.py",
    "options.py",
    "spool.py",
    "verdict.py",
)
_PATH = "/opt/audit"
_STATE = "/run/consumer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the caller (`hack/run.sh`) has prepared."""

    operator_image: str
    example_image: str
    host_network: bool
    amqp_url: str
    amqp_url_in_pods: str

    @classmethod
    def read(cls) -> Self:
        """From the environment variables; a missing one is named."""
        missing = [
            name
            for name in ("KUBECONFIG", "PARTYMQ_OPERATOR_IMAGE", "PARTYMQ_EXAMPLE_IMAGE")
            if not os.environ.get(name)
        ]
        if missing:
            raise CommandError(
                f"{', '.join(missing)} not set: start this with `make demo` or `make e2e`, which prepare it"
            )
        return cls(
            operator_image=os.environ["PARTYMQ_OPERATOR_IMAGE"],
            example_image=os.environ["PARTYMQ_EXAMPLE_IMAGE"],
            host_network=os.environ.get("PARTYMQ_HOST_NETWORK") == "1",
            amqp_url=amqp_url(),
            amqp_url_in_pods=os.environ.get("PARTYMQ_POD_AMQP_URL") or amqp_url(),
        )


@asynccontextmanager
async def operator(
    cluster: Kube, environment: Environment, *, everywhere: bool = False, release: str = RELEASE
) -> AsyncIterator[None]:
    """A release of the chart in the namespace, watching that namespace alone or all of them."""
    if await run("kubectl", "get", "crd", KIND, "--ignore-not-found", "-o", "name"):
        # Another release brought the kind: it is not ours to take over, but it has to be this version.
        await run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    try:
        await install(cluster, environment, everywhere=everywhere, release=release)
        yield
    finally:
        await cluster.kubectl("delete", "partitiongroups", "--all", "--timeout=60s", "--ignore-not-found", deadline=70)
        await uninstall(cluster, release=release)


async def install(
    cluster: Kube, environment: Environment, *more: str, everywhere: bool = False, release: str = RELEASE
) -> None:
    """Install the chart, with `more` values, and wait until the operator is ready."""
    repository, _, tag = environment.operator_image.rpartition(":")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "hostNetwork": str(environment.host_network).lower(),
        "http.port": str(free_port() if environment.host_network else 8080),
    }
    if environment.host_network:
        values["http.host"] = "127.0.0.1"
    if not everywhere:
        values["watchNamespaces"] = f"{{{cluster.namespace}}}"
    chosen = [*(f"{name}={value}" for name, value in values.items()), *more]
    pairs = [part for value in chosen for part in ("--set", value)]
    try:
        await run("helm", "install", release, str(CHART), "-n", cluster.namespace, "--wait", "--timeout=60s", *pairs)
    except CommandError as error:
        raise CommandError(f"{error}\n{await _why_not_ready(cluster, release)}") from None


async def uninstall(cluster: Kube, release: str = RELEASE) -> None:
    """Uninstall a release, if it is there, and wait until its hooks have ended."""
    command = (
        "helm",
        "uninstall",
        release,
        "-n",
        cluster.namespace,
        "--wait",
        "--timeout",
        "150s",
        "--ignore-not-found",
    )
    await run(*command, deadline=160)


async def upgrade(cluster: Kube, *values: str, release: str = RELEASE, flags: tuple[str, ...] = ()) -> None:
    """Change values of a release that runs, and wait until no pod of the old ones is left."""
    pairs = [part for value in values for part in ("--set", value)]
    chart = (release, str(CHART), "-n", cluster.namespace, "--reuse-values")
    await _roll(cluster, release, "helm", "upgrade", *chart, *pairs, *flags)


async def roll_back(cluster: Kube, release: str = RELEASE) -> None:
    """Give a release the values that it had before its last upgrade, and wait likewise."""
    await _roll(cluster, release, "helm", "rollback", release, "-n", cluster.namespace)


async def _roll(cluster: Kube, release: str, *command: str) -> None:
    selector = f"{_OPERATORS},app.kubernetes.io/instance={release}"

    async def names() -> set[str]:
        return {pod["metadata"]["name"] for pod in await cluster.pods(selector)}

    before = await names()
    try:
        await run(*command, "--wait", "--timeout=60s")
    except CommandError as error:
        raise CommandError(f"{error}\n{await _why_not_ready(cluster, release)}") from None

    async def replaced() -> bool:
        return before.isdisjoint(await names())

    await eventually(replaced, f"pods of the release {release} with its old values are still there", 40)


async def _why_not_ready(cluster: Kube, release: str) -> str:
    """What the operator and Kubernetes say of a release that does not become ready."""
    logs = await cluster.kubectl("logs", f"deployment/{release}", "--tail=20", "--all-containers")
    events = await cluster.kubectl("get", "events", "-o", "custom-columns=REASON:.reason,MESSAGE:.message")
    return f"its log:\n{logs}\nits namespace's Events:\n{events}"


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def secret(uri: str, name: str = "rabbitmq") -> dict[str, object]:
    """The Secret of a group."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"uri": uri}}


def partition_group(name: str, source: str, **spec: object) -> dict[str, object]:
    """A PartitionGroup that takes its queues with it when it goes."""
    return {
        "apiVersion": "partymq.io/v1alpha1",
        "kind": "PartitionGroup",
        "metadata": {"name": name},
        "spec": {
            "broker": {"connectionSecret": {"name": "rabbitmq"}},
            "source": {"queue": source},
            "deletionPolicy": "Delete",
            **spec,
        },
    }


def client_code() -> dict[str, object]:
    """The reporting client's modules, which pods of the example's image mount beside the example."""
    data = {name: (_CLIENT / name).read_text(encoding="utf-8") for name in _CLIENT_FILES}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "audited-client"}, "data": data}


def consumers(
    name: str,
    group: str,
    environment: Environment,
    report_queue: str,
    *,
    replicas: int,
    kind: str = "Deployment",
    prefetch: int = 20,
    work: float = 0.002,
    probe: bool = True,
    strategy: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """A workload of consumers that differ from the example in nothing but their reports.

    Without a `probe` they count as available when their containers start; `strategy` is the `rollingUpdate` of a
    Deployment that has another one than by default.
    """
    options = ConsumerOptions(
        url=environment.amqp_url_in_pods,
        queue=f"partymq.$(NAMESPACE).{group}.inbox.$(POD_NAME)",
        name="$(POD_NAME)",
        report_queue=report_queue,
        prefetch=prefetch,
        work=work,
    )
    container: dict[str, Any] = {
        "name": "consumer",
        "image": environment.example_image,
        "command": ["python", "-m", "support.client", "consume", to_argument(options)],
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "PYTHONPATH", "value": _PATH},
            {"name": "READY_FILE", "value": f"{_STATE}/consuming"},
        ],
        "startupProbe": {
            "exec": {"command": ["test", "-e", f"{_STATE}/consuming"]},
            "periodSeconds": 1,
            "failureThreshold": 3600,
        },
        "volumeMounts": [
            {"name": "audited-client", "mountPath": f"{_PATH}/support", "readOnly": True},
            {"name": "state", "mountPath": _STATE},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # So that the client is not process 1 and a real SIGKILL can be sent from within.
        "shareProcessNamespace": True,
        "hostNetwork": environment.host_network,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "audited-client", "configMap": {"name": "audited-client"}},
            {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }
    spec: dict[str, Any] = {
        "replicas": replicas,
        "minReadySeconds": 3,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}, "annotations": {"partymq.io/group": group}},
            "spec": pod,
        },
    }
    if not probe:
        del container["startupProbe"], spec["minReadySeconds"]
    if strategy is not None:
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": strategy}
    if kind == "StatefulSet":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


_SIGNAL = """
import os, signal
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if pid != os.getpid() and WHAT in file.read():
            os.kill(pid, signal.NUMBER)
"""


async def signal_process(cluster: Kube, pod: str, name: str, what: str = OPERATOR) -> None:
    """Send a signal (`SIGSTOP`) to a process in a pod whose containers share their processes."""
    script = _SIGNAL.replace("WHAT", repr(what.encode())).replace("NUMBER", name)
    await cluster.kubectl("exec", pod, "--", "python3", "-c", script)


async def kill_process(cluster: Kube, pod: str, what: str = "support.client") -> None:
    """SIGKILL a process in a pod whose containers share their processes; Kubernetes starts its container again."""
    try:
        await signal_process(cluster, pod, "SIGKILL", what)
    except CommandError as error:
        # The end of a container's first process ends what was started in it later, too.
        if "exit code 137" not in str(error):
            raise


async def kill_pod(cluster: Kube, pod: str) -> None:
    """Take a pod away without grace: its process gets SIGKILL, its object goes at once."""
    await kill_process(cluster, pod)
    await cluster.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


_OPERATORS = "app.kubernetes.io/name=partymq"


async def story(cluster: Kube, group: str) -> str:
    """What the operators' logs and the Events say of a group."""
    lines = []
    for pod in sorted(await operator_pods(cluster)):
        log = await cluster.kubectl("logs", pod, "--tail=2000")
        lines += [f"{pod}: {line}" for line in log.splitlines() if group in line or "Traceback" in line]
    lines += [f"{e['lastTimestamp']} {e['reason']}: {e['message']}" for e in await cluster.events(group)]
    return "\n".join((f"the story of {group}:", *lines[-200:]))


async def operator_pods(cluster: Kube) -> dict[str, bool]:
    """The operator's pods that are not on their way out, and whether they are ready."""
    ready = {}
    for pod in await cluster.pods(_OPERATORS):
        if "deletionTimestamp" not in pod["metadata"]:
            conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions") or []}
            ready[str(pod["metadata"]["name"])] = conditions.get("Ready") == "True"
    return ready


async def operator_pod(cluster: Kube) -> str:
    """The name of the operator's only pod."""
    (name,) = await operator_pods(cluster)
    return name


async def restart_operator(cluster: Kube, release: str = RELEASE) -> None:
    """Replace an operator's pod in an orderly way, and wait for the new one."""
    await cluster.kubectl("rollout", "restart", f"deployment/{release}")
    await cluster.kubectl("rollout", "status", f"deployment/{release}", "--timeout=60s", deadline=70)


async def share_processes_of_operator(cluster: Kube, release: str = RELEASE) -> None:
    """Make an operator's process one that can be killed from within its pod."""
    change = {"spec": {"template": {"spec": {"shareProcessNamespace": True}}}}
    await cluster.kubectl("patch", f"deployment/{release}", "--type=merge", "-p", json.dumps(change))
    await cluster.kubectl("rollout", "status", f"deployment/{release}", "--timeout=60s", deadline=70)


def owners(group: Mapping[str, Any]) -> dict[str, str]:
    """The members that own partitions, with their partitions as text."""
    members = group.get("status", {}).get("members") or []
    return {member["name"]: member["partitions"] for member in members if member.get("partitions")}


def condition(group: Mapping[str, Any], kind: str) -> Mapping[str, str]:
    """A condition of the group; empty while there is none."""
    for one in group.get("status", {}).get("conditions") or []:
        if one["type"] == kind:
            return dict(one)
    return {}


async def delete_queues(prefix: str) -> list[str]:
    """Delete what is left on the broker under a prefix; what that was."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{management_url()}/api/queues?columns=vhost,name&disable_stats=true") as answer:
            answer.raise_for_status()
            left = [queue["name"] for queue in await answer.json() if queue["name"].startswith(prefix)]
        for name in left:
            async with session.delete(f"{management_url()}/api/queues/%2F/{name}") as answer:
                answer.raise_for_status()
        async with session.delete(f"{management_url()}/api/exchanges/%2F/{prefix}dlx") as answer:
            assert answer.status in (204, 404)
    return left
