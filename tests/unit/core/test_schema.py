"""The declared fields: parser and schema take the same specs, and no field is forgotten."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from generate.kind import default_of, spec_schema
from partymq.core.choices import KeyFrom
from partymq.core.fields import Choice, Field, Flag, Number, Text
from partymq.core.schema import BROKER, FIELDS, KEY, SECTIONS
from partymq.core.spec import GroupId, GroupSpec
from partymq.core.spec_reader import group_spec, secret_name
from partymq.errors import InvalidSpecError

ORDERS = GroupId(namespace="shop", name="orders")
SCHEMA = spec_schema()
MINIMAL = {"broker": {"connectionSecret": {"name": "rabbitmq"}}, "source": {"queue": "orders"}}
NUMBERS = [field for field in FIELDS if isinstance(field, Number)]
TEXTS = [
    "rabbitmq", "a.b", "A", "a\n", "-a", "", "x" * 253, "x" * 254, "x" * 255, "x" * 256, "ä" * 127, "ä" * 128,
    "partymq.q.source", "partymq.shop.a.dead", "amq.x", "/a~1b", "/a~2", "/a~", "/a~~01", "~", "app_id", "expiration",
]  # fmt: skip


def whole(_validator: Any, pattern: str, text: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:  # noqa: ANN401
    """As the API server's language understands `$`: at the end, and not before a last line break."""
    if isinstance(text, str) and not re.fullmatch(pattern, text):
        yield jsonschema.ValidationError(f"{text!r} does not match {pattern}")


VALIDATOR = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": whole}
)(SCHEMA)


def explain(path: str, which: str) -> str:
    return f"{path}: {which}."


def values(field: Field) -> st.SearchStrategy[Any]:
    """Of its kind and near its bounds, and of other kinds."""
    others = st.sampled_from(["", "x", -1, 0, 1, 1.5, True, False, [], {}])
    match field:
        case Number():
            near = {field.least - 1, field.least, field.default, field.most, field.most + 1}
            return st.sampled_from(sorted(near)) | st.integers(field.least, field.most) | others
        case Choice():
            return st.sampled_from(field.words) | st.just(f"{field.default}s") | others
        case Flag():
            return st.booleans() | others
        case _:
            return st.sampled_from(TEXTS) | st.text(max_size=8) | others


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Usable but for a field or two, and now and then a section."""
    spec: dict[str, Any] = copy.deepcopy(MINIMAL)
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        put(spec, field.path, draw(values(field)))
    for section in draw(st.lists(st.sampled_from(SECTIONS), max_size=1) | st.just([])):
        put(spec, section.path, draw(st.sampled_from([{}, "x", 5, []])))
    return spec


def put(spec: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401 - JSON
    *sections, last = path.split(".")
    for name in sections:
        spec = spec.setdefault(name, {})
        if not isinstance(spec, dict):
            return
    spec[last] = value


def defaulted(schema: Mapping[str, Any], value: Any) -> Any:  # noqa: ANN401 - JSON
    """With the defaults that an API server sets before it validates."""
    if not isinstance(value, Mapping):
        return value
    parts = schema.get("properties", {})
    filled = {name: part["default"] for name, part in parts.items() if "default" in part} | dict(value)
    return {name: defaulted(parts.get(name, {}), part) for name, part in filled.items()}


def taken_by_the_api_server(spec: Mapping[str, Any]) -> bool:
    full = defaulted(SCHEMA, spec)
    if not VALIDATOR.is_valid(full):
        return False
    rules = [
        (rule, at(full, field.path)) for field in FIELDS for rule in field.rules if at(full, field.path) is not None
    ]
    return all(rule.holds(value) for rule, value in [*rules, *((rule, full["key"]) for rule in KEY.rules)])


def at(spec: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - JSON
    value: Any = spec
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def taken_by_the_parser(spec: Mapping[str, Any]) -> bool:
    said = ""
    try:
        group_spec(ORDERS, spec, explain)
        secret_name(spec, explain)
    except InvalidSpecError as error:
        said = str(error)
    assert not said or (re.match(r"spec\.[\w.]+ ", said) and said.isprintable()), said
    return not said


@settings(max_examples=200)
@given(specs())
def test_the_parser_takes_what_the_schema_takes(spec: dict[str, Any]) -> None:
    taken = taken_by_the_parser(spec)
    if at(spec, "key.from") == KeyFrom.ROUTING_KEY:
        spec = {
            **spec,
            "key": {name: value for name, value in spec["key"].items() if name != "name"},
        }  # nobody reads it
    event("taken" if taken else "refused")
    assert taken == taken_by_the_api_server(spec)


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_each_bound_is_refused_by_both(field: Number) -> None:
    for value, taken in ((field.least, True), (field.most, True), (field.least - 1, False), (field.most + 1, False)):
        spec: dict[str, Any] = {"broker": MINIMAL["broker"], "source": MINIMAL["source"]}
        put(spec, field.path, value)
        assert (taken_by_the_parser(spec), taken_by_the_api_server(spec)) == (taken, taken)


def test_a_pointer_with_a_double_tilde_is_refused_by_both() -> None:
    spec = {**MINIMAL, "key": {"from": "body", "name": "/a~~01"}}
    assert (taken_by_the_parser(spec), taken_by_the_api_server(spec)) == (False, False)


def test_the_defaults_of_the_schema_are_those_of_the_values() -> None:
    assert group_spec(ORDERS, defaulted(SCHEMA, MINIMAL), explain) == GroupSpec(source_queue="orders")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_no_field_is_forgotten_by_the_parser(field: Field) -> None:
    spec: dict[str, Any] = {"broker": MINIMAL["broker"], "source": {"queue": "orders"}, "key": {"name": "partitionKey"}}
    put(spec, field.path, another(field))
    values = group_spec(ORDERS, spec, explain), secret_name(spec, explain)
    assert values != (GroupSpec(source_queue="orders"), "rabbitmq")


def another(field: Field) -> Any:  # noqa: ANN401 - JSON
    match field:
        case Number():
            return field.most
        case Choice():
            return field.words[-1]
        case Flag():
            return not field.default
        case _:
            return "other"


def test_sections_are_those_of_the_fields() -> None:
    parents = {field.path.rpartition(".")[0] for field in FIELDS} | {BROKER.path}
    assert parents - {""} == {section.path for section in SECTIONS}
    assert [field.path for field in FIELDS if default_of(field) is None] == [
        field.path for field in FIELDS if isinstance(field, Text) and field.required
    ]
