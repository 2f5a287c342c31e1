"""The operator, installed once for each process of the run from its chart, and a fresh field of play for every test.

Invariant: all of it shares one event loop, for connections to the API server and the broker belong to the loop that
made them; and no operator sees what belongs to another process of the run.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from support import stage
from support.broker import unique
from support.field import Field, MakeField, field
from support.kube import Kube, temporary_namespace


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run every test in the session's loop and a file's in one process, and let aiohttp's TLS transports go late.

    Under Python 3.11 those are closed only some rounds of the loop after their session: a limit that aiohttp documents.
    """
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def environment() -> stage.Environment:
    return stage.Environment.read()


@pytest.fixture(scope="session")
def everywhere(worker_id: str) -> bool:
    """Whether operators watch all namespaces, as by default, or theirs alone, beside those of other processes."""
    return worker_id == "master"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(environment: stage.Environment, *, everywhere: bool) -> AsyncIterator[Kube]:
    """The namespace with the operator."""
    async with (
        temporary_namespace(unique("partymq-e2e")) as cluster,
        stage.operator(cluster, environment, everywhere=everywhere),
    ):
        yield cluster
    assert await stage.delete_queues(f"partymq.{cluster.namespace}.") == []


@pytest.fixture
def make_field(cluster: Kube, environment: stage.Environment, tmp_path: Path) -> MakeField:
    def make(*, source: bool = True) -> AbstractAsyncContextManager[Field]:
        return field(cluster, environment, unique("g"), tmp_path, source=source)

    return make
