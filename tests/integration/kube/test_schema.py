"""The API server's own view of the kind: defaults, refusals, columns and explanations."""

import json
from typing import Any

import pytest
import yaml

from support.api_server import Kubectl

GROUP: dict[str, Any] = {
    "apiVersion": "partymq.io/v1alpha1",
    "kind": "PartitionGroup",
    "metadata": {"name": "orders"},
    "spec": {"broker": {"connectionSecret": {"name": "rabbitmq"}}, "source": {"queue": "orders"}},
}


def refused(kubectl: Kubectl, body: object) -> str:
    done = kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump(body))
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_defaults_are_set(kubectl: Kubectl) -> None:
    kubectl.apply(GROUP)
    assert kubectl.get("pgrp", "orders")["spec"] == {
        "broker": {"connectionSecret": {"name": "rabbitmq"}},
        "source": {"queue": "orders"},
        "key": {"from": "header", "name": "partitionKey", "onMissing": "spread"},
        "partitions": 64,
        "inbox": {"window": 256},
        "backlog": {"limit": 100_000},
        "members": {"rejoinSeconds": 30},
        "rebalance": {"delaySeconds": 2},
        "rollout": {"patienceSeconds": 60},
        "handoff": {"timeoutSeconds": 300, "onTimeout": "Wait"},
        "deletionPolicy": "DeleteEmpty",
        "paused": False,
    }


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"source": {"queue": "partymq.shop.x.dead"}}, "name a queue of yours"),
        ({"source": {"queue": "amq.gen-x"}}, "name a queue of yours"),
        ({"source": {"queue": "ä" * 200}}, "at most 255 bytes"),
        ({"source": {"queue": ""}}, "spec.source.queue"),
        ({"source": {}}, "spec.source.queue: Required value"),
        ({"key": {"from": "header"}}, "key.name is needed with key.from header, body or property"),
        ({"key": {}}, "key.name is needed with key.from header, body or property"),
        ({"key": {"from": "property", "name": "customer"}}, "must be a property of AMQP messages"),
        ({"key": {"from": "body", "name": "/a~2"}}, "is not a JSON pointer"),
        ({"key": {"from": "topic", "name": "x"}}, 'supported values: "header", "body", "property", "routingKey"'),
        ({"key": {"from": "header", "name": "ü" * 200}}, "at most 255 bytes"),
        ({"partitions": 0}, "greater than or equal to 1"),
        ({"partitions": 4097}, "less than or equal to 4096"),
        ({"inbox": {"window": 0}}, "greater than or equal to 1"),
        ({"handoff": {"onTimeout": "Kill"}}, 'supported values: "Wait", "CloseConnection"'),
        ({"deletionPolicy": "Keep"}, 'supported values: "DeleteEmpty", "Delete"'),
        ({"partition": 5}, 'unknown field "spec.partition"'),
    ],
)
def test_a_mistake_is_refused_with_what_to_do(kubectl: Kubectl, spec: dict[str, object], sentence: str) -> None:
    assert sentence in refused(kubectl, GROUP | {"spec": GROUP["spec"] | spec})


@pytest.mark.parametrize(
    "key", [{"from": "routingKey"}, {"from": "body", "name": "/a~1b/~0c"}, {"from": "property", "name": "type"}]
)
def test_keys_of_every_kind_are_taken(kubectl: Kubectl, key: dict[str, str]) -> None:
    kubectl.apply(GROUP | {"spec": GROUP["spec"] | {"key": key}})


@pytest.mark.parametrize("name", ["a.b", "a" * 64])
def test_a_name_that_could_be_anothers_is_refused(kubectl: Kubectl, name: str) -> None:
    assert "at most 63 characters and no dots" in refused(kubectl, GROUP | {"metadata": {"name": name}})


def test_partitions_never_change(kubectl: Kubectl) -> None:
    kubectl.apply(GROUP)
    changed = GROUP | {"spec": GROUP["spec"] | {"partitions": 65}}
    assert "delete this PartitionGroup (the source keeps what is in it), and create it again" in refused(
        kubectl, changed
    )
    kubectl.apply(GROUP | {"spec": GROUP["spec"] | {"partitions": 64, "paused": True}})


def test_it_explains_itself(kubectl: Kubectl) -> None:
    assert "changing hands" in kubectl("explain", "partitiongroup.status.partitions.held")
    assert "management-uri" in kubectl("explain", "pgrp.spec.broker.connectionSecret")
    assert "in order" in kubectl("explain", "pgrp.spec.handoff.onTimeout")
    assert "ConsumersSafe" in kubectl("explain", "pgrp.status.conditions")
    assert "Fixed while the group exists" in kubectl("explain", "pgrp.spec.partitions")


def test_columns(kubectl: Kubectl) -> None:
    kubectl.apply(GROUP)
    status = {"memberCount": 3, "partitions": {"total": 64, "assigned": 64, "held": 2}}
    kubectl("patch", "pgrp", "orders", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    header, row = kubectl("get", "partymq").splitlines()
    columns = ["NAME", "SOURCE", "PARTITIONS", "MEMBERS", "ROLLOUT", "HELD", "WORKING", "READY", "AGE"]
    assert header.split() == columns
    assert row.split()[:5] == ["orders", "orders", "64", "3", "2"]
