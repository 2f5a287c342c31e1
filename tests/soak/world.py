"""What the faults work on: one group, its routers, its broker's nodes, and counts of all that was done to them.

Invariant: of faults that end a router's session there is one at a time, from its report to the auditor until another
session routes. No client's connection is ended until that has taken over what the last one had, and no session until it
has put in order what a client gave back meanwhile: a router that dies in a takeover, a client after it, and the next
router before it has everything, are the double fault that docs/guarantees.md excludes. Where dead consumers come back
(RabbitMQ 4.3), none is ended before a handoff is over whose client has gone: that is the same limit there.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from time import monotonic

from partymq.core.report import HandoffReport
from partymq.router.rebalance.progress import BEFORE_TAKEOVER
from partymq.router.reporting.members import WITHOUT_A_BREAK
from soak.load import Load
from soak.nodes import Nodes
from soak.outages import Outage
from soak.pods import Pod, profile
from support.conditions import eventually
from support.events import Kind
from support.group import Group
from support.own_broker import OwnBroker
from support.processes import Client
from support.routers import ROUTER, Router

SEEN_WITHIN = 3.0
"""Seconds in which a busy broker notices that a client's connection has gone."""
SETTLES_WITHIN = 90.0
"""Seconds, for a loaded machine; what takes longer is stuck."""


