"""A group's spec and broker, asked for once by a command that a person runs."""

from partymq.core.spec import BrokerAddress, GroupId, GroupSpec
from partymq.errors import InvalidSpecError
from partymq.kube.client import Client, configuration
from partymq.kube.connection_secret import ConnectionSecret
from partymq.kube.resource import group_spec, resource, secret_name


async def look_up(group: GroupId, kubeconfig: str | None) -> tuple[GroupSpec, BrokerAddress]:
    """What the PartitionGroup and its Secret say; a PartyMQError says why that cannot be known."""
    async with Client.connect(await configuration(kubeconfig)) as api:
        found = [read for read in map(resource, await api.list_groups(group.namespace)) if read.group == group]
        if not found:
            raise InvalidSpecError(
                f"There is no PartitionGroup {group.name} in namespace {group.namespace}. "
                "`kubectl get partitiongroups -A` lists all; --uri needs none."
            )
        spec = found[0].spec
        address = await ConnectionSecret(api, group.namespace).address(secret_name(spec), trouble=False)
        return group_spec(group, spec), address
