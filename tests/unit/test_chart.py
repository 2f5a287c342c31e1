"""The chart renders what it should, refuses what it cannot, and gives the operator no right that it does not need."""

import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from partymq import limits, options, settings
from partymq.option import Option

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/partymq"
CACHE = Path(
    os.environ.get("PARTYMQ_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "partymq"
)
HELM = shutil.which("helm", path=f"{CACHE / 'bin'}:{os.environ.get('PATH', '')}")

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed: hack/tools.sh builds it")

Manifest = dict[str, Any]

CLIENTS_API = ("clientsApi.enabled=true", "clientsApi.token.secretName=clients")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60, check=False)


def render(*values: str) -> list[Manifest]:
    """What is installed."""
    return [manifest for manifest in rendered(*values) if not hook_of(manifest)]


def rendered(*values: str) -> list[Manifest]:
    """The same, and the hooks."""
    done = helm("template", "release", str(CHART), "--namespace", "ops", *(f"--set={value}" for value in values))
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def hook_of(manifest: Manifest) -> str:
    """When it is there for a while; empty for what stays."""
    when: str = (manifest["metadata"].get("annotations") or {}).get("helm.sh/hook", "")
    return when


def hooks(when: str, *values: str) -> list[Manifest]:
    return [manifest for manifest in rendered(*values) if hook_of(manifest) == when]


