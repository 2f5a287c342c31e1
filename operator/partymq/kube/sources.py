"""One source, one group.

Invariant: of the groups that name one queue of one broker, exactly one may route it, and all replicas say the same one:
the first that was there. A group that comes to the source by a change of its spec comes after those that were there
already; a restart of the operator changes nothing.
"""

from collections.abc import Iterable

from partymq.core.spec import BrokerAddress, GroupId
from partymq.errors import SourceTakenError
from partymq.kube.resource import Body, Resource


def rival(
    resource: Resource, broker: BrokerAddress, others: Iterable[tuple[Resource, BrokerAddress | None]]
) -> GroupId | None:
    """The group to which the source of `resource` belongs; None where that is its own.

    `others` are all groups that are known, this one among them, with their brokers as far as these are known.
    """
    source = _source(resource)
    same = [
        other
        for other, address in others
        if other.group != resource.group
        and _source(other) == source
        and not other.deleting
        and (_secret(other) == _secret(resource) or (address is not None and _same_broker(address, broker)))
    ]
    first = min(same, key=_rank, default=None)
    return first.group if first is not None and _rank(first) < _rank(resource) else None


def _rank(resource: Resource) -> tuple[int, str, str]:
    """Less for those who were there before: settled ones, then new or changed ones, then those that were refused."""
    status = resource.status
    ready: Body = next((one for one in status.get("conditions") or () if one.get("type") == "Ready"), {})
    refused = ready.get("reason") == SourceTakenError.reason
    settled = status.get("observedGeneration") == resource.generation
    return 2 if refused else int(not settled), resource.created, resource.uid


def _source(resource: Resource) -> object:
    return (resource.spec.get("source") or {}).get("queue")


def _secret(resource: Resource) -> object:
    broker = resource.spec.get("broker") or {}
    return resource.group.namespace, (broker.get("connectionSecret") or {}).get("name")


def _same_broker(one: BrokerAddress, other: BrokerAddress) -> bool:
    return one.vhost == other.vhost and not set(one.nodes).isdisjoint(other.nodes)
