"""Which of a queue's counted consumers stood on a node that the broker has lost.

Invariant: consumers count as lost only when a node is seen not to run, the queue counts the same ones for longer than
the API's figures are late, and all others that it counts are shown on nodes that run. Without such a sight nobody is
taken for lost, but for one wait that has an end: see `PATIENCE`.

RabbitMQ goes on counting the consumers of a lost node (`suspected_down`) in quorum queues that several may consume,
until the node is back or forgotten. What they held is given to others at once (4.0 to 4.2), or when the queue's
`x-consumer-disconnected-timeout` is over (4.3). And when the node is back, before it is found that they are gone, they
are given messages again (`rabbit_fifo`, `nodeup`), which then come to others behind newer ones: measured on 4.0.5 and
4.3.6. So they are only forgotten where nothing is ever delivered; what has messages waits for the node.

The management API is asked beside, and only when a count stays other than it should be: nobody waits for its answer.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from partymq.amqp.management import Management, prove
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, NodeLostError

DISCONNECTED_TIMEOUT: Final = 5.0
"""Seconds for which our own queues keep what a lost consumer holds, where the broker knows that (4.3)."""
SETTLED: Final = DISCONNECTED_TIMEOUT + 1.0
"""Seconds for which all has to be seen: the API collects consumers every five."""
AT_FIRST: Final = 0.5
"""Seconds after which somebody is asked at all: sessions that end in order are counted for some ms."""
ASK_EVERY: Final = 1.0
ANSWERS_WITHIN: Final = 1.0
"""Seconds for which a handoff waits for an answer."""
PATIENCE: Final = 60.0
"""Seconds after which a count that does not change is taken for lost consumers' where the API tells nothing.

Only in `outlets`, whose consumers are routers that have lost the journal: one that lives has gone by then, and the
broker has closed the connection of one that does not, which takes two or three heartbeats.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the API shows."""

    lost: frozenset[str] = frozenset()
    """Nodes that do not run."""
    living: Mapping[str, int] = field(default_factory=dict)
    """By queue, its consumers on nodes that run."""


async def sight(address: BrokerAddress, *, journal: str, session: str, queues: Collection[str]) -> Sight:
    """Asks the API, which is this broker's when it shows this session as the journal's consumer; raises BrokerError."""
    async with Management(address) as management:
        await prove(management, address=address, journal=journal, session=session)
        lost = await management.lost_nodes(journal)
        if not lost:
            return Sight()
        consumers = {queue: await management.consumers(queue) for queue in queues}
        return Sight(
            lost=lost,
            living={queue: sum(one.node not in lost for one in found) for queue, found in consumers.items()},
        )


class LostNodes:
    """What one session knows of its broker's nodes."""

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._journal = self._session = ""
        self._counts: dict[str, tuple[int, float]] = {}
        """By queue: what was counted last, and since when that is so."""
        self._queues: set[str] = set()
        """Those of which the next question is."""
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._sight = Sight()
        self._seen_at = float("-inf")
        self._since: dict[str, float] = {}
        """Nodes that do not run, and since when that is seen."""
        self._unknown = "nobody has asked."
        """Why nobody knows; empty while the API answers."""
        self.trouble: NodeLostError | None = None
        """What the last call of `among` says has to be waited for."""
        self.tell: Callable[[NodeLostError], None] = lambda _: None
        """Told of it, again and again."""
        self.paused: Callable[[], bool] = lambda: False
        """Whether the broker reads nothing from publishers: a connection of somebody who is dead may then stay."""

    async def run(self, *, journal: str, session: str) -> None:
        """Asks whenever there is something to know."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            queues, self._queues = self._queues, set()
            try:
                self._sight = await sight(self._address, journal=journal, session=session, queues=queues)
            except BrokerError as error:
                self._unknown = str(error)
            else:
                self._unknown = ""
                self._since = {node: self._since.get(node, self._loop.time()) for node in self._sight.lost}
            self._seen_at = self._loop.time()
            self._answered.set()
            await asyncio.sleep(ASK_EVERY)

    def among(self, queue: str, consumers: int, *, own: int, bare: bool) -> int:
        """How many of `consumers`, which `queue` counts, need not be waited for; `own` of them are the caller's.

        `bare` says that nothing is ever delivered from it, and that only routers consume it. Returns 0 or all but the
        caller's: one who is counted besides is not known to be gone.
        """
        now = self._loop.time()
        before, since = self._counts.get(queue, (consumers, now))
        if before != consumers or self.paused():
            since = now
        self._counts[queue] = consumers, since
        self.trouble = None
        if consumers <= own or now - since < AT_FIRST:
            return 0
        self._queues.add(queue)
        self._wake.set()
        others = f"{consumers - own} consumer{'s' if consumers - own > 1 else ''}"
        if self._unknown:
            if not bare:
                return 0
            self.trouble = NodeLostError(
                f"{queue} counts {others} of a router that has gone: a node of the broker is lost, or that router is "
                f"not quite gone. Which it is, nobody tells: {self._unknown} Routing goes on {PATIENCE:g} s after the "
                "count has changed last (`rabbitmqctl cluster_status` shows the nodes)"
            )
            return consumers - own if now - since > PATIENCE else 0
        if not self._since or self._sight.living.get(queue) != own:
            return 0
        nodes = ", ".join(sorted(self._since))
        if not bare:
            self.trouble = NodeLostError(
                f"the broker's node {nodes} does not run, and the queue {queue} still counts {others} of it, to which "
                "the broker gives messages again when it is back: out of order, if somebody reads them meanwhile. "
                "Start the node; if it will never be back, `rabbitmqctl forget_cluster_node` lets the others go on"
            )
            return 0
        self.trouble = NodeLostError(
            f"the broker's node {nodes} does not run, and {queue} still counts {others} of it. Routing goes on "
            f"{SETTLED:g} s after that was seen first (`rabbitmqctl cluster_status` shows the nodes)"
        )
        return consumers - own if now - max(since, *self._since.values()) > SETTLED else 0

    async def quiet(self) -> None:
        """Returns when no consumer that was lost with its node can hold anything of our queues any more.

        A takeover that begins before wedges an inbox of RabbitMQ 4.3 for good: quiescing its consumer makes the broker
        forget that it is lost (`rabbit_fifo`, `activate_next_consumer`). Where nobody knows, a session's first seconds
        are waited for: it may have begun because its node was lost.
        """
        while True:
            await self._asked()
            since = [*self._since.values(), *([self._began] if self._unknown else [])]
            if not since or self._loop.time() - max(since) > SETTLED:
                return
            await asyncio.sleep(ASK_EVERY)

    async def _asked(self) -> None:
        """Returns when the last answer is a fresh one, or after a moment."""
        if self._loop.time() - self._seen_at > ASK_EVERY:
            self._answered.clear()
            self._wake.set()
            try:
                async with asyncio.timeout(ANSWERS_WITHIN):
                    await self._answered.wait()
            except TimeoutError:
                self._unknown = "the management API has not answered yet."
