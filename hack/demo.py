"""PartyMQ at work: this chart and this image on the cluster, plain consumers that come and go under load, and an audit.

Invariant: whatever happens, Ctrl-C included, the namespace, the release and the queues are gone afterwards; the last
line is the auditor's and the exit code is its too.
"""

import asyncio
import logging
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import aio_pika
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import stage
from support.broker import Depths, unique
from support.demo_view import Picture, View, table
from support.field import Field, field
from support.kube import temporary_namespace
from support.verdict import Verdict

GROUP = "orders"
KEYS = 3000
RATE = 500
LOAD = 10 * RATE
"""Messages that the load goes on for after each change."""
_COMMITTED = re.compile(r"partitions? moved (?:from .*|in (\d+) handoffs, the longest of which took) (?:in )?(\d+) ms")
"""Of a handoff, or of all of a rollout."""


class Demo:
    """The steps; `watch` runs beside them and keeps the picture."""

    def __init__(self, field: Field, depths: Depths, view: View) -> None:
        self._field = field
        self._depths = depths
        self._view = view
        self._told: dict[str, int] = {}
        self.picture = Picture()

    async def watch(self) -> None:
        """Keep the picture true to the status, the Events, the queues and the reports."""
        samples = [(monotonic(), 0)]
        while True:
            picture = self.picture
            picture.group = await self._field.group()
            picture.confirmed, picture.acked = self._field.spool.counts()
            samples = [*samples[-12:], (monotonic(), picture.acked)]
            (then, before), (now, after) = samples[0], samples[-1]
            picture.rate = (after - before) / max(now - then, 0.001)
            await self._ask_for_depths()
            await self.tell_events()
            self._view.show(picture)
            await asyncio.sleep(0.3)

    async def _ask_for_depths(self) -> None:
        picture = self.picture
        prefix = f"partymq.{self._field.cluster.namespace}.{GROUP}.inbox."
        picture.source = await self._depths.ready(self._field.source)
        members = [member["name"] for member in picture.status.get("members") or []]
        picture.ready = {name: await self._depths.ready(f"{prefix}{name}") for name in members}

    async def tell_events(self) -> None:
        """Show the Events that are new, and learn from them how long handoffs took."""
        for event in await self._field.cluster.events(GROUP):
            name, times = event["metadata"]["name"], int(event.get("count") or 1)
            new = times - self._told.get(name, 0)
            self._told[name] = times
            if new <= 0:
                continue
            self._view.note(f"    {event['reason']}: {event['message']}")
            if took := _COMMITTED.search(event["message"]):
                self.picture.handoffs += new * int(took[1] or 1)
                self.picture.longest_handoff = max(self.picture.longest_handoff, int(took[2]) / 1000)

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


@asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something beside the block; its failure ends the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        yield
        task.cancel()


async def play(environment: stage.Environment, directory: Path, view: View) -> tuple[Verdict, Picture]:
    """The whole demo."""
    namespace = unique("partymq-demo")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stage.delete_queues, f"partymq.{namespace}.")
        connection = await stack.enter_async_context(await aio_pika.connect(environment.amqp_url))
        view.step(f"installing the chart into the namespace {namespace}")
        cluster = await stack.enter_async_context(temporary_namespace(namespace))
        surroundings = await stack.enter_async_context(field(cluster, environment, GROUP, directory))
        await stack.enter_async_context(stage.operator(cluster, environment))
        demo = Demo(surroundings, Depths(connection), view)
        async with beside(demo.watch()):
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
            verdict = await surroundings.finish(producer)
            await demo.tell_events()
        view.step("cleaning up")
    return verdict, demo.picture


async def main(console: Console) -> int:
    """Play, show the verdict, and return the exit code."""
    # aio-pika reports what we cut short at the end; what matters here comes as an exception.
    logging.basicConfig(level=logging.ERROR)
    environment = stage.Environment.read()
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    directory = Path(tempfile.mkdtemp(prefix="partymq-demo-"))
    with View(console) as view:
        verdict, picture = await play(environment, directory, view)
    console.print(table(verdict, picture))
    for violation in verdict.violations:
        console.print(violation, highlight=False)
    if verdict.ok:
        shutil.rmtree(directory)
    else:
        console.print(f"The clients' reports are kept in {directory}", highlight=False)
    console.print(str(verdict), style="bold green" if verdict.ok else "bold red", highlight=False)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(Console())))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped; everything is cleaned up")
