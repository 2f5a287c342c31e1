"""The CRD and the core agree on every default and bound, and every field is explained."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from partymq.core.report import MemberState
from partymq.core.schema import KEY_PROPERTIES
from partymq.core.spec import DeletionPolicy, GroupId, GroupSpec, KeyFrom, KeySpec, OnMissing, OnTimeout
from partymq.errors import InvalidSpecError
from partymq.kube.resource import API_GROUP, API_VERSION, KIND, PLURAL, group_spec
from partymq.kube.status import View, render
from partymq.message.key_reader import key_reader
from support.fake_kubernetes import report

CRD = yaml.safe_load((Path(__file__).parents[2] / "crds/partymq.io_partitiongroups.yaml").read_text())
(VERSION,) = CRD["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]
ORDERS = GroupId(namespace="shop", name="orders")
MINIMAL = {"broker": {"connectionSecret": {"name": "rabbitmq"}}, "source": {"queue": "orders"}}
BOUNDED = [
    "partitions",
    "inbox.window",
    "backlog.limit",
    "members.rejoinSeconds",
    "rebalance.delaySeconds",
    "rollout.patienceSeconds",
    "handoff.timeoutSeconds",
]


def field(path: str) -> dict[str, Any]:
    found = SPEC
    for name in path.split("."):
        found = found["properties"][name]
    return dict(found)


def defaulted(schema: Mapping[str, Any], value: Any) -> Any:  # noqa: ANN401 - JSON
    """What the API server makes of a value: missing fields get their defaults."""
    if value is None:
        value = schema.get("default")
    if isinstance(value, Mapping):
        filled = {name: defaulted(part, value.get(name)) for name, part in schema.get("properties", {}).items()}
        return {name: part for name, part in filled.items() if part is not None}
    return value


def fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.{name}", part
        yield from fields(part, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def test_the_kind_is_the_one_that_the_operator_watches() -> None:
    names = CRD["spec"]["names"]
    assert (CRD["spec"]["group"], VERSION["name"], names["kind"], names["plural"]) == (
        API_GROUP,
        API_VERSION,
        KIND,
        PLURAL,
    )
    assert (names["shortNames"], names["categories"], CRD["spec"]["scope"]) == (["pgrp"], ["partymq"], "Namespaced")
    assert VERSION["subresources"] == {"status": {}}


def test_the_api_servers_defaults_are_the_cores() -> None:
    assert group_spec(ORDERS, defaulted(SPEC, MINIMAL)) == GroupSpec(source_queue="orders")


@pytest.mark.parametrize("section", ["inbox", "backlog", "members", "rebalance", "rollout", "handoff"])
def test_an_empty_section_has_the_same_defaults_as_a_missing_one(section: str) -> None:
    assert defaulted(SPEC, {**MINIMAL, section: {}}) == defaulted(SPEC, MINIMAL)


@pytest.mark.parametrize("path", BOUNDED)
def test_the_bounds_are_the_operators(path: str) -> None:
    low, high = field(path)["minimum"], field(path)["maximum"]
    for value in (low, high):
        group_spec(ORDERS, nested(path, value))
    for value in (low - 1, high + 1):
        with pytest.raises(InvalidSpecError, match=f"from {low} to {high}"):
            group_spec(ORDERS, nested(path, value))


def nested(path: str, value: int) -> dict[str, Any]:
    *sections, last = path.split(".")
    inner: Any = {last: value}
    for name in reversed(sections):
        inner = {name: inner}
    return {**MINIMAL, **inner}


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("key.from", KeyFrom),
        ("key.onMissing", OnMissing),
        ("handoff.onTimeout", OnTimeout),
        ("deletionPolicy", DeletionPolicy),
    ],
)
def test_the_choices_are_the_cores(path: str, choices: type[KeyFrom]) -> None:
    assert field(path)["enum"] == [choice.value for choice in choices]


def test_the_properties_that_can_hold_a_key_are_the_same() -> None:
    rules = [rule["rule"] for rule in field("key")["x-kubernetes-validations"]]
    (rule,) = [rule for rule in rules if "property" in rule and " in [" in rule]
    listed = rule.split(" in [")[1].rstrip("]").replace("'", "").split(", ")
    assert tuple(listed) == KEY_PROPERTIES
    for name in KEY_PROPERTIES:
        key_reader(KeySpec(source=KeyFrom.PROPERTY, name=name))


def test_everything_is_explained() -> None:
    silent = [path for path, part in fields(SCHEMA, "") if path != ".metadata" and not part.get("description")]
    assert silent == []


def test_every_rule_says_what_to_do() -> None:
    everything = [("", SCHEMA), *fields(SCHEMA, "")]
    rules = [rule for _, part in everything for rule in part.get("x-kubernetes-validations", ())]
    assert len(rules) >= 7
    assert all(len(rule["message"]) > 30 for rule in rules)


def test_every_state_is_explained() -> None:
    states = SCHEMA["properties"]["status"]["properties"]["members"]["items"]["properties"]["state"]["description"]
    assert all(f"{state.value}:" in states for state in MemberState)


def test_a_status_has_no_field_that_the_api_server_would_drop() -> None:
    view = View(identity="a", generation=1, report=report(source_ready=1), problem=None)
    known = SCHEMA["properties"]["status"]["properties"]
    shown = render(view, {}, 0)
    assert shown.keys() <= known.keys()
    assert shown["messages"].keys() <= known["messages"]["properties"].keys()
    assert shown["conditions"][0].keys() <= known["conditions"]["items"]["properties"].keys()


def test_columns() -> None:
    plain = [column["name"] for column in VERSION["additionalPrinterColumns"] if not column.get("priority")]
    assert plain == ["Source", "Partitions", "Members", "Rollout", "Held", "Working", "Ready", "Age"]
