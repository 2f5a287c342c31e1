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
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from partymq.amqp.management import Management, prove
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, NodeLostError

SETTLED: Final = 6.0
"""Seconds for which all has to be seen: the API collects consumers every five."""
AT_FIRST: Final = 0.5
"""Seconds after which somebody is asked at all: sessions that end in order are counted for some ms."""
ASK_EVERY: Final = 1.0
ASK_RARELY: Final = 30.0
"""Seconds between questions, the latter when the answer has been the same for so many, with no node lost."""
SAME: Final = 20
UNWATCHED: Final = 3.0
"""Seconds between an answer and the next question in which anything may have happened to a node."""
SILENT_FOR: Final = 60.0
"""Seconds for which nobody waits any more for an API that did not answer."""
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
    doubt: str = ""
    """Why it may be another broker's."""


async def sight(
    management: Management, address: BrokerAddress, *, journal: str, session: str, queues: Collection[str]
) -> Sight:
    """Asks the API; raises BrokerError. It is this broker's when it shows this session as the journal's consumer."""
    lost = await management.lost_nodes(journal)
    try:
        await prove(management, address=address, journal=journal, session=session)
    except BrokerError as error:
        return Sight(lost=lost, doubt=str(error))
    consumers = {queue: await management.consumers(queue) for queue in queues} if lost else {}
    living = {queue: sum(one.node not in lost for one in found) for queue, found in consumers.items()}
    return Sight(lost=lost, living=living)


class LostNodes:
    """What one session knows of its broker's nodes."""

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._counts: dict[str, tuple[int, float]] = {}
        """By queue: what was counted last, and since when that is so."""
        self._queues: set[str] = set()
        """Those of which the next question is."""
        self._wanted, self._urgent, self._answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._sight = Sight()
        self._asked_at = self._answered_at = float("-inf")
        """When the question was put that was answered last, and when it was answered."""
        self._tried_at = float("-inf")
        """When the last question was put whose end is known, answered or not."""
        self._since: dict[str, float] = {}
        """Nodes that do not run, and since when that is seen."""
        self._unknown = "nobody has asked."
        """Why nobody knows; empty while the API answers."""
        self.trouble: NodeLostError | None = None
        """What the last call of `among` says has to be waited for."""
        self._tell: Callable[[NodeLostError | None], None] = lambda _: None
        self._told = False
        self._paused: Callable[[], bool] = lambda: False

    def report_to(self, tell: Callable[[NodeLostError | None], None], *, paused: Callable[[], bool]) -> None:
        """Has `tell` told what is waited for.

        `paused` says whether the broker reads nothing from publishers: a connection of somebody who is dead may stay
        then.
        """
        self._tell, self._paused = tell, paused

    async def run(self, *, journal: str, session: str) -> None:
        """Asks whenever there is something to know."""
        await self._wanted.wait()  # most sessions never ask
        async with Management(self._address) as management:
            same = 0
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                self._urgent.clear()
                before, asked_at = self._sight, self._loop.time()
                queues, self._queues = self._queues, set()
                try:
                    seen = await sight(management, self._address, journal=journal, session=session, queues=queues)
                except BrokerError as error:
                    self._unknown = str(error)
                else:
                    self._see(seen, asked_at)
                self._answered_at, self._tried_at = self._loop.time(), asked_at
                self._answered.set()
                same = same + 1 if self._sight == before and not self._since else 0
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASK_EVERY if same < SAME else ASK_RARELY):
                        await self._urgent.wait()

    def _see(self, seen: Sight, asked_at: float) -> None:
        if asked_at - self._answered_at > UNWATCHED:
            self._since = {}  # a node may have been back meanwhile, and be lost again
        self._since = {node: self._since.get(node, self._loop.time()) for node in seen.lost}
        self._sight, self._asked_at = seen, asked_at
        self._unknown = seen.doubt

    def among(self, queue: str, consumers: int, *, own: int, bare: bool) -> int:
        """How many of `consumers`, which `queue` counts, need not be waited for; `own` of them are the caller's.

        `bare` says that nothing is ever delivered from it, and that only routers consume it. Returns 0 or all but the
        caller's: one who is counted besides is not known to be gone.
        """
        now = self._loop.time()
        before, since = self._counts.get(queue, (-1, now))
        if before != consumers or self._paused():
            since = now
            self._urgent.set()
        self._counts[queue] = consumers, since
        self.trouble = None
        if consumers <= own or now - since < AT_FIRST:
            return 0
        self._queues.add(queue)
        self._wanted.set()
        others = f"{consumers - own} consumer{'s' if consumers - own > 1 else ''}"
        if self._unknown:
            if not bare:
                return 0
            if now - self._began > 2 * SETTLED:  # before, the API is only late
                self.trouble = NodeLostError(
                    f"{queue} counts {others} of a router that has gone: a node of the broker is lost, or that router "
                    f"is not quite gone. Which it is, nobody tells: {self._unknown} Routing goes on {PATIENCE:g} s "
                    "after the count has changed last (`rabbitmqctl cluster_status` shows the nodes)"
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
        # By when it was asked: what has come since then, nobody has looked at.
        return consumers - own if self._asked_at - max(since, *self._since.values()) > SETTLED else 0

    def report(self) -> None:
        """Tells of the trouble of the last call, or that it is over."""
        if self.trouble is not None or self._told:
            self._told = self.trouble is not None
            self._tell(self.trouble)

    async def quiet(self) -> None:
        """Returns when no consumer that is seen to be lost with its node can hold anything of our queues any more.

        A takeover that begins before wedges an inbox of RabbitMQ 4.3 for good, where that keeps what its consumer held
        (an older version declared it): quiescing the consumer makes the broker forget that it is lost (`rabbit_fifo`,
        `activate_next_consumer`). Where nobody can tell, nobody waits: every handoff of a router that starts anew
        would, and what the donor's client gives back meanwhile would come late.
        """
        while True:
            await self._fresh()
            if not self._since or self._loop.time() - max(self._since.values()) > SETTLED:
                return
            await asyncio.sleep(ASK_EVERY)

    async def _fresh(self) -> None:
        """Returns when a question is answered that was put from now on, or there is no answer.

        One that is a second old does not do: a node may have been lost since.
        """
        called = self._loop.time()
        if called - self._answered_at < SILENT_FOR and self._unknown and not self._sight.doubt:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED):
                while self._tried_at < called:
                    self._answered.clear()
                    self._wanted.set()
                    self._urgent.set()
                    await self._answered.wait()
