"""What is committed is what `make generate` writes, and a stale file is named."""

from pathlib import Path

import pytest

from generate.__main__ import FILES, ROOT, main


@pytest.mark.parametrize("path", FILES)
def test_what_is_committed_is_what_is_written(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == FILES[path].text(), "run `make generate`"


def test_a_stale_file_is_named_with_its_source_and_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, made in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(made.text(), encoding="utf-8")
    assert main(["--check"], tmp_path) == 0
    page = tmp_path / "docs/reference.md"
    page.write_text("edited by hand", encoding="utf-8")
    (tmp_path / "docs/openapi.json").unlink()
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/reference.md is stale: edit operator/partymq/core/schema.py and run `make generate`.",
        "docs/openapi.json is stale: edit operator/partymq/http/openapi.py and run `make generate`.",
    ]
    assert page.read_text(encoding="utf-8") == "edited by hand"
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0


def test_every_source_is_there() -> None:
    assert all((ROOT / made.source).is_file() for made in FILES.values())
