"""PartyMQ at work: this chart and this image on the cluster, plain consumers that come and go under load, and an audit.

Invariant: whatever happens, Ctrl-C included, the namespace, the release and the queues are gone afterwards.
"""

from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import aio_pika

from demo.command import Outcome, run
from demo.picture import Shares, of_resource
from demo.view import View
from demo.watch import News, Watch, beside
from support import stage
from support.broker import Depths, unique
from support.field import Field, field
from support.kube import temporary_namespace

GROUP = "orders"
KEYS = 3000
RATE = 500
LOAD = 10 * RATE
"""Messages that the load goes on for after each change."""


class Demo:
    """The steps; what is to be seen of them is asked for here."""

    def __init__(self, field: Field, view: View) -> None:
        self._field = field
        self._view = view
        self._told: dict[str, int] = {}

    async def shares(self) -> Shares:
        """Who has what, by the resource's status."""
        return of_resource(await self._field.group())

    async def news(self) -> list[News]:
        """The Events that are new."""
        found = []
        for event in await self._field.cluster.events(GROUP):
            name, times = event["metadata"]["name"], int(event.get("count") or 1)
            new = times - self._told.get(name, 0)
            self._told[name] = times
            if new > 0:
                found.append(News(sentence=f"{event['reason']}: {event['message']}", times=new))
        return found

    def inbox(self, member: str) -> str:
        """A member's queue."""
        return f"partymq.{self._field.cluster.namespace}.{GROUP}.inbox.{member}"

    async def scale(self, replicas: int) -> None:
        """Scale the consumers."""
        await self._change(f"scaling to {replicas}", self._field.scale(replicas), replicas)

    async def restart(self, replicas: int) -> None:
        """Replace the pods one after the other."""
        await self._change("rolling restart", self._field.rollout(), replicas)

    async def kill(self, replicas: int) -> None:
        """Take a pod away without grace."""
        victim = min(await self._field.owners())
        change = stage.kill_pod(self._field.cluster, victim)
        await self._change(f"killing {victim} without grace", change, replicas)

    async def _change(self, what: str, change: Coroutine[None, None, None], replicas: int) -> None:
        self._view.step(what)
        began = monotonic()
        await change
        await self._field.shared_by(replicas)
        self._view.note(f"  shared by {replicas} pods after {monotonic() - began:.1f} s")
        await self._field.progress(LOAD)


async def play(view: View, directory: Path) -> Outcome:
    """The whole demo."""
    environment, namespace = stage.Environment.read(), unique("partymq-demo")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stage.delete_queues, f"partymq.{namespace}.")
        connection = await stack.enter_async_context(await aio_pika.connect(environment.amqp_url))
        view.step(f"installing the chart into the namespace {namespace}")
        cluster = await stack.enter_async_context(temporary_namespace(namespace))
        surroundings = await stack.enter_async_context(field(cluster, environment, GROUP, directory))
        await stack.enter_async_context(stage.operator(cluster, environment))
        demo = Demo(surroundings, view)
        watch = Watch(
            view=view,
            spool=surroundings.spool,
            depths=Depths(connection),
            source=surroundings.source,
            inbox=demo.inbox,
            shares=demo.shares,
            news=demo.news,
        )
        async with beside(watch.run()):
            view.step("a PartitionGroup and 3 consumers")
            await surroundings.create()
            await surroundings.deploy(3)
            view.step(f"a producer: {RATE} messages a second of {KEYS} keys")
            producer = await surroundings.produce(RATE, KEYS)
            await surroundings.progress(LOAD)
            await demo.scale(6)
            await demo.scale(2)
            await demo.restart(2)
            await demo.kill(2)
            view.step("stopping the producer, waiting for the last messages, stopping the consumers")
            remark = await watch.drain(producer)
            verdict = await surroundings.finish(producer)
            await watch.tell()
        view.step("cleaning up")
    return Outcome(verdict=verdict, picture=watch.picture, remarks=tuple(filter(None, (remark,))))


def demonstrate() -> int:
    """Play it; the exit code."""
    return run(play, title="PartyMQ", line_every=5.0)
