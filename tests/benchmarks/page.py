"""From `build/benchmarks.json` to `docs/benchmarks.md` and its pictures: `make bench ARGS=page`.

Invariant: the page's text is a person's, its figures are a run's: only what stands between two markers is written, and
never from a smoke run. A section that was not run keeps what it shows.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import memory, plots, tables
from benchmarks.plots import Figures

PAGE = Path("docs/benchmarks.md")
PICTURES = Path("docs/benchmarks")

_BESIDE = ("shovel", "shovel to quorum", "shovel without TCP", "aio-pika", "none")


def refresh(results: Path) -> None:
    """Brings the page up to date; it is an error if there is nothing that may be shown."""
    if not results.exists():
        raise SystemExit(f"{results} does not exist: run `make bench` first")
    whole = json.loads(results.read_text())
    smoke = [name for name, run in whole["sections"].items() if run["quick"]]
    if smoke:
        raise SystemExit(f"{results} has figures of a smoke run ({', '.join(smoke)}): run these without --quick")
    figures = {one["name"]: one for one in whole["results"]}
    drawn = {path.stem for path in plots.draw(figures, PICTURES)}
    page = fill(PAGE.read_text(), "machine", tables.facts(whole))
    for section in whole["sections"]:
        picture = [f"![{section}](benchmarks/{section}.svg)"] if section in drawn else []
        parts = [tables.measured(whole["sections"][section]), *picture, BLOCKS[section](figures)]
        page = fill(page, section, "\n\n".join(part for part in parts if part))
    everything = "\n\n".join(f"### {name}\n\n{tables.all_figures(whole, name)}" for name in whole["sections"])
    PAGE.write_text(fill(page, "everything", everything))
    print(f"written: {PAGE} and {len(drawn)} pictures in {PICTURES}/")


def fill(page: str, block: str, text: str) -> str:
    """The page with another text between a block's markers."""
    pattern = re.compile(rf"(<!-- {block}: .*? -->\n).*?(\n<!-- end of {block} -->)", re.DOTALL)
    filled, count = pattern.subn(lambda found: found[1] + text + found[2], page)
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} blocks {block!r}: there should be one")
    return filled


def _throughput(figures: Figures) -> str:
    rows = []
    for source in ("classic", "quorum"):
        for size in ("100B", "800B", "16KiB"):
            for key, name in (("header", "header"), ("body", "body"), ("header", "header.consumed")):
                ours = figures[f"throughput.{source}.{size}.{name}"]
                rows.append(
                    [
                        f"{source}, {size}, key in {key}{', with consumers' if name.endswith('consumed') else ''}",
                        tables.number(ours["value"]),
                        tables.number(figures[f"cpu.{source}.{size}.{name}"]["value"]),
                        *(_beside(ours, label) for label in _BESIDE),
                    ]
                )
    head = ("source, body, key", "msg/s", "CPU, us/msg", *_BESIDE[:-1], "no router")
    return tables.table(head, rows)


def _beside(ours: Mapping[str, Any], label: str) -> str:
    other = ours["compared_with"][label]
    return f"{tables.number(other)} ({ours['ratios'][label]:.2f}x)"


def _latency(figures: Figures) -> str:
    rows = [
        [
            f"{percent} % ({tables.number(figures['latency.capacity']['value'] * percent / 100)} msg/s), {percentile}",
            *(
                tables.number(figures[f"latency.{level}.{kind}.{percentile}"]["value"])
                for kind in ("none", "quorum", "routed", "added")
            ),
        ]
        for percent, level in ((10, "tenth"), (50, "half"), (90, "nine-tenths"))
        for percentile in ("p50", "p99", "max")
    ]
    head = ("of the capacity", "a classic queue, ms", "a quorum queue, ms", "through PartyMQ, ms", "added, ms")
    return tables.table(head, rows)


def _handoff(figures: Figures) -> str:
    rows = []
    for change in ("3to4", "10to9"):
        for backlog in ("backlog0", "backlog10k", "backlog100k"):
            for work in ("idle", "0ms", "1ms", "20ms"):
                name = f"{backlog}.{change}.{work}"
                if (commit := figures.get(f"handoff.commit.{name}")) is None:
                    continue
                pauses = [figures.get(f"handoff.pause.{name}.{what}") for what in ("p50", "max", "otherwise")]
                rows.append(
                    [
                        f"{change.replace('to', ' to ')}, {backlog.removeprefix('backlog')}, {work}",
                        *("" if time is None else f"{time['value']:,.0f}" for time in (commit, *pauses)),
                    ]
                )
    head = ("members, backlog, a message takes", "commit, ms", "pause p50, ms", "pause max, ms", "otherwise, ms")
    return tables.table(head, rows)


def _rebalance(figures: Figures) -> str:
    rows = []
    for method in ("ideal", "partymq", "ring", "x-consistent-hash", "blocks", "modulo"):
        excess = figures.get(f"rebalance.excess.{method}")
        moved = tables.number(figures[f"rebalance.moved.{method}"]["value"])
        rows.append([method, moved, "" if excess is None else tables.number(excess["value"])])
    return tables.table(("", "moved, % a change", "fullest member over its share, %"), rows)


def _scale(figures: Figures) -> str:
    sizes = [name.removeprefix("plan.") for name in figures if name.startswith("plan.")]
    growing = [
        [size, *(tables.number(figures[f"{what}.{size}"]["value"]) for what in ("plan", "ledger", "status"))]
        for size in sizes
    ]
    groups = [name.removesuffix(".rss") for name in figures if re.fullmatch(r"idle\.\d+groups\.rss", name)]
    idle = [
        [
            group.removeprefix("idle.").removesuffix("groups"),
            *(
                tables.number(figures[f"{group}.{what}"]["value"]) if f"{group}.{what}" in figures else ""
                for what in ("start", "cpu", "cpu.broker", "rss")
            ),
        ]
        for group in groups
    ]
    return "\n\n".join(
        (
            tables.table(("partitions x members", "plan, ms", "ledger, KiB", "status, KiB"), growing),
            tables.table(("idle groups", "start, s", "CPU, of a core", "the broker's", "memory, MiB"), idle),
        )
    )


def _memory(figures: Figures) -> str:
    rows = [
        [size, *(tables.number(figures[f"memory.peak.{size}.{pace}"]["value"]) for pace in memory.PACES)]
        for size in memory.SIZES
    ]
    return tables.table(("messages of", *(f"peak, {pace} members, MiB" for pace in memory.PACES)), rows)


def _steady(figures: Figures) -> str:
    rows = [
        [name, tables.number(figures[f"steady.{name}"]["value"]), figures[f"steady.{name}"]["unit"]]
        for name in ("throughput", "cpu", "rss", "rss.slope")
    ]
    return tables.table(("", "", "unit"), rows)


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "throughput": _throughput,
    "latency": _latency,
    "handoff": _handoff,
    "rebalance": _rebalance,
    "scale": _scale,
    "memory": _memory,
    "steady": _steady,
}
