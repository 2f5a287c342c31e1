"""A run's figures as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any


def text(whole: Mapping[str, Any], section: str) -> str:
    """One section's figures, for a terminal."""
    rows = [
        f"  {one['name']:<48} {number(one['value']):>10} {one['unit']:<10} {_spread(one):<20} {_ratios(one)}".rstrip()
        for one in whole["results"]
        if one["section"] == section
    ]
    return "\n".join([section, *rows])


def markdown(whole: Mapping[str, Any]) -> str:
    """Everything, as Markdown: machine, versions, a table for each section."""
    parts = [facts(whole)]
    for section, run in whole["sections"].items():
        parts += [f"## {section}", measured(run), all_figures(whole, section)]
    return "\n\n".join(parts) + "\n"


def facts(whole: Mapping[str, Any]) -> str:
    """The machine and the versions, as a list."""
    machine, versions = whole["machine"], whole["versions"]
    return (
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        "the broker on the same machine\n"
        f"- RabbitMQ {versions['rabbitmq']} (Erlang {versions['erlang']}), Python {versions['python']}, "
        + ", ".join(f"{name} {versions[name]}" for name in versions if name not in ("rabbitmq", "erlang", "python"))
    )


def measured(run: Mapping[str, Any]) -> str:
    """When and how a section was measured."""
    smoke = " **A smoke run: these figures mean nothing.**" if run["quick"] else ""
    rounds = f"{run['rounds']} round{'' if run['rounds'] == 1 else 's'}"
    return f"`{run['command']}`, {run['at']}, {rounds}, {run['seconds']:.0f} s.{smoke}"


def all_figures(whole: Mapping[str, Any], section: str) -> str:
    """A section's figures."""
    rows = [
        [f"`{one['name']}`", number(one["value"]), one["unit"], _spread(one), _ratios(one)]
        for one in whole["results"]
        if one["section"] == section
    ]
    return table(("name", "median", "unit", "min to max", "times"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all but the first column to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _spread(one: Mapping[str, Any]) -> str:
    if len(one["rounds"]) == 1:
        return ""
    return f"{number(one['min'])} to {number(one['max'])}"


def _ratios(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{ratio:.2f}x {label}" for label, ratio in one["ratios"].items())