def allowed(manifests: list[Manifest]) -> set[tuple[str, str, str]]:
    """Rights, with the namespace, or `*`."""
    return {
        (role["metadata"].get("namespace", "*"), resource, verb)
        for role in _roles(manifests)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = of_kind(manifests, kind)
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    found: Manifest = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return found


def container(manifests: list[Manifest]) -> Manifest:
    found: Manifest = pod(manifests)["containers"][0]
    return found


def environment(manifests: list[Manifest]) -> dict[str, str | None]:
    return {entry["name"]: entry.get("value") for entry in container(manifests)["env"]}


def test_the_charts_crds_are_the_projects() -> None:
    ours = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    theirs = {path.name: path.read_text() for path in (CHART / "files/crds").glob("*.yaml")}
    assert theirs == ours, "run `make generate`"


def test_the_chart_has_the_packages_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == settings.VERSION


def test_every_value_is_in_the_schema() -> None:
    def walk(values: Manifest, schema: Manifest, path: str) -> list[str]:
        missing = []
        for name, value in values.items():
            part = schema.get("properties", {}).get(name)
            if part is None:
                missing.append(f"{path}.{name}")
            elif isinstance(value, dict) and part.get("properties"):
                missing += walk(value, part, f"{path}.{name}")
        return missing

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert walk(values, yaml.safe_load((CHART / "values.schema.json").read_text()), "") == []


@needs_helm
def test_lint() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_the_kind_is_installed_kept_and_unchanged() -> None:
    crd = one(render(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert crd["spec"] == yaml.safe_load((ROOT / "crds/partymq.io_partitiongroups.yaml").read_text())["spec"]
    assert not one(render("crds.keep=false"), "CustomResourceDefinition")["metadata"].get("annotations")
    assert of_kind(render("crds.install=false"), "CustomResourceDefinition") == []


@needs_helm
def test_the_pod_meets_the_restricted_standard() -> None:
    spec, operator = pod(render()), container(render())
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert operator["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not spec.get("hostNetwork")


@needs_helm
def test_the_operator_is_told_what_to_serve() -> None:
    assert "PARTYMQ_NAMESPACES" not in environment(render())
    assert environment(render("watchNamespaces={shop,billing}"))["PARTYMQ_NAMESPACES"] == "shop,billing"
    assert environment(render("http.port=9000", "log.format=json"))["PARTYMQ_HTTP_PORT"] == "9000"
    names = set(
        environment(
            render("watchNamespaces={shop}", "secretLabel=a", "clientsApi.token.namespaceSecretName=a", *CLIENTS_API)
        )
    )
    names.add("PARTYMQ_ALLOWED_HOSTS")  # only where clients need no token
    assert names == {
        option.variable
        for option in options.OPERATOR
        if option.variable.startswith("PARTYMQ_") and not option.variable.startswith("PARTYMQ_LIMIT")
    }


@needs_helm
def test_the_operator_may_do_what_it_does_and_no_more() -> None:
    rules = one([m for m in render() if m["metadata"]["name"] == "ops-release-partymq"], "ClusterRole")["rules"]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == {
        *((("partitiongroups", verb)) for verb in ("get", "list", "watch", "patch")),
        ("partitiongroups/status", "patch"),
        ("pods", "list"),
        ("pods", "watch"),
        ("secrets", "get"),
        *((("events", verb)) for verb in ("create", "get", "patch")),
        ("namespaces", "get"),
    }


def leases_only(role: Manifest) -> bool:
    return [rule["resources"] for rule in role["rules"]] == [["leases"]]


@needs_helm
@pytest.mark.parametrize("values", [(), ("watchNamespaces={shop}",)])
def test_replicas_see_each_other_in_the_releases_namespace(values: tuple[str, ...]) -> None:
    (role,) = filter(leases_only, of_kind(render(*values), "Role"))
    assert role["metadata"]["namespace"] == "ops"
    assert set(role["rules"][0]["verbs"]) == {"create", "delete", "list", "patch"}
    bindings = [b for b in of_kind(render(*values), "RoleBinding") if b["roleRef"]["name"] == role["metadata"]["name"]]
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["ops"]


@needs_helm
def test_several_replicas_are_spread_and_not_drained_at_once() -> None:
    alone, several = render(), render("replicaCount=3")
    assert "affinity" not in pod(alone)
    assert of_kind(alone, "PodDisruptionBudget") == []
    budget = one(several, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    (preferred,) = pod(several)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    for selector in (budget["selector"], preferred["podAffinityTerm"]["labelSelector"]):
        labels = one(several, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
    assert of_kind(render("replicaCount=3", "podDisruptionBudget.enabled=false"), "PodDisruptionBudget") == []
    assert pod(render("replicaCount=3", "affinity.nodeAffinity.x=y"))["affinity"] == {"nodeAffinity": {"x": "y"}}


@needs_helm
def test_with_namespaces_it_has_no_right_elsewhere() -> None:
    manifests = render("watchNamespaces={shop,billing}")
    roles = {role["metadata"]["namespace"] for role in of_kind(manifests, "Role") if not leases_only(role)}
    assert roles == {"shop", "billing"}
    assert {binding["subjects"][0]["namespace"] for binding in of_kind(manifests, "RoleBinding")} == {"ops"}
    assert of_kind(manifests, "ClusterRoleBinding") == []


@needs_helm
def test_on_the_hosts_network_several_can_live_on_one_node() -> None:
    manifests = render("hostNetwork=true", "http.host=127.0.0.1", "http.port=9000")
    operator = container(manifests)
    assert pod(manifests)["hostNetwork"]
    assert "ports" not in operator, "a declared port would be one of the node's"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert operator[probe]["httpGet"]["host"] == "127.0.0.1"
        assert operator[probe]["httpGet"]["port"] == 9000
    assert one(manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@needs_helm
def test_metrics_are_offered_when_asked_for() -> None:
    assert of_kind(render(), "Service") == []
    manifests = render("metrics.service.enabled=true", "metrics.serviceMonitor.enabled=true")
    labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(manifests, "Service")["spec"]["selector"].items() <= labels.items()
    monitor = one(manifests, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= one(manifests, "Service")["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["honorLabels"], "the label namespace is a group's"


@needs_helm
def test_alerts_are_offered_when_asked_for_and_come_as_soon_as_they_are_said_to() -> None:
    assert of_kind(render(), "PrometheusRule") == []
    manifests = render("metrics.prometheusRule.enabled=true", "metrics.prometheusRule.labels.release=prometheus")
    rule = one(manifests, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    every = {group["name"]: group.get("interval") for group in rule["spec"]["groups"]}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert every["partymq-members"] == values["metrics"]["serviceMonitor"]["interval"] == "10s"


@needs_helm
@pytest.mark.parametrize("values", [(), ("watchNamespaces={shop,mall}",)])
def test_after_an_uninstall_a_hook_says_the_last_word_with_rights_of_its_own(values: tuple[str, ...]) -> None:
    manifests = hooks("post-delete", *values)
    job = one(manifests, "Job")
    spec = job["spec"]["template"]["spec"]
    command = dict(part.removeprefix("--").split("=", 1) for part in spec["containers"][0]["args"][2:])
    assert spec["containers"][0]["args"][:2] == ["hook", "post-delete"]
    # It waits for the operator's pods, of which it must not be one.
    selector = dict(part.split("=") for part in command["selector"].split(","))
    operators = one(render(*values), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= operators.items()
    assert not selector.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert 60 < int(command["within"]) < job["spec"]["activeDeadlineSeconds"]
    served = ("shop", "mall") if values else ("*",)
    assert allowed(manifests) == {
        *((place, "partitiongroups", verb) for place in served for verb in ("get", "list")),
        *((place, "partitiongroups/status", "patch") for place in served),
        ("ops", "pods", "list"),
        *(("ops", "leases", verb) for verb in ("list", "delete")),
    }
    account = one(manifests, "ServiceAccount")["metadata"]["name"]
    assert spec["serviceAccountName"] == account != pod(render(*values))["serviceAccountName"]
    bindings = [manifest for manifest in manifests if manifest["kind"].endswith("Binding")]
    assert len(bindings) == len(_roles(manifests))
    assert all(b["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "ops"}] for b in bindings)
    weights = {m["kind"]: int(m["metadata"]["annotations"]["helm.sh/hook-weight"]) for m in manifests}
    assert all(weights["Job"] > weight for kind, weight in weights.items() if kind != "Job")
    for manifest in manifests:
        policy = manifest["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        assert set(policy) == {"before-hook-creation", "hook-succeeded", "hook-failed"}, "nothing of it stays"
    assert hooks("pre-delete", *values) == []


@needs_helm
def test_where_the_kind_goes_groups_go_before_the_operator() -> None:
    manifests = hooks("pre-delete", "crds.keep=false", "watchNamespaces={shop}", "hostNetwork=true")
    spec = one(manifests, "Job")["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"] == ["hook", "pre-delete", "--within=120", "--namespace=shop"]
    assert spec["hostNetwork"]
    assert allowed(manifests) == {("*", "partitiongroups", "list"), ("*", "partitiongroups", "delete")}
    assert hooks("pre-delete", "crds.keep=false", "crds.install=false") == []


@needs_helm
def test_rights_that_an_administrator_has_made_need_no_hook() -> None:
    assert [manifest for manifest in rendered("rbac.create=false") if hook_of(manifest)] == []


@needs_helm
def test_the_clients_api_is_served_when_asked_for_and_never_without_a_token() -> None:
    assert "PARTYMQ_CLIENTS_PORT" not in environment(render())
    manifests = render(*CLIENTS_API, "clientsApi.port=9085", "clientsApi.service.type=NodePort")
    assert environment(manifests)["PARTYMQ_CLIENTS_PORT"] == "9085"
    (token,) = (entry for entry in container(manifests)["env"] if entry["name"] == "PARTYMQ_API_TOKEN")
    assert token["valueFrom"] == {"secretKeyRef": {"name": "clients", "key": "token"}}
    service = one(manifests, "Service")["spec"]
    labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert (service["type"], service["ports"][0]["port"]) == ("NodePort", 9085)
    assert {"name": "clients", "containerPort": 9085} in container(manifests)["ports"]
    assert helm("template", "release", str(CHART), f"--set={CLIENTS_API[0]}").returncode != 0


@needs_helm
def test_namespaces_may_have_tokens_of_their_own_and_then_there_need_be_none_for_all() -> None:
    namespaces = ("clientsApi.enabled=true", "clientsApi.token.namespaceSecretName=partymq-clients")
    told = environment(render(*namespaces))
    assert told["PARTYMQ_CLIENTS_TOKEN_SECRET"] == "partymq-clients"
    assert "PARTYMQ_API_TOKEN" not in told
    assert environment(render(*namespaces, CLIENTS_API[1])).keys() >= {"PARTYMQ_API_TOKEN", *told}
    rules = [rule for role in _roles(render(*namespaces, "rbac.secretNames={broker}")) for rule in role["rules"]]
    assert [rule["resourceNames"] for rule in rules if rule["resources"] == ["secrets"]] == [
        ["broker", "partymq-clients"]
    ]
    refused = helm("template", "release", str(CHART), f"--set={namespaces[0]},clientsApi.token.namespaceSecretName=A_b")
    assert refused.returncode != 0


@needs_helm
def test_services_of_a_long_name_are_named_as_kubernetes_allows() -> None:
    manifests = render(*CLIENTS_API, "metrics.service.enabled=true", f"fullnameOverride={'n' * 53}-{'n' * 9}")
    names = [service["metadata"]["name"] for service in of_kind(manifests, "Service")]
    assert sorted(names) == [f"{'n' * 53}-clients", f"{'n' * 53}-metrics"]


@needs_helm
@pytest.mark.parametrize(
    "value", ["replicas=2", "http.port=0", "log.format=xml", "watchNamespaces={Shop}", "image.tagg=1"]
)
def test_a_value_that_means_nothing_is_refused(value: str) -> None:
    assert helm("template", "release", str(CHART), f"--set={value}").returncode != 0


@needs_helm
def test_an_old_kubernetes_is_refused() -> None:
    done = helm("template", "release", str(CHART), "--kube-version=1.28.0")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


@needs_helm
def test_limits_and_the_label_reach_the_operator() -> None:
    given = environment(
        render(
            "limits.message=64Mi", "limits.partitionsInNamespace=50000", "limits.groups=2000000", "secretLabel=a/b=c"
        )
    )
    assert given["PARTYMQ_LIMIT_MESSAGE"] == "64Mi"
    assert given["PARTYMQ_LIMIT_PARTITIONS_IN_NAMESPACE"] == "50000"
    assert given["PARTYMQ_LIMIT_GROUPS"] == "2000000"
    assert given["PARTYMQ_SECRET_LABEL"] == "a/b=c"
    environ = {name: value for name, value in given.items() if value is not None}
    loaded = settings.load(environ=environ)
    assert (loaded.limits.message, loaded.limits.groups, loaded.secret_label) == (64 * 2**20, 2_000_000, "a/b=c")
    assert not [name for name in environment(render()) if name.startswith("PARTYMQ_LIMIT")]


@pytest.mark.parametrize("option", [one for one in options.OPERATOR if one.chart], ids=lambda one: one.chart)
def test_the_chart_has_the_options_defaults(option: Option[Any]) -> None:
    value = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in option.chart.split("."):
        value = value[name]
    unset: list[Any] = [8085] if option is options.CLIENTS_PORT else ["", [], {}]  # that is not served until enabled
    assert str(value) == option.default if option.default else value in unset


@needs_helm
def test_every_option_of_the_chart_reaches_the_operator() -> None:
    given = environment(
        render(
            "clientsApi.enabled=true", "clientsApi.token.secretName=a", "clientsApi.token.namespaceSecretName=b",
            "watchNamespaces={shop}", "secretLabel=a/b=c", "limits.groups=7",
        )
    )  # fmt: skip
    variables = {one.variable.replace("<NAME>", "GROUPS") for one in options.OPERATOR if one.chart}
    assert variables <= given.keys()


def test_the_bounds_of_limits_are_the_operators() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]["limits"]["properties"]
    for one in fields(limits.Limits):
        name = re.sub("_[a-z]", lambda found: found[0][1].upper(), one.name)
        assert schema[name]["minimum"] == one.metadata["least"]


def test_every_limit_is_a_value_of_the_chart() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]["limits"]["properties"]
    assert sorted(re.sub("[A-Z]", lambda found: f"-{found[0].lower()}", name) for name in schema) == sorted(
        limits.names()
    )


@needs_helm
@pytest.mark.parametrize(
    "value", ["limits.nothing=1", "limits.message=x", "limits.clients=0", "rbac.secretNames[0]=a/b"]
)
def test_a_limit_or_a_name_that_is_none_is_refused(value: str) -> None:
    assert helm("template", "release", str(CHART), f"--set={value}").returncode != 0


@needs_helm
def test_the_right_to_read_secrets_may_be_for_some_only() -> None:
    for values in ((), ("watchNamespaces={shop,mall}",)):
        rules = [rule for role in _roles(render(*values)) for rule in role["rules"] if rule["resources"] == ["secrets"]]
        assert rules
        assert all("resourceNames" not in rule for rule in rules)
        some = render("rbac.secretNames={rabbitmq,broker.b}", *values)
        rules = [rule for role in _roles(some) for rule in role["rules"] if rule["resources"] == ["secrets"]]
        assert rules
        assert all(rule["resourceNames"] == ["rabbitmq", "broker.b"] for rule in rules)


def _roles(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in {"Role", "ClusterRole"}]


@needs_helm
def test_a_network_policy_lets_in_and_out_what_it_says() -> None:
    assert of_kind(render(), "NetworkPolicy") == []
    spec = one(render("networkPolicy.enabled=true"), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": 8080}]}]
    labels = one(render("networkPolicy.enabled=true"), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    spec = one(
        render(
            *CLIENTS_API,
            "networkPolicy.enabled=true",
            "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
            "networkPolicy.clientsFrom[0].ipBlock.cidr=10.0.0.0/8",
            "networkPolicy.egress[0].ports[0].port=5671",
        ),
        "NetworkPolicy",
    )["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    metrics, clients = spec["ingress"]
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert (clients["ports"], clients["from"]) == ([{"port": 8085}], [{"ipBlock": {"cidr": "10.0.0.0/8"}}])
    dns, brokers = spec["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert brokers == {"ports": [{"port": 5671}]}


def test_what_the_example_publishes_is_for_its_own_machine_only() -> None:
    compose = yaml.safe_load((ROOT / "examples/compose/compose.yaml").read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)
