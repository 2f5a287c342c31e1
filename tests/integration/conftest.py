"""How these tests are spread over processes: what shares a thing that only one may use stays together; a cluster."""

import asyncio
from collections.abc import Iterator

import pytest

from support.broker_script import NoBrokerError
from support.cluster import Cluster


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that do the broker harm share a broker; those of Kubernetes an API server that some cut off."""
    for item in items:
        if "integration/kube/" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group("kubernetes"))
        elif "broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("own broker"))


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Cluster]:
    """Three nodes; a test that takes one away starts with `up`."""
    cluster = Cluster("cluster")
    try:
        asyncio.run(cluster.up())
    except NoBrokerError as error:
        pytest.skip(str(error))
    yield cluster
    asyncio.run(cluster.down())
