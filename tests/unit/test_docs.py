"""What pages and comments name is there: modules, tests, mutants, sections. Links between pages are `make lint`'s."""

import re
from importlib import import_module
from pathlib import Path

from mutants.test_rules import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "operator/partymq"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("operator", "tests", "hack", "examples", "helm", "crds", "docs", ".")
    for path in sorted((ROOT / folder).rglob("*") if folder != "." else ROOT.glob("*"))
    if path.suffix in {".py", ".sh", ".yaml", ".tpl", ".txt", ".md"}
}


def section(page: str, title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """The rows of a section's table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]


def named(text: str) -> set[str]:
    return set(re.findall(r"`([\w/]+\.py)`", text))


def rules(mutation: Mutation) -> list[Mutation]:
    return [mutation, *(rules(mutation.also) if mutation.also is not None else [])]


ALL_RULES = [rule for mutation in MUTATIONS for rule in rules(mutation)]


def test_every_file_that_a_page_names_is_there() -> None:
    roots = (SOURCES, ROOT / "tests", ROOT / "tests/integration", ROOT / "examples", ROOT)
    missing = [
        (page, name)
        for page, text in TEXTS.items()
        if page.endswith(".md")
        for name in sorted(named(text))
        if not any((root / name).exists() for root in roots)
    ]
    assert not missing


def test_every_module_of_the_router_has_a_room_and_only_one() -> None:
    placed = re.findall(r"`(router/[\w/]+\.py)`", section(ARCHITECTURE, "The rooms of the router"))
    modules = [str(path.relative_to(SOURCES)) for path in (SOURCES / "router").rglob("*.py")]
    assert sorted(placed) == sorted(module for module in modules if not module.endswith("__init__.py"))


def test_every_mutant_stands_at_a_step_of_the_protocol() -> None:
    steps = rows(section(ARCHITECTURE, "The protocol: step, module, test, mutant"))
    assert all(named(module) and named(test) for _, module, test, _ in steps)
    mutants = [mutant for *_, cell in steps for mutant in cell.split("; ") if mutant]
    assert sorted(mutants) == sorted(rule.rule for rule in ALL_RULES)


def test_the_page_on_tests_says_where_each_rule_is_removed() -> None:
    page = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    table = rows(section(page, "Rules, and what notices that one is missing"))
    removed = {place for _, cell in table for place in re.findall(r"`([\w.]+)`", cell)}
    assert removed == {f"{rule.owner.__name__.rpartition('.')[2]}.{rule.method}" for rule in ALL_RULES}


def test_pages_and_sections_that_texts_name_are_there() -> None:
    missing = []
    for path, text in TEXTS.items():
        for page, anchor in re.findall(r"\bdocs/([\w-]+\.md)#?([\w-]*)", text):
            if not (ROOT / "docs" / page).exists() or (anchor and anchor not in anchors(page)):
                missing.append((path, page, anchor))
        for page, title in re.findall(r"docs/([\w-]+\.md), \"([^\"]+)\"", re.sub(r"\s+", " ", text)):
            if title not in titles(page):
                missing.append((path, page, title))
        missing += [(path, "a section by its number", "") for _ in re.findall(r"\(design, section \d", text)]
    assert not missing


def test_modules_that_texts_name_are_there() -> None:
    words = {
        (path, word)
        for path, text in TEXTS.items()
        for word in re.findall(r"`((?:core|amqp|router|kube)\.[\w.]+)`", text)
    }
    assert not sorted((path, word) for path, word in words if not is_there(word))


def titles(page: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)


def anchors(page: str) -> set[str]:
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles(page)}


def is_there(name: str) -> bool:
    """Whether `layer.module` or `layer.module.something` exists."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(["partymq", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[count:])
    return False
