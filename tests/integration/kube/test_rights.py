"""The chart's rights are enough, and credentials that are refused do not end what the operator knows."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from partymq.core.report import Notice
from support.api_server import Kubectl, Start
from support.conditions import eventually
from support.fake_kubernetes import report

ROOT = Path(__file__).parents[3]
CACHE = Path(os.environ.get("PARTYMQ_CACHE") or Path.home() / ".cache/partymq")
HELM = shutil.which("helm", path=f"{CACHE / 'bin'}:{os.environ.get('PATH', '')}")


class Account:
    """The chart's service account and what it may do, without the rest of the chart."""

    def __init__(self, kubectl: Kubectl, path: Path, namespaces: tuple[str, ...]) -> None:
        self._kubectl = kubectl
        self.path = path
        self.release = kubectl.namespace
        self.namespaces = namespaces
        self.manifests = [m for m in self._rendered() if m["kind"] in KINDS]

    def _rendered(self) -> list[dict[str, Any]]:
        assert HELM
        command = [HELM, "template", self.release, str(ROOT / "helm/partymq"), "--namespace", self._kubectl.namespace]
        command += [f"--set={value}" for value in ("crds.install=false", "rbac.aggregate=false")]
        command += [f"--set=watchNamespaces[{n}]={name}" for n, name in enumerate(self.namespaces)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
        return [one for one in found if "helm.sh/hook" not in (one["metadata"].get("annotations") or {})]

    def log_in(self) -> str:
        """A kubeconfig with a token of the account."""
        name = next(m["metadata"]["name"] for m in self.manifests if m["kind"] == "ServiceAccount")
        config = yaml.safe_load(Path(self._kubectl.kubeconfig).read_text())
        config["users"][0]["user"] = {"token": self._kubectl("create", "token", name).strip()}
        self.path.write_text(yaml.safe_dump(config))
        return str(self.path)


KINDS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@pytest.fixture(params=["one namespace", "all namespaces"])
def account(request: pytest.FixtureRequest, kubectl: Kubectl, tmp_path: Path) -> Iterator[Account]:
    """The account of an operator that serves one namespace, and of one that serves all."""
    if HELM is None:
        pytest.skip("helm is not installed: hack/tools.sh builds it")
    namespaces = (kubectl.namespace,) if request.param == "one namespace" else ()
    account = Account(kubectl, tmp_path / "kubeconfig", namespaces)
    kubectl.apply(*account.manifests)
    yield account
    kubectl.run("delete", "-f", "-", "--wait=false", stdin=yaml.safe_dump_all(account.manifests))


async def test_the_charts_rights_are_enough_for_a_groups_whole_life(
    kubectl: Kubectl, watch: Start, account: Account
) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch(kubeconfig=account.log_in(), namespaces=account.namespaces)
    await watching.configured(group)
    kubectl.pod("a", ready=True)
    await watching.sees(group, a="Ready")
    watching.thread.report(group, report(epoch=3))
    await eventually(lambda: asyncio.to_thread(lambda: kubectl.status().get("epoch") == 3), "the status")
    for _ in range(2):
        watching.thread.notice(group, Notice(warning=False, reason="Told", message="twice"))
    await eventually(lambda: asyncio.to_thread(lambda: "Told" in kubectl.events()), "the Event")
    await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=20s")
    assert "remove DeleteEmpty" in watching.router.calls


@pytest.mark.parametrize("account", ["all namespaces"], indirect=True)
async def test_refused_credentials_end_nothing_and_new_ones_are_taken_up(
    kubectl: Kubectl, watch: Start, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    kubectl.secret()
    group = kubectl.group()
    watching = await watch(kubeconfig=account.log_in(), namespaces=account.namespaces)
    await watching.configured(group)
    watching.thread.report(group, report(epoch=3))
    await eventually(lambda: asyncio.to_thread(lambda: kubectl.status().get("epoch") == 3), "the status")
    kubectl.run("delete", "-f", "-", stdin=yaml.safe_dump_all(account.manifests))
    kubectl.pod("a", ready=True)
    # The API server remembers for ten seconds that a token was good.
    await eventually(lambda: "answered 401" in caplog.text, "it is noticed", 60.0)
    assert not watching.thread.ended.done()
    assert "release" not in watching.router.calls
    kubectl.apply(*account.manifests)
    account.log_in()
    await eventually(lambda: watching.states(group) == {"a": "Ready"}, "what was missed", 60.0)
    kubectl("patch", "pgrp", "orders", "--subresource=status", "--type=merge", "-p", '{"status": {"epoch": 1}}')
    await eventually(lambda: asyncio.to_thread(lambda: kubectl.status().get("epoch") == 3), "the last report", 60.0)
