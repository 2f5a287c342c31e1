"""The house stays one that can be read: who may change what, and how large its parts are."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from partymq.router.clients.waiting_line import Unplaced
from partymq.router.flow.lanes import Lane, Member
from partymq.router.flow.segment_flow import Flow

ROOT = Path(__file__).parents[2] / "operator/partymq"
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}

MODULE_LINES, FUNCTION_LINES, PARAMETERS = 350, 60, 7
TOO_MANY = {("kube/group.py", "__init__")}
"""It wants more still; none may join it."""

OWNERS = {"router/flow/lanes.py", "router/flow/lane_table.py", "router/flow/segment_flow.py"}
FIELDS = {
    *Lane.__slots__,
    *Member.__slots__,
    *Unplaced.__slots__,
    *(field.name for field in dataclasses.fields(Flow)),
}
OTHERS = {"sink", "target", "one", "progress"}
"""What variables are called that hold something with fields of the same names: no lane, member or flow."""
TRANSITIONS = {
    *("belong", "stop", "resume", "take_back", "drop_parked"),  # of lanes
    *("starve", "take_starved", "close", "reopen", "bar", "unbar", "refused", "polled"),  # of members
}
CHANGES = {"add", "append", "appendleft", "clear", "extend", "insert", "pop", "popleft", "remove", "set", "update"}


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_module_is_longer_than_can_be_read_at_once() -> None:
    assert not {name for name, text in SOURCES.items() if len(text.splitlines()) > MODULE_LINES}


def test_no_function_is_longer_than_a_screen() -> None:
    assert not {
        (name, function.name)
        for name, tree in TREES.items()
        for function in _functions(tree)
        if (function.end_lineno or 0) - function.lineno >= FUNCTION_LINES
    }


def test_no_constructor_wants_more_than_a_handful() -> None:
    assert {
        (name, function.name)
        for name, tree in TREES.items()
        for function in _functions(tree)
        if function.name == "__init__"
        and len([*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]) - 1 > PARAMETERS
    } == TOO_MANY


def _nodes(tree: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr))


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Assign):
        targets = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Delete):
        targets = list(node.targets)
    else:
        return
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]


def _written(tree: ast.AST) -> Iterator[tuple[ast.expr, str, int]]:
    """What attributes are assigned to, or changed in place, of something else than `self`."""
    for node in _nodes(tree):
        for target in _targets(node):
            place = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(place, ast.Attribute):
                yield place.value, place.attr, node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            place = node.func.value
            if isinstance(place, ast.Attribute):
                yield place.value, place.attr, node.lineno


def _is(owner: ast.expr, name: str) -> bool:
    return isinstance(owner, ast.Name) and owner.id == name


def test_nobody_but_the_table_changes_a_lane_a_member_or_a_flow() -> None:
    found = [
        (name, line, f"{ast.unparse(owner)}.{field}")
        for name, tree in TREES.items()
        if name.startswith("router/") and name not in OWNERS
        for owner, field, line in _written(tree)
        if field in FIELDS and not _is(owner, "self") and ast.unparse(owner).rpartition(".")[2] not in OTHERS
    ]
    assert not found


def test_nobody_but_the_table_has_a_lane_or_a_member_do_it() -> None:
    found = [
        (name, node.lineno, ast.unparse(node.func))
        for name, tree in TREES.items()
        if name.startswith("router/") and name not in OWNERS
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TRANSITIONS
        if any(_is(node.func.value, variable) for variable in ("lane", "member", "donor", "owner", "place"))
    ]
    assert not found


def test_what_parts_tell_each_other_is_connected_and_not_put_into_them() -> None:
    """`other.on_this = something` makes a circle that nobody sees."""
    found = [
        (name, node.lineno, ast.unparse(target))
        for name, tree in TREES.items()
        if name.startswith("router/")
        for node in _nodes(tree)
        for target in _targets(node)
        if isinstance(target, ast.Attribute)
        and not _is(target.value, "self")
        and target.attr.startswith(("on_", "tell"))
        if not ast.unparse(target.value).endswith("connection")  # a protocol of asyncio, below all this
    ]
    assert not found
