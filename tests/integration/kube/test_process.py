"""The whole process: it routes, it can be probed, and it ends as it should."""

import asyncio
import json
import signal
from pathlib import Path

import aio_pika

from support.api_server import Kubectl, Line
from support.broker import QUORUM, amqp_url, management_url, temporary_queue
from support.conditions import eventually
from support.operators import get, operator
from support.processes import Clients
from support.spool import Spool


async def test_it_routes_is_probed_and_stops_in_order(kubectl: Kubectl) -> None:
    async with temporary_queue(amqp_url(), "source") as source, operator(kubectl=kubectl) as (process, url, log):
        kubectl.secret(amqp_url())
        kubectl.group(source={"queue": source}, partitions=4)

        async def ready() -> bool:
            return (await get(f"{url}/readyz"))[0] == 200

        await eventually(ready, "it is ready")
        assert (await get(f"{url}/healthz")) == (200, "ok\n")
        await eventually(
            lambda: asyncio.to_thread(lambda: kubectl.condition("Ready").get("reason") == "NoMembers"),
            "it waits for pods",
        )
        assert kubectl.status()["router"] == "the-pod"
        assert kubectl.condition("BrokerConnected")["status"] == "True"
        labels = f'{{group="orders",namespace="{kubectl.namespace}"}}'
        assert f"partymq_partitions{labels} 4.0" in (await get(f"{url}/metrics"))[1]
        kubectl.pod("a", ready=True)
        await eventually(
            lambda: asyncio.to_thread(lambda: [m["name"] for m in kubectl.status()["members"]] == ["a"]),
            "the pod is known",
        )
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15.0) == 0
        assert "router" not in kubectl.status()
        assert kubectl.condition("Ready")["reason"] == "OperatorStopped"
        assert all(json.loads(line)["level"] in {"info", "warning"} for line in log), log


async def test_deleting_the_group_leaves_nothing_on_the_broker(kubectl: Kubectl) -> None:
    async def ours() -> list[str]:
        _, queues = await get(f"{management_url()}/api/queues?columns=name&disable_stats=true")
        return [q["name"] for q in json.loads(queues) if q["name"].startswith(f"partymq.{kubectl.namespace}.")]

    async with temporary_queue(amqp_url(), "source", QUORUM) as source, operator(kubectl=kubectl):
        kubectl.secret(amqp_url())
        kubectl.pod("a", ready=True)
        kubectl.group(source={"queue": source}, partitions=4)
        inbox = f"partymq.{kubectl.namespace}.orders.inbox.a"

        async def declared() -> bool:
            return inbox in await ours()

        await eventually(declared, "the pod's inbox is declared")
        await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=30s")
        assert await ours() == []
        assert "QueuesKept" not in kubectl.events()


async def test_a_group_that_is_deleted_with_messages_and_created_again_delivers_them_in_order(
    kubectl: Kubectl, tmp_path: Path
) -> None:
    """It is what the Event says first."""
    spool = Spool(tmp_path)
    async with (
        temporary_queue(amqp_url(), "source", QUORUM) as source,
        operator(kubectl=kubectl),
        Clients(spool, amqp_url()) as clients,
    ):
        kubectl.secret(amqp_url())

        def create() -> None:
            kubectl.group(source={"queue": source}, partitions=8, inbox={"window": 16}, rebalance={"delaySeconds": 0})

        create()
        kubectl.pod("a", "b", ready=True)
        inbox = f"partymq.{kubectl.namespace}.orders.inbox."
        pods = (clients.in_pod(f"{inbox}{name}", name=name, prefetch=4, work=0.03) for name in ("a", "b"))
        slow = await asyncio.gather(*pods)
        producer = await (await clients.producer(source, rate=2000, keys=40, count=600)).started()
        await producer.ended()
        await eventually(lambda: spool.counts()[1] > 40, "nothing arrives")
        await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=30s")
        said = kubectl.events()["QueuesKept"]
        assert said.startswith("Create the group again, with the same name and number of partitions")
        assert f"{inbox}a" in said
        assert spool.counts()[1] < 600
        create()
        await spool.settled()
        await asyncio.gather(*(client.stop() for client in slow))
        verdict = spool.audit()
        assert verdict.ok, verdict.report()
        assert (verdict.excused_by_consumer, verdict.excused_by_router) == (0, 0), verdict.report()
        await asyncio.to_thread(kubectl, "delete", "pgrp", "orders", "--timeout=30s")


