"""Pages of docs/ that list what is declared."""

import json
import re
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from generate.kind import default_of
from partymq.core.fields import Choice, Field, Number, Rule, Text
from partymq.core.schema import FIELDS, SECTIONS
from partymq.limits import Limits
from partymq.option import Option
from partymq.options import OPERATOR, SERVE

ROOT: Final = Path(__file__).resolve().parents[2]
WIDTH: Final = 130
_NOTE: Final = "<!-- Made by `make generate` of {source}: edit that. -->\n"


def spec() -> str:
    """The page of all fields of a spec."""
    rows = [
        f"| [`{field.path}`](#{field.path.replace('.', '').lower()}) | {_default(field)} | {_bounds(field)} |"
        for field in FIELDS
    ]
    note = _NOTE.format(source="operator/partymq/core/schema.py")
    lines = [note, _REFERENCE, "| field | default | bounds |", "|---|---|---|", *rows]
    described = set()
    for field in FIELDS:
        for section in SECTIONS:
            if field.path.startswith(f"{section.path}.") and section.path not in described:
                described.add(section.path)
                lines += ["", f"## {section.path}", "", _wrapped(section.description), *_rules(section.rules)]
        nested = "." in field.path
        lines += ["", f"{'###' if nested else '##'} {field.path}", "", _wrapped(field.description), ""]
        lines += [f"- Default: {_default(field)}", f"- Bounds: {_bounds(field)}"]
        lines += [_item(f"When it is changed: {field.change}"), *_rules(field.rules)[1:]]
    return "\n".join(lines) + "\n"


_REFERENCE: Final = """# The spec of a PartitionGroup

Every field of the resource. The groups of a file of [`partymq serve`](http-api.md#settings) have them, too, except for `broker`; there,
`source.queue` is `partymq.q.source` and `key.name` is `partitionKey` where they are left out. The API server refuses what a bound or a rule
does not allow, and in a file `partymq serve` does. `kubectl explain partitiongroup.spec` says what stands here.

A change of any field ends the session of the group's router and starts the next one, which takes moments: nothing is lost, and a
session that ends in order repeats nothing. What else a change does is said with each field.
"""


def _default(field: Field) -> str:
    match field:
        case Text() if field.required:
            return "none, it is required"
        case Text():
            return f"`{field.with_section}` where the whole section is left out, none otherwise"
        case _:
            return f"`{json.dumps(default_of(field)).strip(chr(34))}`{f' {field.unit}' if field.unit else ''}"


def _bounds(field: Field) -> str:
    match field:
        case Number():
            return f"{field.least} to {field.most}"
        case Choice():
            return ", ".join(f"`{word}`" for word in field.words)
        case Text():
            return f"1 to {field.longest} characters"
        case _:
            return "`true`, `false`"


def _rules(rules: tuple[Rule, ...]) -> list[str]:
    return ["", *(_item(f"Rule: {rule.message}") for rule in rules)] if rules else []


def _wrapped(text: str, first: str = "", then: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False, break_on_hyphens=False
    )


def _item(text: str) -> str:
    return _wrapped(text, "- ", "  ")


_OPTIONS: Final = """# Options

Of `partymq operator` and `partymq serve`. A flag wins over its variable, that over the file, that over the default; what is empty counts as
not given. What cannot be used ends the process at its start, with a sentence that names the flag and exit code 2.
"""
_OF_OPERATOR: Final = """
## partymq operator

`chart` is the value of the [chart](../helm/partymq/values.yaml); variables without one are set with `extraEnv`.
"""
_OF_SERVE: Final = """
## partymq serve

`file` is the place in the [file](http-api.md#settings) that `--config` names.
"""


def options() -> str:
    """The page of all options."""
    note = _NOTE.format(source="operator/partymq/options.py")
    operator = ["| flag | variable | default | chart | what it is |", "|---|---|---|---|---|"]
    operator += [_row(option, _code(option.chart)) for option in OPERATOR]
    serve = ["| flag | variable | default | file | what it is |", "|---|---|---|---|---|"]
    serve += [_row(option, _place(option)) for option in SERVE]
    return "\n".join([note, _OPTIONS, _OF_OPERATOR.lstrip(), *operator, _OF_SERVE, *serve, ""])


def _row(option: Option[Any], place: str) -> str:
    flags = ", ".join(_code(f"{flag} {option.metavar}") for flag in reversed(option.flags)) if option.name else ""
    default = _code(option.default) or option.otherwise.replace("docs/limits.md", "[limits.md](limits.md)") or "none"
    text = f"{option.help.rstrip('.')}. {option.more}" if option.more else option.help
    return f"| {flags} | {_code(option.variable)} | {default} | {place} | {text} |"


def _place(option: Option[Any]) -> str:
    if option.in_spec:
        return f"{_code(f'spec.{option.in_spec}')} of the first group"
    return _code(option.in_file)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


_LIMITS: Final = ROOT / "docs/limits.md"
_TABLE: Final = re.compile(r"(<!-- Made by `make generate`[^\n]*\n)(.*?)(<!-- Made until here. -->\n)", re.DOTALL)


def limits() -> str:
    """The page of limits, with the table of those that are settings."""
    page = _LIMITS.read_text(encoding="utf-8")
    rows = ["", "| name | default | of what | what meets it |", "|---|--:|---|---|"]
    for one in fields(Limits):
        default, said = getattr(Limits(), one.name), one.metadata
        text = f"{default // 2**20}Mi" if said["size"] else str(default)
        rows.append(f"| `{one.name.replace('_', '-')}` | {text} | {said['what']} | {said['meets']} |")
    note = _NOTE.format(source="operator/partymq/limits.py")
    made, count = _TABLE.subn(lambda found: "\n".join([note.rstrip("\n"), *rows, "", found[3]]), page)
    assert count == 1
    return made
