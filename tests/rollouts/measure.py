"""One rollout on the cluster, under load, with what is seen of it.

Invariant: the load runs before, during and after the rollout, and the audit of all of it has to be good.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import time

from rollouts.rows import Row
from support import figures, stage
from support.broker import unique
from support.field import Field
from support.field import field as a_field
from support.kube import Kube, Object

RATE = 300.0
KEYS = 500
WORK = 0.002
CALM = 30.0
"""Seconds of load before a rollout. Kubernetes takes the younger of two pods away first, where the older one is twice
as old or so; those of a Deployment that was not just made are of one age."""
WITHIN = 300.0
"""Seconds for a rollout."""
LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a rollout has cost; times in seconds."""

    took: float
    moves: figures.Moves
    waits: figures.Waits
    nobody: float
    """In which no pod consumed."""
    untrue: float
    """In which the status said `NoMembers` although one did; it may be late by some tenths."""
    starts: tuple[float, ...]
    """Of each new pod, from its making (which has whole seconds) until it consumed; ascending."""
    busy: float
    """The share of this machine's CPU time that was used."""
    told: tuple[str, ...]
    """The Events about it."""


@dataclass(slots=True)
class _Watch:
    """What is seen of a group and its pods meanwhile."""

    on: Field
    ready: list[tuple[float, str]] = field(default_factory=list)
    """The reason of `Ready`, and from when on."""
    pods: dict[str, Object] = field(default_factory=dict)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            reason = stage.condition(await self.on.group(), "Ready").get("reason", "")
            if not self.ready or self.ready[-1][1] != reason:
                self.ready.append((time(), reason))
            self.pods |= {pod["metadata"]["name"]: pod for pod in await self.on.cluster.pods(f"app={self.on.name}")}
            await asyncio.sleep(LOOK_EVERY)

    def said(self, reason: str, until: float) -> list[tuple[float, float]]:
        """When `Ready` had this reason, as far as was seen."""
        ends = [at for at, _ in self.ready[1:]] + [until]
        return [(at, end) for (at, said), end in zip(self.ready, ends, strict=True) if said == reason]

    def starts(self, old: set[str]) -> tuple[float, ...]:
        """Of each new pod that consumed."""
        first: dict[str, float] = {}
        for event in self.on.spool.events():
            pod = event.actor.partition("~")[0]
            if pod in self.pods and pod not in old:
                first[pod] = min(event.at / 1e9, first.get(pod, float("inf")))
        made = {name: pod["metadata"]["creationTimestamp"] for name, pod in self.pods.items()}
        return tuple(sorted(at - datetime.fromisoformat(made[pod]).timestamp() for pod, at in first.items()))


@asynccontextmanager
async def _watching(on: Field) -> AsyncIterator[_Watch]:
    watch = _Watch(on)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch.run())
        yield watch
        task.cancel()


def _cpu() -> tuple[float, float]:
    """CPU time of this machine that was used, and all of it."""
    times = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


async def measure(cluster: Kube, environment: stage.Environment, row: Row, directory: Path) -> Cost:
    """Roll a Deployment out once."""
    name = unique("g")
    async with a_field(cluster, environment, name, directory) as on:
        await on.create(partitions=row.partitions)
        await on.deploy(row.replicas, work=WORK, probe=row.probe, strategy=row.strategy, deadline=WITHIN)
        producer = await on.produce(RATE, KEYS)
        await on.progress(int(CALM * RATE))
        old = await on.pods()
        began, (used, had) = time(), _cpu()
        async with _watching(on) as watch:
            await on.rollout(WITHIN)
            await on.shared_by(row.replicas, WITHIN)
        ended, (used_then, had_then) = time(), _cpu()
        log = await cluster.kubectl("logs", f"deployment/{stage.RELEASE}", "--tail=-1")
        told = await cluster.events(name)
        verdict = await on.finish(producer)
        assert verdict.ok, verdict.report()
        there = figures.presence(event for event in on.spool.events() if event.actor.startswith(name))
        gaps = figures.gaps(there, after=began, before=ended)
        return Cost(
            took=ended - began,
            moves=figures.moves(log, group=f"{cluster.namespace}.{name}", after=began),
            waits=figures.waits(on.spool.events(), after=began, before=ended),
            nobody=sum(end - begin for begin, end in gaps),
            untrue=figures.together(there, watch.said("NoMembers", ended)),
            starts=watch.starts(old),
            busy=(used_then - used) / (had_then - had),
            told=tuple(f"{event['reason']}: {event['message']}" for event in told),
        )