async def test_a_pod_that_never_acknowledges_is_named_and_let_go(kubectl: Kubectl) -> None:
    async with (
        temporary_queue(amqp_url(), "source") as source,
        await aio_pika.connect(amqp_url()) as stuck,
        await aio_pika.connect(amqp_url()) as careless,
        operator(kubectl=kubectl),
    ):
        secret = {"uri": amqp_url(), "management-uri": management_url()}
        kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rabbitmq"}, "stringData": secret})
        kubectl.pod("stuck", "careless", ready=True)
        handoff = {"timeoutSeconds": 1, "onTimeout": "CloseConnection"}
        kubectl.group(source={"queue": source}, partitions=4, handoff=handoff, rebalance={"delaySeconds": 0})
        inbox = f"partymq.{kubectl.namespace}.orders.inbox."
        held: list[object] = []

        async def hold(message: object) -> None:
            held.append(message)

        async def consumed(connection: aio_pika.abc.AbstractConnection, name: str, prefetch: int) -> None:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=prefetch)
            await (await channel.get_queue(f"{inbox}{name}")).consume(hold)

        async def says(kind: str, reason: str, *words: str) -> None:
            def is_so() -> bool:
                condition = kubectl.condition(kind)
                return condition.get("reason") == reason and all(word in condition["message"] for word in words)

            await eventually(lambda: asyncio.to_thread(is_so), lambda: f"{kubectl.status()} does not say {reason}", 40)

        await says("Ready", "NoMembers")
        await eventually(lambda: asyncio.to_thread(lambda: len(kubectl.status()["members"]) == 2), "the pods' inboxes")
        await consumed(stuck, "stuck", 5)
        await consumed(careless, "careless", 0)
        await says("Balanced", "Balanced")
        await says("Ready", "Routing")
        channel = await stuck.channel()
        for number in range(40):
            message = aio_pika.Message(b"", headers={"partitionKey": str(number)})
            await channel.default_exchange.publish(message, routing_key=source)
        await eventually(lambda: len(held) > 20, "nothing arrives")
        kubectl("delete", "pod", "stuck", "--grace-period=0", "--force")
        await eventually(
            lambda: asyncio.to_thread(lambda: "ConnectionClosed" in kubectl.events()),
            "its connection is not closed",
            30,
        )
        await says("Balanced", "Balanced")
        events = kubectl.events()
        assert "pod stuck" in events["HandoffOverdue"]
        assert "partitions" in events["HandoffOverdue"]
        assert "pod stuck" in events["ConnectionClosed"]
        await says("ConsumersSafe", "UnsafeConsumer", "pod careless", "prefetch")
        assert "pod careless" in kubectl.events()["UnsafeConsumer"]
        assert kubectl.condition("Ready")["status"] == "True"


async def test_a_broker_that_is_not_there_is_shown(kubectl: Kubectl) -> None:
    async with operator(kubectl=kubectl):
        kubectl.secret("amqp://guest:guest@127.0.0.1:1/")
        kubectl.group()
        await eventually(
            lambda: asyncio.to_thread(
                lambda: kubectl.condition("BrokerConnected").get("reason") == "BrokerUnreachable"
            ),
            lambda: f"{kubectl.condition('BrokerConnected')} says that the broker is away",
        )
        assert kubectl.condition("Ready")["status"] == "False"


async def test_two_signals_do_no_harm(kubectl: Kubectl) -> None:
    async with operator(kubectl=kubectl) as (process, _, log):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15.0) == 0, log


async def test_routing_goes_on_while_the_api_server_is_away_and_a_client_dies(
    kubectl: Kubectl, line: tuple[Line, str], tmp_path: Path
) -> None:
    """The pods are those that were known; who of them consumes, the broker says."""
    path, kubeconfig = line
    spool = Spool(tmp_path)
    async with (
        temporary_queue(amqp_url(), "source", QUORUM) as source,
        operator("--kubeconfig", kubeconfig, kubectl=kubectl),
        Clients(spool, amqp_url()) as clients,
    ):
        kubectl.secret(amqp_url())
        kubectl.group(
            source={"queue": source}, partitions=8, members={"rejoinSeconds": 2}, rebalance={"delaySeconds": 0}
        )
        kubectl.pod("a", "b", ready=True)
        inbox = f"partymq.{kubectl.namespace}.orders.inbox."
        a, b = await asyncio.gather(*(clients.in_pod(f"{inbox}{name}", name=name) for name in ("a", "b")))

        def owners() -> dict[str, str]:
            members = kubectl.status().get("members") or []
            return {member["name"]: member["partitions"] for member in members if member["partitions"]}

        await eventually(
            lambda: asyncio.to_thread(lambda: set(owners()) == {"a", "b"}), "they share the partitions", 20.0
        )
        producer = await (await clients.producer(source, rate=300)).started()
        before = kubectl.status()
        await path.cut()
        await a.kill()
        kubectl("delete", "pod", "a", "--grace-period=0", "--force")
        handled = spool.counts()[1]
        await eventually(lambda: spool.counts()[1] > handled + 3000, "messages do not go on", 40.0)
        assert kubectl.status() == before, "nobody could write it"
        await path.connect()
        await eventually(lambda: asyncio.to_thread(lambda: set(owners()) == {"b"}), "what happened is shown", 40.0)
        assert kubectl.status()["epoch"] == before["epoch"], "the router was disturbed"
        await producer.stop()
        await spool.settled()
        await b.stop()
        verdict = spool.audit()
        assert verdict.ok, verdict.report()
        assert verdict.excused_by_router == 0, verdict.report()
