"""The chart from its installation to its end: beside a kind that is there, beside another release, and what is left.

These come before the release that the other tests share: no operator but theirs may watch their namespaces.
"""

import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from support import stage
from support.broker import QUORUM, amqp_url, temporary_queue, unique
from support.conditions import eventually
from support.kube import CommandError, Kube, run, temporary_namespace

pytestmark = pytest.mark.alone
LEFT = "deployments,pods,jobs,services,serviceaccounts,roles,rolebindings,leases"
LABELS = f"app.kubernetes.io/name=partymq,app.kubernetes.io/instance={stage.RELEASE}"
GROUP = "orders"


@asynccontextmanager
async def place(name: str) -> AsyncIterator[Kube]:
    """A namespace; its release and its groups go before it does."""
    async with temporary_namespace(unique(name)) as cluster:
        try:
            yield cluster
        finally:
            await stage.uninstall(cluster)
            with_kind = await run("kubectl", "get", "crd", stage.KIND, "--ignore-not-found", "-o", "name")
            groups = (await cluster.kubectl("get", "pgrp", "-o", "name")).split() if with_kind else []
            for group in groups:
                await let_go(cluster, group)
            await stage.delete_queues(f"partymq.{cluster.namespace}.")


@pytest_asyncio.fixture(loop_scope="session")
async def here() -> AsyncIterator[Kube]:
    async with place("partymq-chart") as cluster:
        yield cluster


