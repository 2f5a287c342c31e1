"""What the chart runs when it is uninstalled, where the operator itself could say nothing any more."""

import asyncio
import sys

import pytest

from support.api_server import Kubectl
from support.broker import amqp_url, temporary_queue
from support.conditions import eventually
from support.kube import CommandError, run
from support.operators import operator


async def test_the_last_word_is_said_of_an_operator_that_could_not(kubectl: Kubectl) -> None:
    async def hook(name: str, *more: str) -> str:
        flags = ("--namespace", kubectl.namespace, "--kubeconfig", kubectl.kubeconfig, *more)
        return await run(sys.executable, "-m", "partymq", "hook", name, *flags)

    kubectl.secret(amqp_url())
    async with temporary_queue(amqp_url(), "source") as source, operator(kubectl=kubectl) as (process, _, _):
        kubectl.group(source={"queue": source}, partitions=4)
        await eventually(
            lambda: asyncio.to_thread(lambda: kubectl.condition("Ready").get("reason") == "NoMembers"), "it is routed"
        )
        await eventually(lambda: asyncio.to_thread(lambda: kubectl("get", "leases", "-o", "name") != ""), "a Lease")
        kubectl.pod("the-pod", group="none", ready=True)
        kubectl("label", "pod", "the-pod", "app=operator")
        with pytest.raises(CommandError, match="still there after 1 s"):
            await hook("post-delete", "--selector", "app=operator", "--within", "1")
        assert kubectl.condition("Ready")["reason"] == "NoMembers"
        process.kill()
        await process.wait()
        kubectl("delete", "pod", "the-pod", "--grace-period=0", "--force")
        assert await hook("post-delete", "--selector", "app=operator") == ""
        assert {one["reason"] for one in kubectl.status()["conditions"]} == {"OperatorStopped"}
        assert "router" not in kubectl.status()
        assert kubectl("get", "leases", "-o", "name") == ""
