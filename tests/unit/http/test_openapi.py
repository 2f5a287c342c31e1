"""The description is what is served and what is documented; the compose file and the examples name what there is."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from partymq.http.clients import FindGroup, api
from partymq.http.groups import Groups
from partymq.http.openapi import DOCUMENT, WITHOUT_DEFAULT
from partymq.router.client_service import ClientService

ROOT = Path(__file__).parents[3]


def nobody(_: web.Request) -> ClientService:
    raise AssertionError


def test_the_document_is_the_one_in_docs() -> None:
    assert json.loads((ROOT / "docs/openapi.json").read_text()) == json.loads(json.dumps(DOCUMENT))


@pytest.mark.parametrize(("document", "default"), [(DOCUMENT, nobody), (WITHOUT_DEFAULT, None)])
def test_every_route_is_described_and_nothing_else(document: dict[str, Any], default: FindGroup | None) -> None:
    groups = Groups(known=tuple, service=lambda _: None)
    served = {
        (re.sub(r":[^}]*}", "}", route.path), route.method.lower()) for route in api(groups, dict, default=default)
    }
    described = {
        (path, method)
        for path, operations in document["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert served == described | {("/openapi.json", "get")}


def test_what_it_refers_to_is_there() -> None:
    for reference in re.findall(r'"#/([^"]*)"', json.dumps(DOCUMENT)):
        found = DOCUMENT
        for part in reference.split("/"):
            found = found[part]


def test_the_compose_file_runs_examples_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "examples/compose/compose.yaml").read_text())
    services = compose["services"]
    assert services["client"]["deploy"]["replicas"] == 3
    assert services["partymq"]["command"] == ["serve"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= services.keys()
        if service.get("command", [""])[0] == "python":
            assert (ROOT / "examples" / Path(service["command"][1]).name).exists()


def test_examples_are_short() -> None:
    for name in ("managed_client.py", "plain_client.py"):
        assert len((ROOT / "examples" / name).read_text().splitlines()) <= 60


def test_what_the_examples_import_is_installed_where_they_are_run() -> None:
    wanted = set()
    for name in ("managed_client.py", "plain_client.py", "producer.py"):
        text = (ROOT / "examples" / name).read_text()
        wanted |= {module.replace("_", "-") for module in re.findall(r"^import (\w+)", text, re.MULTILINE)}
    wanted -= sys.stdlib_module_names
    quickstart = (ROOT / "docs/http-api.md").read_text()
    assert wanted <= set(re.findall(r"`pip install ([^`]*)`", quickstart)[0].split())
