"""A Deployment is rolled out amid whatever else happens, as Kubernetes does it; now and then it is undone.

Invariant: pods are made and taken away by their strategy alone. One that another fault works on is taken away when that
is over; one that crashes, leaves or joins meanwhile is counted as it is.
"""

import asyncio
import math
from dataclasses import dataclass
from random import Random

from soak.pods import Pod
from soak.world import World

MOST_SURGE = 3
"""Pods beyond what there were: each is a process."""
LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strategy:
    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.surge

    @property
    def least(self) -> int:
        return self.replicas - self.unavailable


def of_the_deployment(world: World) -> list[Pod]:
    """Its pods, of any generation."""
    return [pod for pod in world.pods.values() if pod.generation]


async def roll_out(world: World, rng: Random) -> None:
    """All pods of the Deployment are replaced, with surge and unavailability at random."""
    world.rolling = True
    try:
        await _roll_out(world, rng)
    finally:
        world.rolling = False


async def _roll_out(world: World, rng: Random) -> None:
    replicas = len(of_the_deployment(world))
    surge = min(MOST_SURGE, math.ceil(rng.choice([0.0, rng.random()]) * replicas))
    unavailable = math.floor(rng.random() * replicas) or (0 if surge else 1)
    strategy = _Strategy(replicas=replicas, surge=surge, unavailable=unavailable)
    undone_at = rng.randint(1, replicas) if rng.random() < 0.25 else 0
    before = world.generation
    world.generations += 1
    world.generation = world.generations
    replaced = 0
    async with asyncio.TaskGroup() as tasks:
        while leaving := _left(world):
            replaced += _step(world, rng, strategy, leaving, tasks)
            if undone_at and replaced >= undone_at:
                world.done["  undone"] += 1
                world.generation, undone_at = before, 0
            await asyncio.sleep(LOOK_EVERY)


def _left(world: World) -> list[Pod]:
    """Who is still to be replaced."""
    return [pod for pod in of_the_deployment(world) if pod.generation != str(world.generation)]


def _step(world: World, rng: Random, strategy: _Strategy, old: list[Pod], tasks: asyncio.TaskGroup) -> int:
    """What the Deployment's controller does now; how many pods it makes."""
    pods = of_the_deployment(world)
    make = max(0, min(strategy.replicas - (len(pods) - len(old)), strategy.most - len(pods)))
    for _ in range(make):
        tasks.create_task(_start(world.replacement(rng)))
    available = sum(pod.available for pod in pods)
    for pod in sorted((pod for pod in old if not pod.busy), key=lambda pod: pod.available):
        if not pod.available or available > strategy.least:
            available -= pod.available
            pod.busy = True
            tasks.create_task(_end(world, pod, notice=rng.choice([0.0, rng.uniform(0.0, 1.0)])))
    return make


async def _start(pod: Pod) -> None:
    async with pod.taken():
        await pod.run()


async def _end(world: World, pod: Pod, *, notice: float) -> None:
    async with pod.taken():
        await pod.terminate(notice=notice)
        del world.pods[pod.name]
