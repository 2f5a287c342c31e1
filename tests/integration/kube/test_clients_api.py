"""The operator serves clients outside of the cluster beside pods: one group, one router, the same promises."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp

from partymq.amqp.topology import Topology
from support.api_server import Kubectl
from support.broker import QUORUM, amqp_url, temporary_queue
from support.conditions import eventually
from support.group import address
from support.operators import operator
from support.processes import Clients
from support.serve import free_port
from support.spool import Spool

TOKEN = "secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The API of one operator."""

    port: int
    session: aiohttp.ClientSession
    prefix: str = "/groups/orders"

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:  # noqa: ANN401 - JSON
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, **options) as answer:
            text = await answer.text()
            if answer.status == 503:
                assert answer.headers["Connection"] == "close", "a Service would lead to the same one again"
            return answer.status, json.loads(text) if "json" in answer.content_type else None

    async def of_group(self, method: str, path: str, **options: Any) -> tuple[int, Any]:  # noqa: ANN401 - JSON
        return await self.call(method, f"{self.prefix}{path}", **options)


@asynccontextmanager
async def serving(kubectl: Kubectl, identity: str = "the-pod", *more: str) -> AsyncIterator[Api]:
    """An operator with the clients API."""
    port = free_port()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    flags = ("--clients-port", str(port), *more)
    async with (
        operator(*flags, kubectl=kubectl, identity=identity, PARTYMQ_API_TOKEN=TOKEN) as (_, _, log),
        aiohttp.ClientSession(headers=headers) as session,
    ):
        await eventually(lambda: any("the clients API" in line for line in log), "the API is served", 30.0)
        yield Api(port=port, session=session)


async def routed(api: Api) -> bool:
    return (await api.of_group("GET", "/clients"))[0] == 200


async def shared_by(kubectl: Kubectl, *names: str) -> None:
    """Waits until these have partitions and nobody else, but for the plain client: it may get whole ones or slots."""

    def shares() -> dict[str, str]:
        members = kubectl.status().get("members", ())
        return {m["name"]: m["partitions"] for m in members if m["partitions"] and m["name"] != "plain"}

    await eventually(
        lambda: asyncio.to_thread(lambda: shares().keys() == set(names)), lambda: f"{shares()}, not {names}", 30.0
    )


