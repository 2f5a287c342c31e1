"""The chart's API for clients outside of the cluster: turned on in a release that runs, reached through its Service."""

import asyncio
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest_asyncio

from support import stage
from support.conditions import eventually
from support.field import MakeField
from support.kube import Kube

TOKEN = "of-the-clients"
CLIENT = "outside"


@pytest_asyncio.fixture(loop_scope="session")
async def api(cluster: Kube, environment: stage.Environment) -> AsyncIterator[str]:
    """The API's address on this machine; the release is given back as it was."""
    port = 8085
    values = ["clientsApi.enabled=true", "clientsApi.token.secretName=clients"]
    if environment.host_network:
        port = stage.free_port()
        values += ["clientsApi.host=127.0.0.1", f"clientsApi.port={port}"]
    await cluster.kubectl("create", "secret", "generic", "clients", f"--from-literal=token={TOKEN}")
    try:
        await stage.upgrade(cluster, *values)
        async with forwarded(cluster, f"service/{stage.RELEASE}-clients", port) as here:
            yield f"http://127.0.0.1:{here}"
    finally:
        await stage.roll_back(cluster)
        await cluster.kubectl("delete", "secret", "clients")


@asynccontextmanager
async def forwarded(cluster: Kube, service: str, port: int) -> AsyncIterator[int]:
    """A port of this machine that leads to a Service's."""
    process = await asyncio.create_subprocess_exec(
        "kubectl", "-n", cluster.namespace, "port-forward", service, f":{port}", stdout=PIPE
    )
    assert process.stdout
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) ", line)
        assert found, f"kubectl does not forward {service}: {line}"
        yield int(found[1])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_a_client_outside_of_the_cluster_shares_a_group_with_pods(api: str, make_field: MakeField) -> None:
    async with make_field() as field, aiohttp.ClientSession() as nobody:
        await field.create()
        await field.deploy(2)
        pods = await field.pods()
        producer = await field.produce(rate=150)
        group = f"{api}/groups/{field.name}"
        for url in (f"{group}/clients", f"{api}/namespaces/{field.cluster.namespace}/groups/{field.name}/partitions"):
            async with nobody.get(url) as refused:
                assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        async with nobody.post(f"{group}/clients/{CLIENT}/bind", json={"managed": True}) as refused:
            assert refused.status == 401

        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:

            async def clients() -> dict[str, str]:
                async with session.get(f"{group}/clients") as answer:
                    return {one["hostname"]: one["state"] for one in (await answer.json())["clients"]}

            async def shared_by(names: set[str]) -> None:
                partitions: list[dict[str, Any]] = []

                async def is_so() -> bool:
                    async with session.get(f"{group}/partitions") as answer:
                        partitions[:] = (await answer.json())["partitions"]
                    owners, states = ({one[what] for one in partitions} for what in ("owner", "state"))
                    return owners == names and states == {"direct"}

                # Seldom: to ask through a forwarded port costs more than to handle a message.
                await eventually(
                    is_so, lambda: f"the partitions are not shared by {names}: {partitions}", 60, every=0.5
                )

            assert await clients() == {}
            async with session.post(f"{group}/clients/{CLIENT}/bind", json={"managed": True}) as answer:
                queue = (await answer.json())["queue"]
            client = await (await field.clients.consumer(queue, name=CLIENT, work=0.001)).started()
            await shared_by(pods | {CLIENT})
            assert await clients() == {CLIENT: "active"}
            await field.progress(600)

            await client.stop()  # what still comes into its inbox is for the others, once it is unbound
            async with session.delete(f"{group}/clients/{CLIENT}") as answer:
                assert answer.status == 204
            await shared_by(pods)
            assert await clients() == {}
        verdict = await field.finish(producer)
        assert verdict.ok, verdict.report()
        assert (verdict.excused_by_consumer, verdict.excused_by_router) == (0, 0), verdict.report()
        acked = {consumer.name: consumer.acked for consumer in verdict.consumers}
        assert acked[CLIENT] > 100, acked
