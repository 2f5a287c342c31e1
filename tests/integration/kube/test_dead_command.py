"""`partymq dead` finds the broker, the key and the source in the cluster."""

import asyncio
import json
import sys

import aio_pika

from support.api_server import Kubectl
from support.broker import amqp_url, temporary_queue


async def dead(kubectl: Kubectl, *arguments: str, code: int = 0) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "partymq", "dead", *arguments, "--kubeconfig", kubectl.kubeconfig),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": ""},
    )
    out, said = await process.communicate()
    assert process.returncode == code, said.decode()
    assert "Traceback" not in said.decode()
    return out.decode(), said.decode()


async def test_a_group_of_the_cluster_is_enough(kubectl: Kubectl) -> None:
    group = f"{kubectl.namespace}/orders"
    async with temporary_queue(amqp_url(), "source") as source, await aio_pika.connect(amqp_url()) as connection:
        kubectl.group(source={"queue": source}, key={"from": "property", "name": "message_id"})
        _, said = await dead(kubectl, "list", group, code=2)
        assert "Secret" in said
        kubectl.secret(amqp_url())
        _, said = await dead(kubectl, "list", f"{kubectl.namespace}/other", code=2)
        assert f"There is no PartitionGroup other in namespace {kubectl.namespace}" in said
        channel = await connection.channel()
        queue = await channel.declare_queue(
            f"partymq.{kubectl.namespace}.orders.dead", durable=True, arguments={"x-queue-type": "quorum"}
        )
        try:
            headers: aio_pika.abc.HeadersType = {
                "x-partymq-partition": 1,
                "x-partymq-epoch": 2**33,
                "x-partymq-seq": 2**34,
                "x-partymq-exchange": "",
                "x-partymq-routing-key": source,
            }
            message = aio_pika.Message(b"hello", headers=headers, message_id="customer-1")
            await channel.default_exchange.publish(message, routing_key=queue.name)
            out, _ = await dead(kubectl, "list", group, "--json")
            assert json.loads(out)["key"] == "customer-1"
            await dead(kubectl, "replay", group)
            arrived = await (await channel.get_queue(source)).get(timeout=5)
            assert arrived is not None
            assert (arrived.body, arrived.message_id) == (b"hello", "customer-1")
            await arrived.ack()
        finally:
            await channel.queue_delete(queue.name)
