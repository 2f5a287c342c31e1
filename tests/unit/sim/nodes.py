"""The nodes of the simulated broker, one of which may be lost, and what its management API shows of them.

Invariant: at most one is lost at a time, and never the one that producers and a classic source are on. Queues have a
majority on the others; who leads them says nothing for a moment.
"""

import asyncio
from collections.abc import Collection
from random import Random
from typing import TYPE_CHECKING, Final

from partymq.amqp.lost_nodes import Sight
from partymq.errors import BrokerError

if TYPE_CHECKING:
    from unit.sim.world import World

STEADY: Final = ""
"""The node that is never lost."""
LOSABLE: Final = ("one", "two")
COLLECTED_EVERY: Final = 5.0
"""Seconds between two collections of the consumers that the management API shows."""
ELECTED_WITHIN: Final = 2.0
"""Seconds until a queue has a leader again."""
STARTS_WITHIN: Final = 2.0
"""Seconds from the moment in which a node is seen by the others until it takes connections."""


class Nodes:
    """Those of one world."""

    def __init__(self, world: "World", *, several: bool) -> None:
        self._world = world
        self._several = several
        self._random: Random = world.random
        self.lost = ""
        self._shown: dict[str, int] = {}
        """By queue, the consumers on nodes that run, as they were collected last."""
        self._timer: asyncio.TimerHandle | None = None

    def place(self, beside: str | None = None) -> str:
        """The node that a new connection goes to: the one of another connection, if it is there."""
        if not self._several:
            return STEADY
        if beside is not None and beside != self.lost:
            return beside
        return self._random.choice([STEADY, *(node for node in LOSABLE if node != self.lost)])

    def lose(self, node: str, seconds: float) -> None:
        """The node is killed, and is there again after so many seconds."""
        if not self._several or self.lost or node == STEADY:
            return
        world = self._world
        world.log(f"node {node} is lost for {seconds} s")
        self.lost = node
        for client in world.clients.values():
            client.lose_node(node)
        for connection in world.wire.connections:
            if connection.node == node:
                connection.lose()
        world.wire.connections = [each for each in world.wire.connections if not each.lost.done()]
        self._collect()
        world.broker.lose(node)
        for name in world.broker.names():
            if self._random.random() < 0.5:
                world.broker.hush(name, silent=self._random.uniform(0.0, ELECTED_WITHIN), deaf=0.0)
        self._timer = world.loop.call_later(seconds, self.back)

    def back(self) -> None:
        """All nodes are there."""
        if self.lost and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._world.log(f"node {self.lost} is back")
            self._world.broker.back(self.lost)
            self._world.loop.call_later(STARTS_WITHIN, self._runs)

    def _runs(self) -> None:
        self.lost = ""

    def _collect(self) -> None:
        if self.lost:
            for name in self._world.broker.names():
                queue = self._world.broker.queue(name)
                assert queue is not None
                self._shown[name] = sum(each.node != self.lost for each in queue.consumers)
            self._world.loop.call_later(COLLECTED_EVERY, self._collect)

    async def sight(self, *_: object, queues: Collection[str], **__: object) -> Sight:
        """Stands in for `lost_nodes.sight`."""
        await asyncio.sleep(self._world.network.latency(0.01))
        if not self._world.setting.listed:
            raise BrokerError("there is no management API.")
        living = {queue: self._shown.get(queue, 0) for queue in queues} if self.lost else {}
        return Sight(lost=frozenset({self.lost} - {STEADY}), living=living)
