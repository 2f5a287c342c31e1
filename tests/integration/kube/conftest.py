"""The API server that KUBECONFIG names, a namespace of each test's own, and the operator's Kubernetes side in it."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from support.api_server import Kubectl, Line, Start, Watching, namespace, watching

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """How to reach the API server; the PartitionGroup kind is there."""
    path = os.environ.get("KUBECONFIG")
    if not path:
        pytest.skip("KUBECONFIG names no API server: `make test-integration` starts one")
    everywhere = Kubectl(path, "default")
    everywhere("apply", "-f", str(ROOT / "crds"))
    everywhere("wait", "--for=condition=Established", "crd/partitiongroups.partymq.io", "--timeout=30s")
    return path


@pytest.fixture
def kubectl(kubeconfig: str) -> Iterator[Kubectl]:
    """`kubectl` in a namespace of the test's own."""
    with namespace(kubeconfig, f"test-{secrets.token_hex(4)}") as own:
        yield own


@pytest.fixture
async def watch(kubectl: Kubectl) -> AsyncIterator[Start]:
    """Starts the Kubernetes side for the test's namespace."""
    async with AsyncExitStack() as stack:

        async def start(
            identity: str = "operator-a",
            *,
            namespaces: tuple[str, ...] | None = None,
            kubeconfig: str | None = None,
            ready: bool = True,
        ) -> Watching:
            return await stack.enter_async_context(
                watching(
                    identity=identity,
                    namespaces=(kubectl.namespace,) if namespaces is None else namespaces,
                    kubeconfig=kubeconfig or kubectl.kubeconfig,
                    ready=ready,
                )
            )

        yield start


@pytest.fixture
async def line(kubeconfig: str, tmp_path: Path) -> AsyncIterator[tuple[Line, str]]:
    """A line to the API server, and the kubeconfig that goes through it."""
    config = yaml.safe_load(await asyncio.to_thread(Path(kubeconfig).read_text))
    cluster = config["clusters"][0]["cluster"]
    server = urlsplit(cluster["server"])
    assert server.hostname
    line = Line(server.hostname, server.port or 443)
    await line.connect()
    # Another port of the same address: the server's certificate is good for it.
    cluster["server"] = f"https://{server.hostname}:{line.port}"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    yield line, str(path)
    with suppress(OSError):
        await line.cut()
