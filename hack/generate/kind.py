"""The kind PartitionGroup, out of the declared spec.

Invariant: an API server that is given this schema takes what the parser takes, and sets the parser's defaults. Status,
columns and the rule about names stand in partitiongroup.yaml, by hand.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from partymq.core.fields import Choice, Field, Flag, Number, Rule, Section, Text
from partymq.core.schema import FIELDS, SECTIONS

FRAME: Final = Path(__file__).with_name("partitiongroup.yaml")
WIDTH: Final = 130
_DECLARED: Final[Mapping[str, Field | Section]] = {
    **{section.path: section for section in SECTIONS},
    **{field.path: field for field in FIELDS},
}

_HEAD: Final = """\
# The one definition of the PartitionGroup kind: `kubectl apply -f crds/`, or the chart in helm/partymq, which carries a copy.
# Made by `make generate` of operator/partymq/core/schema.py and hack/generate/partitiongroup.yaml: edit those.
"""  # noqa: E501


class _Dumper(yaml.SafeDumper):
    """Long texts are folded, and nothing is written as a reference to something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002 - as in PyYAML
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _scalar(dumper: _Dumper, said: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", said, style=">" if len(said) > WIDTH - 40 else None)


_Dumper.add_representer(str, _scalar)


def text() -> str:
    """The kind's definition: its frame, with the schema of the declared spec."""
    frame = yaml.safe_load(FRAME.read_text(encoding="utf-8"))
    (version,) = frame["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec_schema()
    return _HEAD + yaml.dump(frame, Dumper=_Dumper, width=WIDTH, sort_keys=False, allow_unicode=True)


def spec_schema() -> dict[str, Any]:
    """The declared spec as an OpenAPI schema, with defaults of whole sections."""
    spec: dict[str, Any] = {"description": "What the group should be.", "type": "object"}
    for path, name in _places():
        parent = spec
        for part in path:
            parent = parent["properties"][part]
        declared = _DECLARED[".".join((*path, name))]
        schema = _section_schema(declared) if isinstance(declared, Section) else _field_schema(declared)
        parent.setdefault("properties", {})[name] = schema
        if _is_required(declared):
            parent.setdefault("required", []).append(name)
    return _ordered(spec)


def _places() -> Iterator[tuple[tuple[str, ...], str]]:
    """Where each section and field stands, a section before its fields."""
    seen = set()
    for field in FIELDS:
        parts = tuple(field.path.split("."))
        for end in range(1, len(parts) + 1):
            if parts[:end] not in seen:
                seen.add(parts[:end])
                yield parts[: end - 1], parts[end - 1]


def _is_required(declared: Field | Section) -> bool:
    if isinstance(declared, Section):
        return any(_is_required(field) for field in _fields_of(declared))
    return isinstance(declared, Text) and declared.required


def _fields_of(section: Section) -> list[Field]:
    return [field for field in FIELDS if field.path.startswith(f"{section.path}.")]


def _section_schema(section: Section) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": section.description, "type": "object"}
    if not _is_required(section):
        schema["default"] = {field.path.rpartition(".")[2]: default_of(field) for field in _fields_of(section)}
    return _ruled(schema, section.rules)


def default_of(field: Field) -> Any:  # noqa: ANN401 - JSON
    """What a field is where its whole section is left out."""
    match field:
        case Choice():
            return str(field.default)
        case Number() | Flag():
            return field.default
        case Text():
            return field.with_section or None
        case _:
            raise AssertionError


def _field_schema(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": field.description}
    match field:
        case Number():
            schema |= {"type": "integer", "format": "int64" if field.wide else "int32"}
            schema |= {"minimum": field.least, "maximum": field.most, "default": field.default}
        case Choice():
            schema |= {"type": "string", "enum": list(field.words), "default": str(field.default)}
        case Flag():
            schema |= {"type": "boolean", "default": field.default}
        case Text():
            schema |= {"type": "string", "minLength": 1, "maxLength": field.longest}
            schema |= {"pattern": field.pattern} if field.pattern else {}
    return _ruled(schema, field.rules)


def _ruled(schema: dict[str, Any], rules: tuple[Rule, ...]) -> dict[str, Any]:
    said = [{"rule": rule.cel, "message": rule.message} for rule in rules]
    return schema | ({"x-kubernetes-validations": said} if said else {})


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    """Every mapping with `required` before its `properties`."""
    properties = {name: _ordered(part) for name, part in schema.get("properties", {}).items()}
    rest = {name: part for name, part in schema.items() if name != "properties"}
    return rest | ({"properties": properties} if properties else {})
