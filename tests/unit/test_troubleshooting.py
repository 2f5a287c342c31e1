"""docs/troubleshooting.md explains every reason that a condition or an Event can have, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from partymq.core.report import MemberState

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
NEVER_SHOWN = {"LoginFailed", "ApiUnavailable"}
"""Errors that end the process or are logged: without the API server nothing can be shown."""


def reasons() -> set[str]:
    found = set()
    for path in (ROOT / "operator/partymq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= set(_of(node))
    return found - NEVER_SHOWN


def _of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Name(id="Condition" | "Notice") | ast.Attribute(attr="meet"), keywords=keywords):
            for keyword in keywords:
                if keyword.arg == "reason":
                    yield from _texts(keyword.value)
        case ast.Call(func=ast.Attribute(attr="_notice"), args=[first, *_]):
            yield from _texts(first)
        case ast.Call(func=ast.Name(id="_unknown" | "_queues_unknown"), args=[first, *_]):
            yield from _texts(first)
        case ast.Call(func=ast.Attribute(attr="_tell"), args=[first, _], keywords=keywords):
            yield from _texts(first)
            yield from (text for keyword in keywords if keyword.arg == "after" for text in _texts(keyword.value))
        case ast.Call(func=ast.Attribute(attr="_tell"), args=[_, what, _]):
            yield from (
                text.partition(" ")[0] for text in _texts(what.values[0] if isinstance(what, ast.JoinedStr) else what)
            )
        case ast.Assign(targets=[ast.Name(id="reason" | "REFUSES")], value=value):
            yield from _texts(value)
        case ast.AnnAssign(target=ast.Name(id="reason" | "REFUSES"), value=ast.Constant() as value):
            yield from _texts(value)
        case ast.AnnAssign(value=ast.Tuple(elts=[ast.Constant(value="Unknown"), reason, _])):
            yield from _texts(reason)


def _texts(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=[ast.Constant(value="Member"), _]):
            yield from (f"Member{state.value}" for state in MemberState if state is not MemberState.WAITING)


def explained(title: str) -> list[str]:
    """The first column of the table under a heading."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\|((?: `\w+`,?)+) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"\w+", row)]


def test_every_reason_is_explained_and_none_that_there_is_not() -> None:
    conditions, events = explained("Conditions"), explained("Events")
    assert len(conditions) == len(set(conditions))
    assert len(events) == len(set(events))
    assert set(conditions) | set(events) == reasons()
