"""The audit of dependencies fails over vulnerabilities, and over nothing else; not having been made is said."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "hack/audit.py"
SAFE = {"name": "orjson", "version": "3.11.0", "vulns": []}
HOLED = {"name": "aiohttp", "version": "3.0.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.0"], "aliases": []}]}
SKIPPED = {"name": "uvloop", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(packages: list[dict[str, Any]]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("out", "code", "words"),
    [
        (said([SAFE, SKIPPED]), 0, "1 dependencies audited, 0 known vulnerabilities\nnot audited: uvloop"),
        (said([SAFE, HOLED]), 1, "aiohttp 3.0.0: PYSEC-1, mended in 3.1.0"),
        (said([SKIPPED]), 0, "were not audited: pypi knows none of the 1 packages"),
        (said([]), 0, "not audited"),
        ("", 0, "osv cannot be asked (ConnectionError: no route)"),
        ("[]", 0, "not audited"),
    ],
)
def test_what_the_database_says_is_told(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    code: int,
    words: str,
) -> None:
    said_to_errors = "Traceback\n  File\nConnectionError: no route\n"
    monkeypatch.setattr(audit, "ask", lambda database: audit.read(database, out, said_to_errors))
    assert audit.main() == code
    assert words in capsys.readouterr().err


def test_the_second_database_is_asked_where_the_first_is_silent(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"pypi": said([SKIPPED]), "osv": said([HOLED])}
    monkeypatch.setattr(audit, "ask", lambda database: audit.read(database, answers[database], ""))
    assert audit.main() == 1
    assert "database: osv" in capsys.readouterr().err


def test_a_database_that_never_answers_is_given_up(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WITHIN", 0.01)
    assert "did not answer within" in str(audit.ask("pypi"))
