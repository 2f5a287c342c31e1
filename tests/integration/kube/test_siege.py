"""The real operator with the memory of its pod, besieged from another namespace in all ways that once ended it.

`make siege SECONDS=300` does so for five minutes, and prints what it measured.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pytest
import yaml
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from support.api_server import Kubectl, namespace
from support.broker import QUORUM, temporary_queue
from support.cgroup import memory_limit
from support.conditions import eventually
from support.flooding_broker import FLOODS, MEMBER, PARTITIONS, SOURCE
from support.hostile_broker import APIS, HARMS
from support.hostile_process import hostile
from support.operators import get, operator
from support.own_broker import OwnBroker

ROOT = Path(__file__).parents[3]
SECONDS = float(os.environ.get("PARTYMQ_SIEGE_SECONDS", "20"))
BEFORE = max(10.0, SECONDS / 10)
RATE = 200
KEYS = 50
CROWD = 130
"""Groups of 4096 partitions."""
TWICE = 2.0
ROWS = ("body", "almost", "bomb", "endless", "many")
"""Bodies without an end, and answers of management APIs; the crowd is always there."""
ALL = (*HARMS, *FLOODS, *APIS)
KINDS = {"rows": ROWS} | ({"all": ALL} if "PARTYMQ_SIEGE_SECONDS" in os.environ else {})
"""All at once is for `make siege`: it comes too near to the limit, and was killed at it once."""
NOISE = 0.5 if SECONDS < 60 else 0.0
"""Seconds that p99 may be in any case in a short run: most of it is the start of all these sessions, and 40 messages
are a hundredth. What each row once did was to stop everybody for seconds, or for good."""


def pods_memory() -> int:
    """The chart's limit."""
    values = yaml.safe_load((ROOT / "helm/partymq/values.yaml").read_text(encoding="utf-8"))
    return int(values["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20


class Bob:
    """The innocent: one group's producer and its one client, with the time that each message took."""

    def __init__(self, channel: AbstractChannel, source: str) -> None:
        self._channel = channel
        self._source = source
        self._took: list[float] = []
        self._sent = 0
        self._got = 0

    async def consume(self, inbox: str) -> None:
        """His client."""
        queue = await self._channel.get_queue(inbox)
        await queue.consume(self._handle)

    async def _handle(self, message: AbstractIncomingMessage) -> None:
        self._took.append(time.monotonic() - float(message.body))
        self._got += 1
        await message.ack()

    async def produce(self) -> None:
        """Until it is cancelled."""
        begun = time.monotonic()
        while True:
            body = str(time.monotonic()).encode()
            message = aio_pika.Message(body, headers={"partitionKey": str(self._sent % KEYS)})
            await self._channel.default_exchange.publish(message, routing_key=self._source)
            self._sent += 1
            await asyncio.sleep(max(0.0, begun + self._sent / RATE - time.monotonic()))

    async def p99(self, seconds: float) -> float:
        """Of what comes in so many seconds."""
        self._took.clear()
        await asyncio.sleep(seconds)
        took = sorted(self._took)
        assert len(took) > RATE * seconds / 2, "most messages do not come at all"
        return took[len(took) * 99 // 100]

    def is_served(self) -> bool:
        return self._got > RATE and self._sent - self._got < RATE / 10

    def all_came(self) -> bool:
        return self._got >= self._sent  # the last publish may have been interrupted before it was counted


@asynccontextmanager
async def broker() -> AsyncIterator[OwnBroker]:
    own = OwnBroker("siege")
    await own.up()
    try:
        yield own
    finally:
        await own.down(purge=True)


def besiege(mallory: Kubectl, kinds: Collection[str], ports: dict[str, int], uri: str) -> None:
    """Brokers and management APIs that mean harm, and a crowd of groups."""
    objects: list[dict[str, object]] = []
    for place, kind in enumerate(kinds):
        name, data = f"h-{place}", {"uri": f"amqp://guest:guest@127.0.0.1:{ports[kind]}/"}
        if kind in APIS:
            data = {"uri": uri, "management-uri": f"http://guest:guest@127.0.0.1:{ports[kind]}"}
        objects.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
        objects.append(_group(name, name, partitions=PARTITIONS))
        if kind == "source":
            objects.append(_pod(name))
    mallory.secret(uri)
    crowd = [_group(f"crowd-{number}", "rabbitmq", partitions=4096) for number in range(CROWD)]
    mallory.apply(*objects, *crowd)


def _group(name: str, secret: str, *, partitions: int) -> dict[str, object]:
    source = {"queue": f"{SOURCE}-{name}"}
    spec = {"broker": {"connectionSecret": {"name": secret}}, "source": source, "partitions": partitions}
    return {"apiVersion": "partymq.io/v1alpha1", "kind": "PartitionGroup", "metadata": {"name": name}, "spec": spec}


def _pod(group: str) -> dict[str, object]:
    spec = {"automountServiceAccountToken": False, "containers": [{"name": "c", "image": "none"}]}
    metadata = {"name": MEMBER, "annotations": {"partymq.io/group": group}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.alone
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
async def test_a_neighbour_goes_on(
    kubectl: Kubectl, kinds: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    limit = pods_memory()
    async with broker() as own, hostile() as ports, temporary_queue(own.url, "source", QUORUM) as source:
        with (
            namespace(kubectl.kubeconfig, f"{kubectl.namespace}-mallory") as mallory,
            memory_limit(limit) as cgroup,
        ):
            flags = ("--namespace", mallory.namespace)
            within = cgroup.prefix if cgroup is not None else ()
            async with (
                operator(*flags, kubectl=kubectl, within=within) as (process, url, _),
                await aio_pika.connect(own.url) as connection,
            ):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=200)
                kubectl.secret(own.url)
                kubectl.pod("a", ready=True)
                kubectl.group(source={"queue": source}, partitions=16)
                bob = Bob(channel, source)

                async def joined() -> bool:
                    return bool(await asyncio.to_thread(lambda: kubectl.status().get("members")))

                await eventually(joined, "there is no inbox", 60)
                await bob.consume(f"partymq.{kubectl.namespace}.orders.inbox.a")
                producing = asyncio.create_task(bob.produce())
                await eventually(bob.is_served, "nothing is routed", 60)
                before = await bob.p99(BEFORE)
                await asyncio.to_thread(besiege, mallory, kinds, ports, own.url)
                during = await bob.p99(SECONDS)
                assert process.returncode is None, f"the operator ended with {process.returncode}"
                assert (await get(f"{url}/healthz"))[0] == 200
                routed = await asyncio.to_thread(_conditions, mallory)
                producing.cancel()
                await asyncio.gather(producing, return_exceptions=True)
                await eventually(bob.all_came, "some messages do not come", 60)
                used = _used(process.pid)
            most = cgroup.most if cgroup is not None else used
    with capsys.disabled():
        told = f"p99 {before * 1000:.0f} ms before, {during * 1000:.0f} ms during {SECONDS:g} s; "
        told += f"{most // 2**20} MiB at most of {limit // 2**20}"
        sys.stdout.write(f"\n{told}{'' if cgroup is not None else ' (no cgroup could be made)'}; {routed}\n")
    assert most <= limit
    if kinds is ROWS:
        assert during <= max(TWICE * before, NOISE)


def _conditions(mallory: Kubectl) -> dict[str, int]:
    """How many groups have which reason."""
    found: dict[str, int] = {}
    for group in json.loads(mallory("get", "partitiongroups", "-o", "json"))["items"]:
        reasons = {c["type"]: c["reason"] for c in group.get("status", {}).get("conditions", ())}
        reason = reasons.get("Ready", "")
        found[reason] = found.get(reason, 0) + 1
    return found


def _used(pid: int) -> int:
    """The most bytes that a process had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
