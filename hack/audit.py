"""Are there known vulnerabilities in what is installed in .venv? Asks PyPI's and then OSV's database, by pip-audit.

Ends with 1 only over a vulnerability. Where neither database answers (no network, a mirror without that data) it says
so, and that is no failure: `make lint` needs no network.
"""

import json
import subprocess
import sys
from typing import Any

WITHIN = 90
"""Seconds for one database. It is asked about one package after the other."""
DATABASES = ("pypi", "osv")


def main() -> int:
    why = []
    for database in DATABASES:
        found = ask(database)
        if isinstance(found, str):
            why.append(found)
            continue
        told, code = verdict(found)
        print(f"{told} (database: {database})", file=sys.stderr)
        return code
    print(f"The dependencies were not audited: {'; '.join(why)}.", file=sys.stderr)
    return 0


def ask(database: str) -> list[dict[str, Any]] | str:
    """What is known of each package that there is something to ask about; or why nothing is known at all."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", database, "--format", "json"]
    command += ["--skip-editable", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return f"{database} did not answer within {WITHIN} s"
    return read(database, done.stdout, done.stderr)


def read(database: str, out: str, said: str) -> list[dict[str, Any]] | str:
    """pip-audit's answer; it calls packages that a mirror knows nothing of skipped, and ends well all the same."""
    try:
        packages: list[dict[str, Any]] = json.loads(out)["dependencies"]
    except (json.JSONDecodeError, KeyError, TypeError):
        lines = said.strip().splitlines()
        return (
            f"{database} cannot be asked ({lines[-1].partition('(')[0][:100] if lines else 'pip-audit said nothing'})"
        )
    if all("vulns" not in package for package in packages):
        return f"{database} knows none of the {len(packages)} packages: a mirror without that data, or no network"
    return packages


def verdict(packages: list[dict[str, Any]]) -> tuple[str, int]:
    """What to tell, and the exit code."""
    known = [
        f"{package['name']} {package['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or '-'}"
        for package in packages
        for one in package.get("vulns", ())
    ]
    audited = sum("vulns" in package for package in packages)
    unknown = sorted(package["name"] for package in packages if "vulns" not in package)
    told = [*known, f"{audited} dependencies audited, {len(known)} known vulnerabilities"]
    if unknown:
        told.append(f"not audited: {', '.join(unknown)}")
    return "\n".join(told), 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