@dataclass(slots=True)
class World:
    """The stage of one run."""

    group: Group
    nodes: Nodes
    load: Load
    zombies: bool = False
    """Whether the broker makes zombies of clients that die while they are taken over."""
    source_node: OwnBroker | None = None
    """The only node of a classic source; None for a quorum queue."""
    pods: dict[str, Pod] = field(default_factory=dict)
    routers: list[Router] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """Faults by name."""
    outages: list[Outage] = field(default_factory=list)
    """Faults of nodes that are over."""
    kills: int = 0
    """SIGKILLs of clients, routers and brokers."""
    session: asyncio.Lock = field(default_factory=asyncio.Lock)
    sound: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no router has ended whose takeovers nobody has resumed, nor may end of itself."""
    generation: int = 1
    """The version of the template that the Deployment's pods are made from now."""
    generations: int = 1
    """How many versions there were."""
    replacements: int = 0
    """Pods that were made in rollouts."""
    rolling: bool = False
    """Whether it is being rolled out."""
    ended: dict[str, float] = field(default_factory=dict)
    """Pods whose clients' connections were ended since a session was, and when."""
    started: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        self.sound.set()

    def say(self, what: str) -> None:
        """Tell whoever watches."""
        print(f"{monotonic() - self.started:7.1f} s  {what}", flush=True)

    def killed(self, really: bool) -> None:
        """Count a client that was killed, if there was one; `kills += await ...` would lose those of meanwhile."""
        self.kills += really

    # --- routers

    @property
    def handoffs(self) -> int:
        """Committed ones, of all routers."""
        return sum(router.handoffs for router in self.routers)

    @property
    def running(self) -> list[Router]:
        """Routers that have not ended."""
        return [router for router in self.routers if router.running]

    @property
    def active(self) -> Router | None:
        """The router that routes; one that is frozen has a last report that says the same, of an older epoch."""
        routing = [(router.report.epoch, router) for router in self.routers if router.routing and router.report]
        return max(routing, key=lambda one: one[0], default=(0, None))[1]

    @property
    def epoch(self) -> int:
        """The highest that was reported."""
        return max((router.report.epoch for router in self.routers if router.report is not None), default=0)

    def title(self, router: Router) -> str:
        """What a router calls its connection."""
        return f"partymq {self.group.config.group} process {router.pid}"

    async def start_router(self) -> Router:
        """One more."""
        router = await self.group.spawn()
        self.routers.append(router)
        return router

    @asynccontextmanager
    async def replaced(self) -> AsyncIterator[None]:
        """Around what ends the router's session without grace: until another session routes."""
        before = self.epoch
        await self.unsound()
        self.group.spool.note(ROUTER, Kind.ROUTER_DOWN)
        yield
        await self.excused(after=before)

    async def excused(self, *, after: int) -> None:
        """After a reported end of a session: what is repeated from now on has no excuse once another one routes."""
        await self.routed(after=after)
        self.group.spool.note(ROUTER, Kind.ROUTER_UP)
        await self.taken_over()

    async def taken_over(self) -> None:
        """After the end of a session: wait until the next one has taken over what that had."""
        await eventually(
            self._took_over,
            lambda: f"a resumed handoff does not begin: {[router.report for router in self.running]}",
            SETTLES_WITHIN,
            clock=self.nodes.clock,
        )
        self.sound.set()

    def _took_over(self) -> bool:
        router = self.active
        report = router.report if router is not None else None
        return report is not None and all(h.waiting_for != BEFORE_TAKEOVER for h in report.handoffs)

    async def routed(self, *, after: int) -> None:
        """Wait until a session of a higher epoch routes."""
        await eventually(
            lambda: any(
                router.routing and router.report is not None and router.report.epoch > after for router in self.routers
            ),
            lambda: f"nobody routes after epoch {after}: {[router.report for router in self.running]}",
            SETTLES_WITHIN,
            clock=self.nodes.clock,
        )

    async def unsound(self) -> None:
        """Before the end of a session: from here on no client's connection is ended."""
        await eventually(
            lambda: not self._mixed,
            lambda: f"a resumed handoff does not end, whose client has gone: {[r.report for r in self.running]}",
            SETTLES_WITHIN,
            clock=self.nodes.clock,
        )
        self.sound.clear()
        self.ended.clear()

    @property
    def _mixed(self) -> bool:
        """Whether what a client gave back may stand behind what a router did, until a handoff has put it in order.

        Or whether it is a zombie until the handoff has declared its inbox anew; or the broker may not have noticed yet
        that it has gone, and would give it first what the router gives back.
        """
        router = self.active
        report = router.report if router is not None else None
        if report is None:
            return False
        return any(self._mixes(handoff, report.epoch) for handoff in report.handoffs)

    def _mixes(self, handoff: HandoffReport, epoch: int) -> bool:
        ended = self.ended.get(handoff.donor)
        if ended is None:
            return False
        unseen = monotonic() < ended + SEEN_WITHIN
        return self.zombies or unseen or not handoff.handoff_id.startswith(f"{epoch}.")

    async def may_end(self, pod: str) -> None:
        """Return when the connection of a pod's client may be ended, and take it as ended."""
        while not self.sound.is_set():
            await self.sound.wait()
        self.ended[pod] = monotonic()

    # --- pods

    def pod(self, name: str, rng: Random) -> Pod:
        """One more pod, of a kind that is drawn, the Deployment's or a StatefulSet's; it does not run yet."""
        returns = rng.random() < 0.3
        return self._made(name, rng, returns=returns)

    def replacement(self, rng: Random) -> Pod:
        """One more pod of the Deployment."""
        self.replacements += 1
        return self._made(f"v{self.generation}-{self.replacements}", rng, returns=False)

    def _made(self, name: str, rng: Random, *, returns: bool) -> Pod:
        made = Pod(
            self.group,
            name,
            profile(rng),
            returns=returns,
            generation="" if returns else str(self.generation),
            may_end=lambda: self.may_end(name),
            clock=self.nodes.clock,
        )
        self.pods[name] = made
        return made

    def consumers(self) -> list[Client]:
        """The pods' clients that run."""
        clients = [pod.client for pod in self.pods.values()]
        return [client for client in clients if client is not None and client.running]

    def free(self) -> list[Pod]:
        """Pods that nothing is being done to, in the order of their names."""
        return [self.pods[name] for name in sorted(self.pods) if not self.pods[name].busy]

    async def settled(self) -> None:
        """Wait until every pod that is ready owns its share and nothing is on its way.

        Who crashed too often may be given nothing for minutes.
        """

        def owns() -> bool:
            router = self.active
            report = router.report if router is not None else None
            if report is None or report.handoffs or not report.balanced.ok:
                return False
            distrusted = {m.name for m in report.members if WITHOUT_A_BREAK in m.waiting_for}
            return distrusted | {m.name for m in report.members if m.partitions} == set(self.pods)

        def otherwise() -> str:
            return f"{sorted(self.pods)} do not own everything: {[router.report for router in self.running]}"

        await eventually(owns, otherwise, SETTLES_WITHIN, clock=self.nodes.clock)
