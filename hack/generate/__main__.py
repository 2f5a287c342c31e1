"""`make generate` writes what is made of declarations; with --check, `make lint` asks whether all of it is up to date.

Invariant: a file that this writes is made of the code and of hand-written frames alone, so what is committed is what
comes out again.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from generate import kind, pages
from partymq.http.openapi import DOCUMENT

ROOT: Final = Path(__file__).resolve().parents[2]
KIND: Final = "crds/partymq.io_partitiongroups.yaml"
SCHEMA: Final = "operator/partymq/core/schema.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file that is written here."""

    source: str
    """What to edit in its place."""
    text: Callable[[], str]


FILES: Final[Mapping[str, Made]] = {
    KIND: Made(source=SCHEMA, text=kind.text),
    f"helm/partymq/files/{KIND}": Made(source=SCHEMA, text=kind.text),
    "docs/reference.md": Made(source=SCHEMA, text=pages.spec),
    "docs/options.md": Made(source="operator/partymq/options.py", text=pages.options),
    "docs/limits.md": Made(source="operator/partymq/limits.py", text=pages.limits),
    "docs/openapi.json": Made(
        source="operator/partymq/http/openapi.py", text=lambda: json.dumps(DOCUMENT, indent=2) + "\n"
    ),
}


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the files, or say which are stale."""
    stale = {path: text for path, made in FILES.items() if not _is(root / path, text := made.text())}
    if "--check" not in arguments:
        for path, text in stale.items():
            (root / path).write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        return 0
    for path in stale:
        print(f"{path} is stale: edit {FILES[path].source} and run `make generate`.", file=sys.stderr)
    return 1 if stale else 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
