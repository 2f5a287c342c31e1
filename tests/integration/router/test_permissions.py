"""The rights that docs/troubleshooting.md gives are enough, and it is said which are missing."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from partymq.core.membership import PodState
from support.broker import management_url, unique
from support.conditions import eventually
from support.group import Group, group

PAGE = Path(__file__).parents[3] / "docs/troubleshooting.md"
PASSWORD = "of-a-test"


def documented(source: str) -> dict[str, str]:
    """What the page gives the user, for this source."""
    found = re.search(r"set_permissions partymq '(\S+)' '(\S+)' '(\S+)'", PAGE.read_text())
    assert found is not None
    rights = [pattern.replace("orders", re.escape(source)) for pattern in found.groups()]
    return dict(zip(("configure", "write", "read"), rights, strict=True))


@asynccontextmanager
async def restricted(g: Group, rights: dict[str, str]) -> AsyncIterator[None]:
    """The group's router is a user who may do no more than this."""
    user = unique("restricted")
    async with aiohttp.ClientSession(base_url=f"{management_url()}/", raise_for_status=True) as session:
        await session.put(f"api/users/{user}", json={"password": PASSWORD, "tags": ""})
        await session.put(f"api/permissions/%2F/{user}", json=rights)
        before = g.config
        broker = replace(before.broker, username=user, password=PASSWORD, management_uri="")
        g.config = replace(before, broker=broker)
        try:
            yield
        finally:
            await g.stop()
            g.config = before
            await session.delete(f"api/users/{user}")


async def test_the_documented_rights_are_enough(tmp_path: Path) -> None:
    async with group(tmp_path) as g, restricted(g, documented(g.source)):
        await g.route()
        await g.join("a", work=0.01)
        producer = await (await g.clients.producer(g.source, rate=400, keys=100)).started()
        await g.join("b", work=0.001)
        await g.owners("a", "b")
        g.set_pod("a", PodState.TERMINATING)
        await g.owners("b")
        verdict = await g.audited(producer)
        assert verdict.excused_by_router == 0


@pytest.mark.parametrize(
    ("right", "pattern", "said"),
    [
        ("configure", "^$", "configure"),
        ("write", r"^partymq\..*", "amq.default"),
    ],
)
async def test_a_right_that_is_missing_is_named(tmp_path: Path, right: str, pattern: str, said: str) -> None:
    async with group(tmp_path) as g, restricted(g, documented(g.source) | {right: pattern}):
        await g.route()
        await eventually(lambda: g.ready == "AccessRefused", lambda: f"it is not said: {g.reports[-1:]}", 20)
        assert said in g.report.ready.message


async def test_a_source_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    async with group(tmp_path) as g, restricted(g, documented(g.source) | {"read": r"^partymq\..*"}):
        await g.route()
        await g.join("a")
        notice = await g.notice("AccessRefused")
        # RabbitMQ 4.3 names the right to configure, whichever is missing; what is needed is said besides.
        assert re.search(f"(read|configure) access to queue '{g.source}'", notice.message)
        assert "to read the source queue" in notice.message
