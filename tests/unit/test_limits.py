"""docs/limits.md has every setting with its default, and the pages that it names are there."""

import re
from dataclasses import fields
from pathlib import Path

import yaml

from partymq.limits import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/limits.md").read_text(encoding="utf-8")


def test_the_page_has_every_setting_with_its_default() -> None:
    shown = dict(re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", PAGE, re.MULTILINE))
    default = Limits()
    for one in fields(Limits):
        value = getattr(default, one.name)
        text = f"{value // 2**20}Mi" if one.metadata["size"] else str(value)
        assert shown.pop(one.name.replace("_", "-")) == text
    assert not shown


def test_the_pages_about_security_lead_to_files_that_there_are() -> None:
    for page in ("SECURITY.md", "docs/security.md", "docs/limits.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / page).parent / link).exists(), link


def test_the_example_of_an_admission_policy_is_one() -> None:
    policy, binding = yaml.safe_load_all((ROOT / "examples/only-these-brokers.yaml").read_text())
    assert (policy["kind"], binding["kind"]) == ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]


def test_compose_listens_on_loopback_only() -> None:
    services = yaml.safe_load((ROOT / "examples/compose/compose.yaml").read_text(encoding="utf-8"))["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_tests_that_the_page_about_security_names_are_there() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and "test_" in line]
    assert len(rows) > 20
    for row in rows:
        for part in row.split("|")[2].split(";"):
            files = re.findall(r"`((?:unit|integration)/[\w/]+\.py)`", part)
            sources = [(ROOT / "tests" / file).read_text(encoding="utf-8") for file in files]
            assert sources, part
            for name in re.findall(r"`(test_\w+)`", part):
                assert any(f"def {name}(" in source for source in sources), f"{files} has no {name}"
