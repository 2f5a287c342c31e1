"""Random faults under load, from a seed: `make soak SECONDS=600 SEED=7`; the last line is the auditor's."""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import monotonic

from rich.console import Console
from rich.table import Table

from soak.faults import FAULTS, FEWEST, REJOIN, Fault, chosen, draw, join
from soak.load import Load
from soak.nodes import Nodes
from soak.outages import rows
from soak.world import World
from support.broker import ONE_ACTIVE_CONSUMER, QUORUM
from support.cluster import NODES, Cluster
from support.group import SOURCE, group
from support.verdict import Verdict

CALM_EVERY = 60.0
"""Seconds of faults, after which everything must come to rest."""
PICTURE_EVERY = 10.0
STUCK_AFTER = 60.0
"""Seconds without an acknowledgement after which what is left will not be handled any more."""
AT_ONCE = 5


async def storm(world: World, faults: Sequence[Fault], seed: int, seconds: float) -> None:
    """Faults until the time is over, with a calm now and then in which nothing may be left on its way."""
    ends, step = monotonic() + seconds, 0
    running = asyncio.Semaphore(AT_ONCE)

    async def run_one(fault: Fault, rng: Random) -> None:
        try:
            await fault.act(world, rng)
        finally:
            running.release()

    while monotonic() < ends:
        calm = min(ends, monotonic() + CALM_EVERY)
        async with asyncio.TaskGroup() as tasks:
            while monotonic() < calm:
                step += 1
                # A generator for each step: how long a fault takes must not change what is drawn next.
                rng = Random(f"{seed}/{step}")
                await asyncio.sleep(rng.uniform(0.1, 1.2))
                await running.acquire()
                fault = draw(faults, world, rng)
                if fault is None:
                    running.release()
                    continue
                world.done[fault.name] += 1
                tasks.create_task(run_one(fault, rng), name=fault.name)
        await world.settled()


async def watch(world: World) -> None:
    """Says now and then how far it is."""
    while True:
        await asyncio.sleep(PICTURE_EVERY)
        confirmed, acked = world.group.spool.counts()
        world.say(
            f"{confirmed} messages, {acked} acks, {world.handoffs} handoffs, {world.kills} kills, "
            f"{len(world.pods)} pods, epoch {world.epoch}"
        )


async def run(world: World, faults: Sequence[Fault], seed: int, seconds: float) -> None:
    """The whole run, until every confirmed message is acknowledged."""
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(world))
        producing = tasks.create_task(world.load.run())
        await world.start_router()
        for step in range(FEWEST):
            world.done["join"] += 1
            await join(world, Random(f"{seed}/pod {step}"))
        await storm(world, faults, seed, seconds)
        world.say("the last messages")
        world.load.stop()
        await producing
        try:
            await world.group.spool.settled(STUCK_AFTER)
        except AssertionError as error:
            raise AssertionError(f"{error}: {[router.report for router in world.running]}") from error
        world.say("everybody leaves")
        await asyncio.gather(*(pod.terminate() for pod in world.pods.values()))
        for router in world.running:
            await router.stop()
        watching.cancel()


def show(console: Console, world: World, verdict: Verdict) -> None:
    """The report."""
    table = Table(title="faults", show_header=False)
    for name in [fault.name for fault in FAULTS if world.done[fault.name]]:
        table.add_row(name, str(world.done[name]))
    for name in sorted(world.done.keys() - {fault.name for fault in FAULTS}):
        table.add_row(name, str(world.done[name]))
    table.add_row("handoffs", str(world.handoffs), style="bold")
    table.add_row("kills", str(world.kills), style="bold")
    console.print(table)
    table = Table(title="audit", show_header=False)
    for name, value in verdict.rows():
        table.add_row(name, value)
    console.print(table)
    if world.outages:
        table = Table(
            title="from a fault of a node to the next acknowledgement once a session routes", show_header=False
        )
        for name, value in rows(world.outages, world.group.spool.events()):
            table.add_row(name, value)
        console.print(table)
    for violation in verdict.violations:
        console.print(violation, highlight=False, soft_wrap=True)


def sentences(error: BaseException) -> list[str]:
    """What went wrong, of a whole group of errors."""
    if isinstance(error, BaseExceptionGroup):
        return [sentence for part in error.exceptions for sentence in sentences(part)]
    return [str(error) or repr(error)]


def source_of(kind: str, seed: int, rng: Random) -> dict[str, object] | None:
    """The arguments of the source, by `--source` or by the seed; a quorum queue has the default delivery limit."""
    if kind == "quorum" or (not kind and seed % 2):
        return {**rng.choice([QUORUM, ONE_ACTIVE_CONSUMER])}
    return None


async def main(seed: int, seconds: float, faults: Sequence[Fault], kind: str, cluster: Cluster) -> int:
    """Run, show, and say how it ended."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    directory, nodes = Path(tempfile.mkdtemp(prefix="partymq-soak-")), Nodes(cluster, seed=seed)
    await nodes.up()
    rng = Random(f"{seed}/group")
    source = source_of(kind, seed, rng)
    settings = {
        "partitions": 16,
        "inbox_window": rng.choice([16, 64, 256]),
        "backlog_limit": rng.choice([1000, 100_000]),
        "rejoin_seconds": REJOIN,
    }
    print(f"seed {seed}: source {source}, {settings}; reports in {directory}", flush=True)
    failure = ""
    async with (
        nodes.address() as address,
        group(directory, broker=address, urls=nodes.url_for, source_arguments=source, **settings) as made,
    ):
        world = World(
            group=made,
            nodes=nodes,
            load=Load(made, rate=150, keys=200),
            zombies=os.environ.get("PARTYMQ_BROKER_VERSION", "") == "4.3",
            source_node=None if source else nodes.preferred(SOURCE),
        )
        try:
            await run(world, faults, seed, seconds)
        except* (AssertionError, TimeoutError) as errors:
            failure = "; ".join(sentences(errors))
            world.say(f"FAILED: {failure}")
            traceback.print_exception(errors)
    verdict = made.spool.audit()
    show(Console(), world, verdict)
    if verdict.ok and not failure:
        shutil.rmtree(directory)
        await nodes.down()
    else:
        print(f"the clients' reports are kept in {directory}")
    print(f"seed {seed}")
    if failure:
        print(f"AUDIT failed: {failure}")
        return 1
    print(verdict)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--faults", default="", help="names, with commas: +name beside the usual ones, -name without it, or only these"
    )
    parser.add_argument("--source", choices=["classic", "quorum"], default="", help="by default the seed says")
    parser.add_argument("--nodes", type=int, choices=[1, NODES], default=1, help="the broker's; of three, some go away")
    parser.add_argument("--instance", default="soak", help="its broker: two soaks side by side need two")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    try:
        faults = chosen(arguments.faults)
    except ValueError as error:
        parser.error(str(error))
    cluster = Cluster(arguments.instance, arguments.nodes)
    try:
        sys.exit(asyncio.run(main(seed, arguments.seconds, faults, arguments.source, cluster)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped")
