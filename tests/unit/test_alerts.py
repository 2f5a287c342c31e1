"""The alerts fire when they should, and name what they are about; Prometheus itself says so."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/partymq/files/alerts.yaml"
CASES = sorted((ROOT / "tests/unit/alerts").glob("*.yaml"))
CACHE = Path(
    os.environ.get("PARTYMQ_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "partymq"
)
PROMTOOL = shutil.which("promtool", path=f"{CACHE / 'bin'}:{os.environ.get('PATH', '')}")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: hack/tools.sh prometheus fetches it")


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", RULES)


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_fire_when_they_should(case: Path) -> None:
    promtool("test", "rules", case)


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fires = {
        expected["alertname"]
        for case in CASES
        for test in yaml.safe_load(case.read_text(encoding="utf-8"))["tests"]
        for expected in test["alert_rule_test"]
        if expected["exp_alerts"]
    }
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    assert fires == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
