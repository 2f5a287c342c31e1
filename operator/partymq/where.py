"""`partymq where NAMESPACE/GROUP KEY`: who has a key now, what stands before its next message, and what to do.

Invariant: all that it says comes from the PartitionGroup itself: whoever may read that may ask, and no broker is
needed. The picture is the last one that the operator wrote: depths are up to a minute old, all else some seconds.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from partymq.core import ranges
from partymq.core.keys import partition_of, text
from partymq.core.names import check_group
from partymq.core.spec import GroupId
from partymq.errors import InvalidSpecError, PartyMQError

if TYPE_CHECKING:
    from partymq.kube.client import Client

Body = Mapping[str, Any]

DONE: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2

_DESCRIPTION: Final = (
    "Says which partition a key is in, which pod has it, in what state that is, what stands before the key's next "
    "message, and what to do. Reads nothing but the PartitionGroup, with the kubeconfig."
)
_ADVICE: Final[Mapping[str, str]] = {
    "Stuck": "look at the pod's log; if it hangs, `kubectl delete pod -n {namespace} {pod}`: what it holds is "
    "delivered again, in order",
    "Absent": "`kubectl describe pod -n {namespace} {pod}` says why it is not ready; its partitions move when "
    "spec.members.rejoinSeconds are over",
    "Leaving": "nothing: its partitions move as soon as it has acknowledged what it holds",
}


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "where", help="say which pod has a key, and what it waits for", description=_DESCRIPTION
    )
    parser.add_argument("group", metavar="NAMESPACE/NAME", help="the PartitionGroup")
    parser.add_argument("key", metavar="KEY", help="a message's key, as text")
    parser.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server (KUBECONFIG; ~/.kube/config)")


def run(chosen: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    try:
        group = _group(chosen.group)
        with asyncio.Runner() as runner:
            lines = runner.run(_answered(group, chosen.key, chosen.kubeconfig))
        sys.stdout.write("\n".join(lines) + "\n")
    except InvalidSpecError as error:
        sys.stderr.write(f"partymq where: {error}\n")
        return BAD_INPUT
    except PartyMQError as error:
        sys.stderr.write(f"partymq where: {error}\n")
        return FAILED
    return DONE


def explain(body: Body, key: str) -> list[str]:
    """The answer for one key, in lines; raises InvalidSpecError for what is no key."""
    encoded = text(key)
    if encoded is None:
        raise InvalidSpecError("that is no key: an empty text counts as missing, and such messages go to any pod.")
    meta, status = body["metadata"], body.get("status") or {}
    count = (status.get("partitions") or {}).get("total") or body["spec"].get("partitions", 64)
    partition = partition_of(encoded, count)
    lines = [f"key        {key}", f"partition  {partition} of {count}"]
    owner = _owner(status, partition)
    lines.append(f"owner      {_described(owner)}" if owner else "owner      nobody")
    moving = [each for each in status.get("handoffs") or () if partition in ranges.parse(each.get("partitions") or "")]
    lines += [f"before it  {each}" for each in _before(status, owner, moving)]
    lines.append(f"what to do {_advice(meta['namespace'], status, owner, moving)}")
    return lines


def _group(given: str) -> GroupId:
    namespace, slash, name = given.partition("/")
    if not slash:
        raise InvalidSpecError(f"{given!r} is no group: write NAMESPACE/NAME, such as shop/orders.")
    group = GroupId(namespace=namespace, name=name)
    check_group(group)
    return group


async def _answered(group: GroupId, key: str, kubeconfig: str | None) -> list[str]:
    # Late: the API server's client takes a second to import.
    from partymq.kube.client import Client, configuration

    async with Client.connect(await configuration(kubeconfig)) as api:
        return explain(await read(api, group), key)


async def read(api: "Client", group: GroupId) -> Body:
    """The PartitionGroup; raises InvalidSpecError where there is none, and ApiError where the whole kind is missing."""
    from partymq.kube.client import ApiError

    try:
        return await api.read_group(group.namespace, group.name)
    except ApiError as error:
        if error.status != 404:
            raise
    try:
        await api.list_groups(group.namespace)
    except ApiError as error:
        if error.status == 404:  # not the group alone
            raise
        # Who may read it but not list them is told of the group: it is missing either way.
    raise InvalidSpecError(
        f"There is no PartitionGroup {group.name} in namespace {group.namespace}. "
        "`kubectl get partitiongroups -A` lists all."
    )


def _owner(status: Body, partition: int) -> Body | None:
    members = status.get("members") or ()
    return next((one for one in members if partition in ranges.parse(one.get("partitions") or "")), None)


def _described(owner: Body) -> str:
    waits = f", waits for {owner['waitingFor']}" if owner.get("waitingFor") else ""
    return f"{owner['name']}, {owner['state']} since {owner.get('since', 'an unknown time')}{waits}"


def _before(status: Body, owner: Body | None, moving: Sequence[Body]) -> list[str]:
    before = [
        f"a handoff: {handoff['donor']} gives it away since {handoff.get('since')}, waiting for {handoff['waitingFor']}"
        for handoff in moving
    ]
    if owner is not None and "ready" in owner:
        ready, backlog = owner["ready"], owner.get("backlog", 0)
        before.append(f"{ready} messages ready in the owner's inbox, {backlog} in the backlogs of its partitions")
    source = (status.get("messages") or {}).get("source")
    if source:
        before.append(f"{source} messages of all keys in the source")
    return before or ["nothing is known"]


def _advice(namespace: str, status: Body, owner: Body | None, moving: Sequence[Body]) -> str:
    ready = _condition(status, "Ready")
    if ready is None:
        return "no operator has taken the group up: look whether one runs"
    if ready["status"] != "True":
        return f"the group is not ready ({ready['reason']}): {ready['message']}"
    if owner is None:
        return "wait for a pod that is ready and consumes its inbox; `kubectl describe pgrp` says who is joining"
    if moving and owner["state"] == "Active":
        return f"mostly nothing; if it takes minutes, look whether {moving[0]['donor']} acknowledges what it holds"
    if advice := _ADVICE.get(owner["state"]):
        return advice.format(namespace=namespace, pod=owner["name"])
    if owner.get("backlog"):
        return "the pod is slower than what comes for it: more pods, or a faster one"
    return "nothing: messages of this key are handed on"


def _condition(status: Body, kind: str) -> Body | None:
    return next((one for one in status.get("conditions") or () if one["type"] == kind), None)
