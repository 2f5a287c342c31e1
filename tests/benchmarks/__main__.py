"""The command: `make bench`, or `make bench ARGS="throughput latency"`; `--help` says more."""

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import handoff, latency, lost, memory, page, rebalance, scale, steady, tables, throughput
from benchmarks.harness import Run, Section, broker_process, machine, versions
from benchmarks.results import Results
from partymq.amqp.topology import Topology
from support.group import address

SECTIONS: dict[str, Section] = {
    "rebalance": rebalance.measure,
    "throughput": throughput.measure,
    "latency": latency.measure,
    "handoff": handoff.measure,
    "scale": scale.measure,
    "memory": memory.measure,
    "steady": steady.measure,
    "lost": lost.measure,
}
ON_REQUEST = {"steady", "lost"}
JSON = Path("build/benchmarks.json")
TABLE = Path("build/benchmarks.md")


async def run(options: argparse.Namespace) -> None:
    """Runs the sections; what a section found is written when it is over, over what an earlier run found for it."""
    results, failed = Results(), list[str]()
    whole = _earlier() | {"machine": machine(), "versions": await versions()}
    topology = await Topology.open(address(), name="benchmark")
    with tempfile.TemporaryDirectory() as directory:
        made = Run(
            results=results,
            quick=options.quick,
            rounds=options.rounds or (1 if options.quick else 3),
            steady_seconds=options.seconds,
            directory=Path(directory),
            topology=topology,
            broker_pid=await broker_process(),
            say=_say,
        )
        for name in options.sections:
            results.section, begun = name, time.monotonic()
            try:
                await SECTIONS[name](made)
            except Exception:  # noqa: BLE001 - the other sections' figures are worth having
                traceback.print_exc()
                failed.append(name)
                continue
            gc.collect()
            _record(whole, name, made, seconds=time.monotonic() - begun)
            TABLE.write_text(tables.markdown(whole))
            print(tables.text(whole, name), flush=True)
    await topology.close()
    if failed:
        raise SystemExit(f"could not be measured: {', '.join(failed)}; the rest is in {JSON}")
    print(f"written: {JSON}, {TABLE}; `make bench ARGS=page` takes them into docs/benchmarks.md")


def _earlier() -> dict[str, Any]:
    if JSON.exists() and "sections" in (earlier := json.loads(JSON.read_text())):
        return dict(earlier)
    return {"sections": {}, "results": []}


def _record(whole: dict[str, Any], section: str, made: Run, *, seconds: float) -> None:
    others = [result for result in whole["results"] if result["section"] != section]
    whole["results"] = others + made.results.section_results(section)
    whole["sections"][section] = {
        "command": f"make bench ARGS={' '.join(sys.argv[1:])!r}" if sys.argv[1:] else "make bench",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "rounds": made.rounds,
        "quick": made.quick,
    }
    JSON.parent.mkdir(exist_ok=True)
    JSON.write_text(json.dumps(whole, indent=1) + "\n")


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def main() -> None:
    """Reads the command line."""
    standard = [name for name in SECTIONS if name not in ON_REQUEST]
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measures PartyMQ beside what a user might take in its place. "
        "Without sections: all but 'steady' and 'lost'.",
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; or 'page', alone")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the steady run; default: an hour")
    options = parser.parse_args()
    if options.sections == ["page"]:
        page.refresh(JSON)
        return
    options.sections = options.sections or standard
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}, and 'page', alone")
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
