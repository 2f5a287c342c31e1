"""The example works as it is written: manifests, image, producer and consumer, but for the addresses in them."""

import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest
import pytest_asyncio
import yaml

from support import stage
from support.broker import unique
from support.conditions import eventually
from support.kube import Kube, Object, temporary_namespace

pytestmark = pytest.mark.alone
EXAMPLES = stage.ROOT / "examples"
REPLICAS = 3


@pytest_asyncio.fixture(loop_scope="session")
async def shop(cluster: Kube) -> AsyncIterator[Kube]:
    """A user's namespace, beside the operator's."""
    assert cluster.namespace
    async with temporary_namespace(unique("partymq-shop")) as shop:
        yield shop
        # While the operator is there to take the queues away.
        await shop.kubectl("delete", "partitiongroups", "--all", "--timeout=60s", deadline=70)
    await stage.delete_queues(f"partymq.{shop.namespace}.")


def manifests(environment: stage.Environment) -> list[Object]:
    """The example's, with this run's image and addresses."""
    secret, group, deployment = (
        yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()) for name in ("secret", "partitiongroup", "deployment")
    )
    secret["stringData"]["uri"] = environment.amqp_url_in_pods
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = environment.example_image
    pod["hostNetwork"] = environment.host_network
    return [secret, group, deployment]


@asynccontextmanager
async def producing(environment: stage.Environment) -> AsyncIterator[None]:
    """The example's producer; it declares the source, which is deleted in the end."""
    async with await aio_pika.connect(environment.amqp_url) as connection:
        producer = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLES / "producer.py"), env={**os.environ, "AMQP_URL": environment.amqp_url}
        )
        try:
            yield
        finally:
            producer.terminate()
            await producer.wait()
            await (await connection.channel()).queue_delete("orders")


async def handled(shop: Kube) -> list[list[str]]:
    """What each pod has printed."""
    pods = [pod["metadata"]["name"] for pod in await shop.pods("app=orders")]
    logs = await asyncio.gather(*(shop.kubectl("logs", pod) for pod in pods))
    return [log.splitlines() for log in logs]


async def test_the_example_keeps_the_orders_of_a_customer_in_order(shop: Kube, environment: stage.Environment) -> None:
    async with producing(environment):
        await shop.apply(*manifests(environment))

        async def share() -> bool:
            return len(stage.owners(await shop.group("orders"))) == REPLICAS

        await eventually(share, "the example's pods do not share the partitions", 60)

        async def enough() -> bool:
            return all(len(lines) >= 40 for lines in await handled(shop))

        await eventually(enough, "the example's pods do not all get orders", 60, every=0.5)
        logs = await handled(shop)
        await shop.kubectl("scale", "deployment/orders", "--replicas=0")

        async def gone() -> bool:
            return not await shop.pods("app=orders")

        took = await eventually(gone, "the example's pods do not end", 40)
        assert took < 15, "they waited to be killed"
    for lines in logs:
        orders: dict[str, list[int]] = defaultdict(list)
        for line in lines:
            customer, order = line.split(" ", 1)
            orders[customer].append(json.loads(order)["order"])
        assert all(numbers == sorted(numbers) for numbers in orders.values())
