"""A pod that hangs is named to whoever looks, within a minute: by `kubectl describe`, an alert, and `partymq where`."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from time import monotonic

import pytest

from partymq.core import ranges
from partymq.core.keys import partition_of
from support.api_server import Kubectl
from support.broker import QUORUM, amqp_url, temporary_queue
from support.conditions import eventually
from support.kube import run
from support.operators import operator
from support.processes import Clients
from support.prometheus import PROGRAM, prometheus
from support.spool import Spool

SOON = 60.0
"""Seconds."""
KEYS = 100


@pytest.mark.skipif(PROGRAM is None, reason="prometheus is missing: hack/tools.sh prometheus fetches it")
async def test_a_stopped_client_is_named_within_a_minute(kubectl: Kubectl, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    async with (
        temporary_queue(amqp_url(), "source", QUORUM) as source,
        operator(kubectl=kubectl) as (_, url, _),
        prometheus(tmp_path, url) as watcher,
        Clients(spool, amqp_url()) as clients,
    ):
        kubectl.secret(amqp_url())
        kubectl.group(source={"queue": source}, partitions=8, rebalance={"delaySeconds": 0}, inbox={"window": 64})
        kubectl.pod("a", "b", ready=True)
        inbox = f"partymq.{kubectl.namespace}.orders.inbox."
        a, b = await asyncio.gather(*(clients.in_pod(f"{inbox}{name}", name=name, work=0.001) for name in ("a", "b")))

        def member(name: str) -> dict[str, str]:
            members = {one["name"]: one for one in kubectl.status().get("members") or ()}
            return members.get(name) or {}

        def shared() -> bool:
            return bool(member("a").get("partitions")) and bool(member("b").get("partitions"))

        await eventually(lambda: asyncio.to_thread(shared), "they do not share the partitions", 20.0)
        producer = await (await clients.producer(source, rate=200, keys=KEYS)).started()
        await eventually(lambda: spool.counts()[1] > 400, "nothing arrives")
        owned = ranges.parse(member("b")["partitions"])
        key = next(key for key in (f"p-{n}" for n in range(KEYS)) if partition_of(key.encode(), 8) in owned)

        async def described() -> bool:
            said = await asyncio.to_thread(kubectl, "describe", "pgrp", "orders")
            event = "MemberStuck" in said and "b has acknowledged nothing since" in said
            return event and "Status:" in said and "Reason:                Stuck" in said

        async def where() -> str:
            group = f"{kubectl.namespace}/orders"
            return await run(sys.executable, "-m", "partymq", "where", group, key, "--kubeconfig", kubectl.kubeconfig)

        async def alerted() -> bool:
            named = {"namespace": kubectl.namespace, "group": "orders", "member": "b"}
            return any(
                name == "PartyMQMemberStuck" and named.items() <= labels.items()
                for name, labels in await watcher.firing()
            )

        async def answered() -> bool:
            said = await where()
            return "b, Stuck since" in said and f"kubectl delete pod -n {kubectl.namespace} b" in said

        os.kill(b.pid, signal.SIGSTOP)
        began = monotonic()
        try:
            for look, what in ((described, "kubectl describe"), (answered, "partymq where"), (alerted, "an alert")):
                left = began + SOON - monotonic()
                await eventually(look, f"{what} does not name it within a minute", left, every=0.5)
            assert member("a")["state"] == "Active"
        finally:
            os.kill(b.pid, signal.SIGCONT)
        await eventually(
            lambda: asyncio.to_thread(lambda: member("b").get("state") == "Active"), "it is not active again", 30.0
        )
        assert "b, Active since" in await where()
        await producer.stop()
        await spool.settled()
        await asyncio.gather(a.stop(), b.stop())
        verdict = spool.audit()
        assert verdict.ok, verdict.report()
