"""A group on the cluster with its workload, its load and its audit: what the demo and the end-to-end tests act on.

Invariant: the pods are plain consumers, the producer is a process here, and the verdict comes from their reports alone.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from support import stage
from support.broker import QUORUM, amqp_url, temporary_queue
from support.collector import collecting
from support.conditions import eventually
from support.kube import Kube, Object
from support.processes import Client, Clients
from support.spool import Spool
from support.verdict import Verdict


@dataclass(slots=True, kw_only=True)
class Field:
    """`name` is that of the group, of its workload and of the pods' label `app`."""

    cluster: Kube
    environment: stage.Environment
    name: str
    source: str
    reports: str
    spool: Spool
    clients: Clients
    kind: str = "Deployment"

    @property
    def workload(self) -> str:
        """The workload as kubectl names it."""
        return f"{self.kind.lower()}/{self.name}"

    async def create(self, **spec: object) -> None:
        """Create the group."""
        secret = stage.secret(self.environment.amqp_url_in_pods)
        await self.cluster.apply(secret, stage.partition_group(self.name, self.source, **spec))

    async def deploy(
        self,
        replicas: int,
        *,
        kind: str = "Deployment",
        prefetch: int = 20,
        work: float = 0.001,
        probe: bool = True,
        strategy: Mapping[str, object] | None = None,
        deadline: float = 90.0,
    ) -> None:
        """Start the consumers and wait until each of them owns its share."""
        self.kind = kind
        workload = stage.consumers(
            self.name,
            self.name,
            self.environment,
            self.reports,
            replicas=replicas,
            kind=kind,
            prefetch=prefetch,
            work=work,
            probe=probe,
            strategy=strategy,
        )
        await self.cluster.apply(stage.client_code(), workload)
        await self.shared_by(replicas, deadline)

    async def produce(self, rate: float = 300.0, keys: int = 300) -> Client:
        """Start a producer and wait for its first messages to be acknowledged."""
        producer = await (await self.clients.producer(self.source, rate=rate, keys=keys)).started()
        await self.progress(int(rate))
        return producer

    async def progress(self, messages: int) -> None:
        """Wait until so many more messages are acknowledged."""
        enough = self.spool.counts()[1] + messages
        await eventually(lambda: self.spool.counts()[1] >= enough, "messages do not arrive", 60)

    async def scale(self, replicas: int) -> None:
        """Scale the workload, and do not wait."""
        await self.cluster.kubectl("scale", self.workload, f"--replicas={replicas}")

    async def rollout(self, deadline: float = 90.0) -> None:
        """Replace the pods as the workload's strategy says, and wait until that is done."""
        await self.cluster.kubectl("rollout", "restart", self.workload)
        status = ("rollout", "status", self.workload, f"--timeout={deadline:.0f}s")
        await self.cluster.kubectl(*status, deadline=deadline + 10)

    async def pods(self) -> set[str]:
        """The pods' names, those included that are on their way out."""
        return {pod["metadata"]["name"] for pod in await self.cluster.pods(f"app={self.name}")}

    async def group(self) -> Object:
        """The group as the API server has it."""
        return await self.cluster.group(self.name)

    async def status(self) -> Object:
        """The group's status; empty while there is none."""
        status: Object = (await self.group()).get("status") or {}
        return status

    async def owners(self) -> dict[str, str]:
        """The members that own partitions, with these."""
        return stage.owners(await self.group())

    async def shared_by(self, replicas: int, deadline: float = 90.0) -> None:
        """Wait until there are so many pods, they and no others own the partitions, and none is changing hands."""

        async def is_so() -> bool:
            pods, group = await self.pods(), await self.group()
            balanced = stage.condition(group, "Balanced").get("status") == "True"
            return len(pods) == replicas and stage.owners(group).keys() == pods and balanced

        await eventually(is_so, f"group {self.name} is not shared by {replicas} pods", deadline, every=0.2)

    async def says(self, reason: str, kind: str = "Ready", deadline: float = 30.0) -> float:
        """Wait until a condition has a reason; how many seconds that took."""

        async def is_so() -> bool:
            return stage.condition(await self.group(), kind).get("reason") == reason

        return await eventually(is_so, f"group {self.name} does not say {reason} in {kind}", deadline)

    async def finish(self, producer: Client) -> Verdict:
        """Stop the producer, let everything arrive, stop the consumers, and judge what they saw."""
        await producer.stop()
        await self.spool.settled()
        await self.stop_consumers()
        return self.spool.audit()

    async def stop_consumers(self) -> None:
        """Scale to nothing and wait until the pods are gone: nothing is delivered any more."""
        await self.scale(0)
        await eventually(self._empty, f"the pods of {self.name} do not go", 60)

    async def clear(self) -> None:
        """Take the workload and the group away, and wait until the group is gone."""
        quickly = ("--ignore-not-found", "--wait=false")
        await self.cluster.kubectl("delete", self.workload, "--cascade=background", "--grace-period=1", *quickly)
        await self.cluster.kubectl("delete", "pgrp", self.name, "--ignore-not-found", "--timeout=60s", deadline=70)

    async def _empty(self) -> bool:
        return not await self.pods()


class MakeField(Protocol):
    """Makes a field: a group's surroundings, without the group."""

    def __call__(self, *, source: bool = True) -> AbstractAsyncContextManager[Field]: ...


@asynccontextmanager
async def field(
    cluster: Kube, environment: stage.Environment, name: str, directory: Path, *, source: bool = True
) -> AsyncIterator[Field]:
    """A group's surroundings; the group is still to be created, and with `source=False` its source, too.

    Its reports are in a folder of their own: the audit takes every file that it finds there.
    """
    prefix = f"{cluster.namespace}-{name}"
    spool = Spool(directory / name)
    reports = f"{prefix}-reports"
    async with (
        temporary_queue(amqp_url(), f"{prefix}-source", QUORUM) as queue,
        collecting(amqp_url(), reports, spool),
        Clients(spool, amqp_url()) as clients,
    ):
        made = Field(
            cluster=cluster,
            environment=environment,
            name=name,
            source=queue if source else f"{queue}-later",
            reports=reports,
            spool=spool,
            clients=clients,
        )
        try:
            yield made
        except Exception as error:
            error.add_note(await stage.story(cluster, name))
            raise
        finally:
            await made.clear()
