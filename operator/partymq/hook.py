"""`partymq hook pre-delete` and `partymq hook post-delete`: what the chart runs when it is uninstalled.

Invariant: a hook ends within its time, and says in one sentence what it could not do.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any, Final

from partymq.errors import PartyMQError

DONE: Final = 0
FAILED: Final = 1

_DESCRIPTION: Final = (
    "What the Helm chart runs when it is uninstalled. pre-delete: delete all PartitionGroups, with their queues, while "
    "the operator is there (only with crds.keep=false). post-delete: once its pods are gone, say so in the status of "
    "every group."
)


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("hook", help="run by the chart when it is uninstalled", description=_DESCRIPTION)
    parser.add_argument("hook", choices=("pre-delete", "post-delete"), metavar="HOOK", help="pre-delete or post-delete")
    parser.add_argument(
        "--namespace", "-n", action="append", default=[], metavar="NAME",
        help="a namespace that the operator serves; may be given several times (default: all)",
    )  # fmt: skip
    parser.add_argument("--selector", type=_labels, default={}, metavar="NAME=VALUE,...", help="the operator's pods")
    parser.add_argument("--within", type=float, default=60.0, metavar="SECONDS", help="how long to wait for them (60)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server (KUBECONFIG; ~/.kube/config)")


def run(chosen: argparse.Namespace) -> int:
    """Run the hook; its exit code."""
    try:
        with asyncio.Runner() as runner:
            runner.run(_run(chosen))
    except PartyMQError as error:
        sys.stderr.write(f"partymq hook {chosen.hook}: {error}\n")
        return FAILED
    return DONE


async def _run(chosen: argparse.Namespace) -> None:
    # Late: the API server's client takes a second to import.
    from partymq.kube.client import Client, configuration
    from partymq.kube.replicas import home
    from partymq.kube.uninstall import delete_groups, say_last_word

    namespaces = tuple(chosen.namespace)
    async with Client.connect(await configuration(chosen.kubeconfig)) as api:
        if chosen.hook == "pre-delete":
            await delete_groups(api, namespaces=namespaces, within=chosen.within)
        else:
            await say_last_word(
                api, home=home(namespaces), selector=chosen.selector, namespaces=namespaces, within=chosen.within
            )


def _labels(text: str) -> Mapping[str, str]:
    labels = dict(part.partition("=")[::2] for part in text.split(","))
    if not all(labels) or not all(labels.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of labels: write NAME=VALUE,NAME=VALUE")
    return labels
