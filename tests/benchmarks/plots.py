"""A run's figures as pictures: SVG, the same bytes for the same figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("Agg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "partymq",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#dddddd",
        "axes.titlesize": "medium",
        "legend.frameon": False,
        "legend.fontsize": "small",
    }
)
_OURS, _OURS_TOO, _OTHERS = "#0b6e4f", "#5bb98c", ("#3d5a80", "#98c1d9", "#e07a5f", "#bbbbbb", "#6f8fb5")

Figures = Mapping[str, Mapping[str, Any]]
"""A run's results by name."""


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Draws whatever there are figures for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, drawing in {
        "throughput": _throughput,
        "latency": _latency,
        "handoff": _handoff,
        "rebalance": _rebalance,
    }.items():
        if any(figure["section"] == name for figure in figures.values()):
            path = folder / f"{name}.svg"
            drawing(figures).savefig(path, metadata={"Date": None}, bbox_inches="tight")
            drawn.append(path)
    return drawn


def _throughput(figures: Figures) -> Figure:
    sizes = ("100B", "800B", "16KiB")
    bars = (
        ("PartyMQ", "header", _OURS),
        ("PartyMQ, with consumers", "header.consumed", _OURS_TOO),
        ("shovel", "shovel", _OTHERS[0]),
        ("shovel to a quorum queue", "shovel-quorum", _OTHERS[1]),
        ("shovel without TCP", "shovel-direct", _OTHERS[4]),
        ("router on aio-pika", "header.aio-pika", _OTHERS[2]),
        ("no router", "none", _OTHERS[3]),
    )
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, source in zip(panels, ("classic", "quorum"), strict=True):
        named = [
            (label, [f"throughput.{source}.{size}.{name}" for size in sizes], color) for label, name, color in bars
        ]
        _bars(axes, sizes, named, figures)
        axes.set_title(f"{source} source")
        axes.set_xlabel("body")
    panels[0].set_ylabel("messages a second")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _latency(figures: Figures) -> Figure:
    levels = {"10 %": "tenth", "50 %": "half", "90 %": "nine-tenths"}
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, percentile in zip(panels, ("p50", "p99"), strict=True):
        named = [
            (label, [f"latency.{level}.{kind}.{percentile}" for level in levels.values()], color)
            for label, kind, color in (("through PartyMQ", "routed", _OURS), ("no router", "none", _OTHERS[3]))
        ]
        _bars(axes, list(levels), named, figures)
        axes.set_title(f"publish to consume, {percentile}")
        axes.set_xlabel("of the capacity")
        axes.set_ylabel("milliseconds")
    panels[0].legend()
    return figure


def _handoff(figures: Figures) -> Figure:
    backlogs = {"none": "backlog0", "10 000": "backlog10k", "100 000": "backlog100k"}
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, change in zip(panels, ("3to4", "10to9"), strict=True):
        named = [
            (
                f"{work} ms a message",
                [f"handoff.commit.{backlog}.{change}.{work}ms" for backlog in backlogs.values()],
                color,
            )
            for work, color in ((0, _OURS), (1, _OURS_TOO), (20, _OTHERS[1]))
        ]
        _bars(axes, list(backlogs), named, figures)
        axes.set_title(f"{change.replace('to', ' to ')} members")
        axes.set_xlabel("backlog (messages)")
    panels[0].set_ylabel("plan to commit, milliseconds")
    panels[0].legend()
    return figure


def _rebalance(figures: Figures) -> Figure:
    methods = ("ideal", "partymq", "ring", "x-consistent-hash", "blocks", "modulo")
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    values = [figures[f"rebalance.moved.{method}"]["value"] for method in methods]
    bars = axes.bar(methods, values, color=[_OURS if method == "partymq" else _OTHERS[3] for method in methods])
    axes.bar_label(bars, fmt="%.1f")
    axes.set_ylabel("% of the partitions that move\nwhen one member comes or goes")
    return figure


def _bars(axes: Axes, groups: Sequence[str], named: Sequence[tuple[str, list[str], str]], figures: Figures) -> None:
    """Bars in groups, from the smallest to the largest round a thin line."""
    width = 0.8 / len(named)
    for n, (label, names, color) in enumerate(named):
        shown = [figures[name] for name in names]
        values = [figure["value"] for figure in shown]
        spread = [
            [figure["value"] - figure["min"] for figure in shown],
            [figure["max"] - figure["value"] for figure in shown],
        ]
        places = [group + (n - (len(named) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(
            places, values, width * 0.92, yerr=spread, label=label, color=color,
            error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
        )  # fmt: skip
    axes.set_xticks(range(len(groups)), groups)
