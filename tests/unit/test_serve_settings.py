"""`partymq serve` needs nothing, understands the first server's variables, and refuses what it cannot use."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from partymq.core.spec import KeyFrom
from partymq.errors import InvalidSpecError
from partymq.serve.settings import load_serving

ROOT = Path(__file__).parents[2]


def test_everything_has_a_default() -> None:
    serving = load_serving(None, {})
    (group,) = serving.groups
    assert (group.broker.host, group.broker.port, group.spec.source_queue) == ("localhost", 5672, "partymq.q.source")
    assert (group.spec.key.source, group.spec.key.name) == (KeyFrom.HEADER, "partitionKey")
    assert group.clients is not None
    assert (group.clients.exchange, group.clients.expires_after, group.clients.check_every) == (
        "partymq.ex.write",
        120,
        30,
    )
    assert serving.settings.http_port == 8085


def test_a_file_may_say_all_that_a_partition_group_may(tmp_path: Path) -> None:
    """A field that is known to one of them only would be refused, or have no effect, in the other."""
    crd = yaml.safe_load((ROOT / "crds/partymq.io_partitiongroups.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    given = {name: field["default"] for name, field in spec.items() if "default" in field}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "a", "spec": given | {"rollout": {"patienceSeconds": 7}}}]}))
    (group,) = load_serving({"config": str(file)}, {}).groups
    assert group.spec.rollout_patience == 7


def test_the_example_is_one_that_can_be_used() -> None:
    orders, payments = load_serving({"config": str(ROOT / "examples/serve.yaml")}, {}).groups
    assert (orders.group.name, orders.spec.source_queue, orders.broker.host) == ("orders", "orders", "localhost")
    assert (payments.spec.key.source, payments.spec.partitions) == (KeyFrom.BODY, 128)


def test_a_flag_wins_over_its_variable_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("groups: [{name: a, spec: {source: {queue: f}, key: {name: k}}}, {name: b, spec: {partitions: 7}}]")
    environ = {"PARTYMQ_CONFIG": str(file), "PARTYMQ_SOURCE_QUEUE": "v", "PARTYMQ_KEY_SOURCE": "body"}
    first, second = load_serving(None, environ).groups
    assert (first.spec.source_queue, first.spec.key.source, first.spec.key.name) == ("v", KeyFrom.BODY, "k")
    assert (second.spec.partitions, second.spec.key.source) == (7, KeyFrom.HEADER)
    assert first.clients is not None
    assert second.clients is not None
    assert second.clients.exchange == "partymq.default.b.write"
    assert load_serving({"source_queue": "flag"}, environ).groups[0].spec.source_queue == "flag"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"PARTYMQ_RABBIT_CS": "http://x"}, "PARTYMQ_RABBIT_CS"),
        ({"PARTYMQ_MANAGEMENT_URI": "host:15672"}, "--management-uri .* is no address"),
        ({"PARTYMQ_HEARTBEAT_EXPIRES_AFTER": "120"}, "PARTYMQ_HEARTBEAT_EXPIRES_AFTER"),
        ({"PARTYMQ_HEARTBEAT_CHECK_INTERVAL": "0s"}, "above 0"),
        ({"PARTYMQ_KEY_SOURCE": "foot"}, "it must be header or body"),
        ({"PARTYMQ_HTTP_PORT": "x"}, "is no port"),
        ({"PARTYMQ_CONFIG": "/does/not/exist"}, "cannot be read"),
        ({"PARTYMQ_GROUP": "A.B"}, "cannot be part of queue names"),
        ({"PARTYMQ_API_TOKEN": ""}, "PARTYMQ_API_TOKEN is empty"),
    ],
)
def test_what_cannot_be_used_is_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidSpecError, match=sentence):
        load_serving(None, environ)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML"),
        ("[]", "must hold a mapping"),
        ("group: []", "field group is unknown"),
        ("groups: []", "one at least"),
        ("groups: [{}]", "needs a `name`"),
        ("groups: [{name: a}, {name: a}]", "two groups 'a'"),
        ("groups: [{name: a, spec: {sauce: {}}}]", "spec.sauce is unknown"),
        ("groups: [{name: a, spec: {partitions: 0}}]", "from 1 to 4096"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSpecError, match=sentence):
        load_serving({"config": str(file)}, {})


def test_nothing_of_kubernetes_is_imported() -> None:
    script = (
        "import sys, partymq.cli, partymq.serve.server, partymq.serve.settings; "
        "print([m for m in ('kopf', 'kubernetes', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