async def test_plain_and_managed_clients_live_beside_pods(kubectl: Kubectl, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    async with (
        temporary_queue(amqp_url(), "source", QUORUM) as source,
        temporary_queue(amqp_url(), "plain") as own_queue,
        serving(kubectl) as api,
        Clients(spool, amqp_url()) as clients,
        await aio_pika.connect(amqp_url()) as connection,
    ):
        kubectl.secret(amqp_url())
        kubectl.pod("a", ready=True)
        kubectl.group(source={"queue": source}, partitions=12, rebalance={"delaySeconds": 0})
        await eventually(lambda: routed(api), "the group is routed", 30.0)
        inbox = f"partymq.{kubectl.namespace}.orders.inbox."
        await clients.in_pod(f"{inbox}a", name="a", work=0.001)
        status, problem = await api.of_group("POST", "/clients/a/bind")
        assert (status, "name of a pod" in problem["detail"]) == (409, True)

        _, binding = await api.of_group("POST", "/clients/plain/bind")
        exchange = f"partymq.{kubectl.namespace}.orders.write"
        assert binding == {"exchange": exchange, "routingKey": "partymq.partition-plain"}
        channel = await connection.channel()
        await (await channel.get_queue(own_queue)).bind(exchange, binding["routingKey"])
        assert (await api.of_group("POST", "/clients/plain/ready"))[0] == 200
        long = f"/namespaces/{kubectl.namespace}/groups/orders"
        _, binding = await api.call("POST", f"{long}/clients/managed/bind", json={"managed": True})
        assert binding["queue"] == f"{inbox}managed"
        managed = await (await clients.consumer(f"{inbox}managed", name="managed", work=0.001)).started()
        await (await clients.consumer(own_queue, name="plain", work=0.001)).started()
        await shared_by(kubectl, "a", "managed")

        producer = await (await clients.producer(source, rate=300, keys=200)).started()
        await eventually(lambda: spool.counts()[1] > 300, "messages arrive", 30.0)
        kubectl.pod("b", ready=True)
        await clients.in_pod(f"{inbox}b", name="b", work=0.001)
        await shared_by(kubectl, "a", "b", "managed")
        assert (await api.of_group("POST", "/clients/managed/unbind"))[0] == 200
        await shared_by(kubectl, "a", "b")
        await managed.kill()
        await producer.stop()
        await spool.settled()
    verdict = spool.audit()
    assert verdict.ok, verdict.report()


async def test_a_pod_with_the_name_of_a_plain_client_waits_until_that_is_unbound(kubectl: Kubectl) -> None:
    topology = await Topology.open(address(), name="test")

    async def has_inbox(name: str) -> bool:
        return await topology.poll(f"partymq.{kubectl.namespace}.orders.inbox.{name}") is not None

    async with temporary_queue(amqp_url(), "source") as source, serving(kubectl) as api:
        kubectl.secret(amqp_url())
        kubectl.group(source={"queue": source}, partitions=4)
        await eventually(lambda: routed(api), "the group is routed", 30.0)
        assert (await api.of_group("POST", "/clients/same/bind"))[0] == 200
        kubectl.pod("same", "other", ready=True)
        await eventually(lambda: has_inbox("other"), "the other pod has an inbox", 30.0)
        assert not await has_inbox("same")
        assert (await api.of_group("POST", "/clients/same/unbind"))[0] == 200
        await eventually(lambda: has_inbox("same"), "the pod has an inbox", 30.0)
        assert (await api.of_group("POST", "/clients/same/bind"))[0] == 409
    await topology.close()


async def test_what_is_asked_of_whom(kubectl: Kubectl) -> None:
    async with temporary_queue(amqp_url(), "source") as source, serving(kubectl) as api:
        kubectl.secret(amqp_url())
        kubectl.group(source={"queue": source}, partitions=4)
        await eventually(lambda: routed(api), "the group is routed", 30.0)
        for path in ("/groups/orders/clients", "/clients"):
            assert (await api.call("GET", path, headers={"Authorization": "Bearer wrong"}))[0] == 401
        assert (await api.call("GET", "/clients"))[0] == 404, "there is no group without a prefix"
        assert (await api.call("GET", "/metrics"))[0] == 404, "that is another port's"
        assert "no group" in (await api.call("GET", "/groups/other/clients"))[1]["detail"]

        assert await api.call("GET", "/health", headers={"Authorization": ""}) == (200, {"status": "ok"})

        async def told() -> bool:
            _, health = await api.call("GET", "/health")
            return bool(health["groups"][f"{kubectl.namespace}/orders"]["routing"])

        await eventually(told, "the last report says that it is routed")

        async with serving(kubectl, "another-pod") as other:

            async def stands_by() -> bool:
                groups = (await other.call("GET", "/health"))[1]["groups"]
                return bool(groups.get(f"{kubectl.namespace}/orders", {}).get("reason") == "Standby")

            await eventually(stands_by, "the other stands by", 30.0)
            status, problem = await other.of_group("POST", "/clients/c/bind")
            assert (status, problem["reason"]) == (503, "NotRouting")
            assert "with a new connection" in problem["detail"]
            assert (await api.of_group("POST", "/clients/c/bind"))[0] == 200


async def test_a_namespace_has_a_token_of_its_own(kubectl: Kubectl) -> None:
    name, token = "partymq-clients", "a-token-of-this-namespace"
    async with (
        temporary_queue(amqp_url(), "source") as source,
        serving(kubectl, "the-pod", "--clients-token-secret", name) as api,
    ):
        kubectl.secret(amqp_url())
        kubectl.group(source={"queue": source}, partitions=4)
        await eventually(lambda: routed(api), "the group is routed", 30.0)
        path = f"/namespaces/{kubectl.namespace}/groups/orders/clients"

        async def asked(given: str) -> int:
            return (await api.call("GET", path, headers={"Authorization": f"Bearer {given}"}))[0]

        assert await asked(token) == 401
        kubectl("create", "secret", "generic", name, f"--from-literal=token={token}")

        async def opens() -> bool:
            return await asked(token) == 200

        await eventually(opens, "the token is taken up", 30.0)
        owner = {"Authorization": f"Bearer {token}"}
        assert (await api.of_group("POST", "/clients/c/bind", headers=owner))[0] == 200
        assert (await api.of_group("POST", "/clients/c/unbind", headers=owner))[0] == 200
        assert (await api.call("GET", "/namespaces/other/groups/orders/clients", headers=owner))[0] == 401
        assert await api.call("GET", "/health", headers=owner) == (200, {"status": "ok"})
        assert await asked("another") == 401
        assert await asked(TOKEN) == 200, "that of the operator is good for all"
