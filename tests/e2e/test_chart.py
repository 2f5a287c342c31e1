"""The chart installs beside another release and leaves nothing behind but the kind."""

import pytest

from support import stage
from support.broker import unique
from support.kube import Kube, run, temporary_namespace

pytestmark = pytest.mark.alone
NAMESPACED = "deployments,pods,services,serviceaccounts,roles,rolebindings"
LABELS = f"app.kubernetes.io/name=partymq,app.kubernetes.io/instance={stage.RELEASE}"


async def test_a_release_that_is_uninstalled_leaves_only_the_kind(
    cluster: Kube, environment: stage.Environment
) -> None:
    assert cluster.namespace
    async with temporary_namespace(unique("partymq-chart")) as other:
        async with stage.operator(other, environment):
            there = await other.kubectl("get", NAMESPACED, "-l", LABELS, "-o", "name")
            assert "deployment.apps/partymq" in there
        await other.kubectl("wait", "pods", "-l", LABELS, "--for=delete", "--timeout=30s")
        assert await other.kubectl("get", NAMESPACED, "-l", LABELS, "-o", "name") == ""
        assert "partitiongroups.partymq.io" in await run("kubectl", "get", "crd", "-o", "name")
