"""How many groups there may be, and which of them are too many.

Invariant: the sum never exceeds a limit, a group that is routed is not sent away for another, and those that were there
first have what there is. A namespace that has too many keeps nobody else from having some.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from partymq.core.spec import MOST_PARTITIONS, GroupId, GroupSpec
from partymq.kube.resource import Resource
from partymq.limits import Limits


def surplus(resources: Iterable[Resource], limits: Limits, *, routed: Collection[GroupId]) -> Mapping[GroupId, str]:
    """The groups that are too many, each with the reason, a sentence; those that are `routed` here stay."""
    groups: Counter[str] = Counter()
    partitions: Counter[str] = Counter()
    refused = {}
    wanting = (one for one in resources if not one.deleting)
    for resource in sorted(wanting, key=lambda one: (one.group not in routed, one.created, one.uid)):
        namespace, wanted = resource.group.namespace, _partitions(resource)
        why = _why(
            limits,
            groups=(groups[namespace], groups.total()),
            partitions=(partitions[namespace] + wanted, partitions.total() + wanted),
        )
        if why:
            refused[resource.group] = why
        else:
            groups[namespace] += 1
            partitions[namespace] += wanted
    return refused


def _why(limits: Limits, *, groups: tuple[int, int], partitions: tuple[int, int]) -> str:
    if groups[0] >= limits.groups_in_namespace:
        return (
            f"this namespace has {groups[0]} PartitionGroups that are older, which is the operator's limit "
            "`groups-in-namespace`: delete one, or have the limit raised (docs/limits.md)"
        )
    if partitions[0] > limits.partitions_in_namespace:
        return (
            f"the PartitionGroups of this namespace would have {partitions[0]} partitions together, and the operator's "
            f"limit `partitions-in-namespace` is {limits.partitions_in_namespace}: ask for fewer in spec.partitions, "
            "delete a group, or have the limit raised (docs/limits.md)"
        )
    if groups[1] >= limits.groups:
        return (
            f"the operator routes {groups[1]} PartitionGroups that are older, which is its limit `groups`: have it "
            "raised, or another operator serve this namespace (docs/limits.md)"
        )
    if partitions[1] > limits.partitions:
        return (
            f"all PartitionGroups would have {partitions[1]} partitions together, and the operator's limit "
            f"`partitions` is {limits.partitions}: have it raised, or another operator serve this namespace "
            "(docs/limits.md)"
        )
    return ""


def _partitions(resource: Resource) -> int:
    """What the spec says, as far as it can be read."""
    wanted = resource.spec.get("partitions", GroupSpec(source_queue="").partitions)
    return wanted if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 < wanted <= MOST_PARTITIONS else 0
