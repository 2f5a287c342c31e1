"""The soak's broker: one node, or a cluster of three, and which of them are away.

Invariant: nobody is sent to a node that is known to be away, while another one is there; `clock` counts no second in
which one is away, so a wait that is measured by it ends when something is stuck, and not when a node is.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from time import monotonic
from urllib.parse import urlsplit
from zlib import crc32

from partymq.amqp.address import parse_uri
from partymq.core.spec import BrokerAddress
from support.cluster import Cluster
from support.own_broker import OwnBroker
from support.proxy import proxy


class Nodes:
    """A cluster's nodes; `up` first."""

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self._cluster = cluster
        self._seed = seed
        self._names: dict[OwnBroker, str] = {}
        self._away: set[OwnBroker] = set()
        self._counted = 0.0
        self._since = monotonic()
        """Seconds with all nodes up to here, and when that was counted last."""

    async def up(self) -> None:
        """Start them."""
        await self._cluster.up()
        self._names = {node: await node.name() for node in self.all}

    def ticking(self, seconds: int) -> AbstractAsyncContextManager[None]:
        """See `Cluster.ticking`; all nodes are there."""
        return self._cluster.ticking(seconds)

    async def down(self) -> None:
        """Stop them, and drop what they have."""
        await self._cluster.down()

    @property
    def all(self) -> list[OwnBroker]:
        """All nodes, by number."""
        return self._cluster.nodes

    @property
    def healed(self) -> list[OwnBroker]:
        """Those that start anew when `ticking` is over."""
        return self._cluster.healed

    @property
    def several(self) -> bool:
        """Whether one may be away while others go on."""
        return len(self.all) > 1

    # --- which of them are there

    @property
    def whole(self) -> bool:
        """Whether no node is away."""
        return not self._away

    @property
    def some(self) -> OwnBroker:
        """A node that is not away."""
        return next((node for node in self.all if node not in self._away), self.all[0])

    def clock(self) -> float:
        """Seconds in which no node was away."""
        now = monotonic()
        if self.whole:
            self._counted += now - self._since
        self._since = now
        return self._counted

    def leave(self, nodes: Iterable[OwnBroker]) -> None:
        """They are about to be away."""
        self.clock()
        self._away.update(nodes)

    def back(self, nodes: Iterable[OwnBroker]) -> None:
        """They are there again."""
        self.clock()
        self._away.difference_update(nodes)

    # --- where things go

    @property
    def url(self) -> str:
        """The address of a node that is there."""
        return self.some.url

    def preferred(self, name: str) -> OwnBroker:
        """The node that something of that name goes to, by the seed."""
        return self.all[crc32(f"{self._seed}/{name}".encode()) % len(self.all)]

    def url_for(self, name: str) -> str:
        """The address that something of that name connects to: its node's, or the next one's that is there."""
        first = self.all.index(self.preferred(name))
        after = [*self.all[first:], *self.all[:first]]
        return next((node for node in after if node not in self._away), after[0]).url

    @asynccontextmanager
    async def address(self) -> AsyncIterator[BrokerAddress]:
        """The router's: all nodes in one URI, and their management APIs behind a balancer that leaves out who is away.

        A Secret names one management API, which in production is a Service of the cluster.
        """
        hosts = ",".join(urlsplit(node.url).netloc.rpartition("@")[2] for node in self.all)
        first = urlsplit(self.all[0].management_url)

        def port() -> int:
            return urlsplit(self.some.management_url).port or 0

        async with proxy("127.0.0.1", port) as balancer:
            management = f"http://{first.username}:{first.password}@127.0.0.1:{balancer.port}"
            yield replace(parse_uri(f"amqp://guest:guest@{hosts}/"), management_uri=management)

    # --- connections

    async def connections(self) -> dict[str, str]:
        """What clients call themselves -> the broker's name of the connection, at all nodes that are there."""
        return await self.some.connections()

    async def close(self, connection: str) -> None:
        """Have the broker close a connection by its name; one that is gone is no error."""
        await self.some.close(connection)

    async def nodes_of(self, client: str) -> list[OwnBroker]:
        """The nodes that a client of exactly that name is connected to; the management API may be seconds behind."""
        found = await self.some.nodes_of(client, exactly=True)
        return [node for node in self.all if self._names[node] in found]