async def let_go(cluster: Kube, group: str) -> None:
    """Delete a group without an operator, as the documentation has it."""
    page = (stage.ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    kubectl (patch pgrp NAME .*finalizers.*)$", page, re.MULTILINE)
    await cluster.kubectl("delete", group, "--wait=false")
    await cluster.kubectl(*shlex.split(command.replace("NAME", group.rpartition("/")[2])))


async def create(cluster: Kube, environment: stage.Environment, source: str, **spec: object) -> None:
    """Create a group and wait until an operator routes it."""
    secret = stage.secret(environment.amqp_url_in_pods)
    await cluster.apply(secret, stage.partition_group(GROUP, source, **spec))

    async def routed() -> bool:
        return bool((await cluster.group(GROUP)).get("status", {}).get("router"))

    await eventually(routed, "nobody routes the group", 60, every=0.2)


async def notes(cluster: Kube) -> str:
    """What a release says to who has installed it."""
    return " ".join((await run("helm", "get", "notes", stage.RELEASE, "-n", cluster.namespace)).split())


async def give_kind_to(cluster: Kube) -> None:
    """Let a release have the kind, by the commands that it says."""
    said = await notes(cluster)
    for command in re.findall(r"kubectl ((?:label|annotate) --overwrite crd .*?)(?= kubectl | Uninstalling )", said):
        await run("kubectl", *shlex.split(command.replace("\\ ", "")))
    assert "upgrade once more with --force-conflicts" in said
    await stage.upgrade(cluster, "log.format=json", flags=("--force-conflicts",))
    assert "was there already" not in await notes(cluster)


async def kind() -> dict[str, str]:
    """The kind's annotations."""
    found = json.loads(await run("kubectl", "get", "crd", stage.KIND, "-o", "json"))
    return dict(found["metadata"].get("annotations") or {})


async def test_the_last_word_of_an_operator_that_is_uninstalled_is_true(
    here: Kube, environment: stage.Environment
) -> None:
    async with temporary_queue(amqp_url(), unique("source"), QUORUM) as source:
        await stage.install(here, environment)
        await create(here, environment, source)
        await stage.uninstall(here)
        group = await here.group(GROUP)
        said = {one["type"]: (one["status"], one["reason"]) for one in group["status"]["conditions"]}
        assert said.pop("Ready") == ("False", "OperatorStopped")
        assert set(said.values()) == {("Unknown", "OperatorStopped")}
        assert "router" not in group["status"]
        described = await here.kubectl("describe", "pgrp", GROUP)
        assert "nobody routes this group until one runs again" in " ".join(described.split())
        await here.kubectl("wait", "pods", "-l", LABELS, "--for=delete", "--timeout=30s")
        left = (await here.kubectl("get", LEFT, "-o", "name")).split()
        assert [name for name in left if not name.endswith("/default")] == []
        roles = await run("kubectl", "get", "clusterroles,clusterrolebindings", "-o", "name")
        assert here.namespace not in roles
        assert await run("kubectl", "get", "crd", stage.KIND, "-o", "name")
        # Whoever deletes the group now can still have it let go.
        await let_go(here, f"pgrp/{GROUP}")
        assert await here.group(GROUP) == {}


async def test_a_second_release_leaves_the_kind_to_the_first(here: Kube, environment: stage.Environment) -> None:
    async with place("partymq-second") as second, temporary_queue(amqp_url(), unique("source"), QUORUM) as source:
        await stage.install(here, environment)
        if "was there already" in await notes(here):
            await give_kind_to(here)
        before = await kind()
        assert before["meta.helm.sh/release-namespace"] == here.namespace
        await stage.install(second, environment)
        owner = f"the release {stage.RELEASE} of the namespace {here.namespace}"
        assert f"installed by {owner}" in await notes(second)
        await stage.upgrade(second, "log.level=debug")
        assert await kind() == before
        await create(second, environment, source)
        await second.kubectl("delete", "pgrp", GROUP, "--timeout=60s", deadline=70)


async def test_a_kind_that_kubectl_has_installed_is_left_alone_and_can_be_given_to_a_release(
    here: Kube, environment: stage.Environment
) -> None:
    await run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(stage.ROOT / "crds"))
    await run("kubectl", "annotate", "crd", stage.KIND, "meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-")
    await stage.install(here, environment)
    said = await notes(here)
    assert "installed by somebody without Helm" in said
    assert "another version" not in said
    assert "meta.helm.sh/release-name" not in await kind()
    older = {"spec": {"versions": json.loads(await _versions())}}
    older["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    await run("kubectl", "patch", "crd", stage.KIND, "--type=merge", "-p", json.dumps(older))
    await stage.upgrade(here, "log.level=debug")
    said = await notes(here)
    assert "another version than this chart's" in said
    await give_kind_to(here)
    owner = await kind()
    assert owner["meta.helm.sh/release-namespace"] == here.namespace
    assert owner["helm.sh/resource-policy"] == "keep"
    assert len(json.loads(await _versions())[0]["additionalPrinterColumns"]) == 1 + len(
        older["spec"]["versions"][0]["additionalPrinterColumns"]
    )


async def _versions() -> str:
    return await run("kubectl", "get", "crd", stage.KIND, "-o", "jsonpath={.spec.versions}")


async def test_with_a_kind_that_is_not_kept_groups_and_their_queues_go_and_then_everything(
    here: Kube, environment: stage.Environment
) -> None:
    if await run("kubectl", "get", "pgrp", "-A", "-o", "name", "--ignore-not-found"):
        pytest.skip("there are PartitionGroups of somebody else in the cluster")
    try:
        await run("kubectl", "delete", "crd", stage.KIND, "--ignore-not-found", "--timeout=60s")
        async with place("partymq-other") as other, temporary_queue(amqp_url(), unique("source"), QUORUM) as source:
            await stage.install(here, environment, "crds.keep=false")
            await create(here, environment, source)
            await other.apply(stage.partition_group("foreign", "elsewhere"))
            with pytest.raises(CommandError, match=f"{other.namespace}/foreign would be lost"):
                await stage.uninstall(here)
            assert (await here.group(GROUP))["status"]["router"], "it is as it was"
            await other.kubectl("delete", "pgrp", "foreign", "--timeout=30s")
            await stage.uninstall(here)
            await run("kubectl", "wait", "--for=delete", f"crd/{stage.KIND}", "--timeout=30s")
            assert await stage.delete_queues(f"partymq.{here.namespace}.") == []
    finally:
        await run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(stage.ROOT / "crds"))
        await run("kubectl", "wait", "--for=condition=Established", f"crd/{stage.KIND}", "--timeout=30s")
