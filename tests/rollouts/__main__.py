"""The command: `make rollouts`, or `make rollouts ARGS="surge all --times 3"`; `--help` says more."""

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rollouts.measure import Cost, measure
from rollouts.rows import ROWS, Row
from support import stage
from support.broker import unique
from support.kube import temporary_namespace

TABLE = Path("build/rollouts.md")
HEADER = (
    "| rollout | moved | handoffs | most of one partition | longest pause of a key | a new pod consumes after | CPU |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)


def line(row: Row, cost: Cost) -> str:
    """A line of the table."""
    starts = f"{cost.starts[0]:.1f} to {cost.starts[-1]:.1f} s"
    figures = (cost.moves.moved, cost.moves.handoffs, cost.moves.most, f"{cost.waits.longest:.2f} s", starts)
    return f"| {row.title} | {' | '.join(map(str, figures))} | {cost.busy:.0%} |"


def story(cost: Cost) -> str:
    """What the table has no room for."""
    return (
        f"  {cost.took:.0f} s; the longest pause began after {cost.waits.at:.1f} s, 99 % were below "
        f"{cost.waits.p99:.3f} s; nobody consumed for {cost.nobody:.2f} s; NoMembers while somebody did for "
        f"{cost.untrue:.2f} s; new pods consumed after {', '.join(f'{start:.1f}' for start in cost.starts)} s\n"
    ) + "\n".join(f"  {text}" for text in cost.told if text.startswith("Rollout"))


def missed(row: Row, cost: Cost) -> list[str]:
    """The limits that it is beyond."""
    pairs = {
        "moved": (cost.moves.moved, row.moved),
        "handoffs": (cost.moves.handoffs, row.handoffs),
        "most of one partition": (cost.moves.most, row.most),
        "longest pause": (round(cost.waits.longest, 2), row.pause),
    }
    return [f"  MISSED {what}: {value:g}, not {limit:g}" for what, (value, limit) in pairs.items() if value > limit > 0]


async def main(names: list[str], times: int) -> int:
    """All rows; the exit code says whether a limit was missed."""
    logging.basicConfig(level=logging.ERROR)
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    environment, directory = stage.Environment.read(), Path(tempfile.mkdtemp(prefix="partymq-rollouts-"))
    lines, failed = [HEADER], False
    namespace = unique("partymq-rollouts")
    async with temporary_namespace(namespace) as cluster, stage.operator(cluster, environment):
        for name in names * times:
            row = ROWS[name]
            cost = await measure(cluster, environment, row, directory)
            lines.append(line(row, cost))
            misses = missed(row, cost)
            failed = failed or bool(misses)
            print(lines[-1], story(cost), *misses, sep="\n", flush=True)
    await stage.delete_queues(f"partymq.{namespace}.")
    shutil.rmtree(directory)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make rollouts", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all of them by default")
    parser.add_argument("--times", type=int, default=1, help="how often each")
    options = parser.parse_args()
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    try:
        sys.exit(asyncio.run(main(options.rows or [*ROWS], options.times)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped; everything is cleaned up")
