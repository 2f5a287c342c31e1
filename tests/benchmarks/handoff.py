"""How long a handoff takes, and how long a key that moves pauses.

"Commit" is the time from plan to commit as the router reports it, of the slowest of the handoffs that one change of
members leads to. "Pause" is the time between a moved key's last message at its old owner and its first at the new one;
"otherwise" is the same between two messages of a key that stays. A member has 20 messages at once and works them off
one after the other, each in 0, 1 or 20 ms; with 20 ms a donor alone needs up to 0.4 s to let go.

A backlog stands in the partitions' queues: members hold still until it is there, then work, and then the members
change. Without one there is a load of half of what the members can do, but for the idle case, which has none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Run
from benchmarks.load import QUEUES, idle, ready
from benchmarks.processes import Clients, Routers, clients, routers
from support.broker import amqp_url, temporary_queue
from support.conditions import eventually

BACKLOGS = {"backlog0": 0, "backlog10k": 10_000, "backlog100k": 100_000}
CHANGES = {"3to4": 3, "10to9": 10}
WORK_MS = (0, 1, 20)
PREFETCH = 20
SIZE = 200
KEYS = 200
_DELAY = 0.1
_LOAD_MAX = 2000.0
_WATCH = 0.5
"""Seconds that keys are watched for before and after a change."""


async def measure(run: Run) -> None:
    """Every backlog and change, with a group of its own."""
    for backlog, messages in BACKLOGS.items():
        wanted = messages // 100 if run.quick else messages
        for change, members in CHANGES.items():
            run.say(f"handoff: {change} members, a backlog of {wanted:,} messages")
            async with _stage(run, members) as stage:
                for _ in range(run.rounds):
                    if not wanted:
                        await stage.round(f"{backlog}.{change}.idle", work=0, backlog=0, load=False)
                    for work in WORK_MS:
                        await stage.round(f"{backlog}.{change}.{work}ms", work=work, backlog=wanted)
        short = f"handoff.commit.{backlog}.3to4.{'0ms' if wanted else 'idle'}"
        run.results.repeat(short, f"handoff.commit.{backlog}")
    for backlog in list(BACKLOGS)[1:]:
        run.results.compare(f"handoff.commit.{backlog}", {"idle": "handoff.commit.backlog0"})


@dataclass(slots=True, kw_only=True)
class _Stage:
    """A group with members, and a producer."""

    run: Run
    router: Routers
    consumers: Clients
    producer: Clients
    source: str
    joins: bool
    _names: int = 0

    @property
    def pods(self) -> list[str]:
        return self.router.pods["g"]

    async def join(self, count: int = 1) -> None:
        """New members come, whose inboxes are consumed as soon as they exist."""
        new = [f"m{self._names + n}" for n in range(count)]
        self._names += count
        self.router.set_pods("g", [*self.pods, *new])
        await self.router.known("g")
        for name in new:
            inbox = self.router.names("g").inbox(name)
            await self.consumers.do("consume", queue=inbox, name=name, prefetch=PREFETCH, timed=True)

    async def leave(self) -> None:
        """The youngest member goes, once it has finished what it holds."""
        name = self.pods[-1]
        self.router.set_pods("g", self.pods[:-1])
        await self.consumers.do("leave", name=name)

    async def round(self, name: str, *, work: int, backlog: int, load: bool = True) -> None:
        """One change of members, measured, and the way back."""
        run = self.run
        await self._stand(backlog)
        if load and not backlog:
            rate = min(_LOAD_MAX, 0.5 * len(self.pods) * 1000 / work if work else _LOAD_MAX)
            await self._produce(rate=rate, seconds=3 * _WATCH)
        await self.consumers.do("reset")
        await self._pace(work)
        await asyncio.sleep(_WATCH)
        self.router.commits.clear()
        await (self.join() if self.joins else self.leave())
        await self.router.settled("g")
        commits = list(self.router.commits)
        await asyncio.sleep(_WATCH)
        figures = await self.consumers.do("figures")
        assert not figures["disorder"], "messages were out of order"
        assert commits, "no handoff was committed"
        run.results.add(f"handoff.commit.{name}", "ms", max(commits))
        if moved := figures["moved"]:
            run.results.add(f"handoff.pause.{name}.p50", "ms", moved["p50"])
            run.results.add(f"handoff.pause.{name}.max", "ms", moved["max"])
            run.results.add(f"handoff.pause.{name}.otherwise", "ms", figures["stayed"]["p50"])
        await (self.leave() if self.joins else self.join())
        await self.router.settled("g")
        await self.producer.do("produced")

    async def _stand(self, backlog: int) -> None:
        """With a backlog: members hold still, and it is filled up. Without: all is worked off."""
        if not backlog:
            await self._pace(0)
            await self._still(lambda state: not state["backlog"])
            await self._produce(rate=0, seconds=0)
            return
        await self._pace(0, open=False)
        # The report's figure may be half a second old: the last one counts only once nothing moves any more.
        await self._still(lambda _: True)
        missing = max(0, backlog - self.router.state["g"]["backlog"])
        await self._produce(rate=0, seconds=120, messages=missing)
        await self.producer.do("produced")
        await self._still(lambda state: bool(state["backlog"] > 0.8 * backlog - 300 * len(self.pods)))

    async def _still(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Waits until the source is empty and the group's report shows what it should and does not change."""
        last: list[object] = []

        async def same() -> bool:
            now = [self.router.state["g"], await self.consumers.count(), await ready(self.run, self.source)]
            changed, last[:] = now != last, now
            return not changed and not now[2] and holds(self.router.state["g"])

        await eventually(same, lambda: f"the load does not come to rest: {last}", 120.0, every=0.6)
        await idle(self.run)

    async def _pace(self, work: int, *, open: bool = True) -> None:  # noqa: A002
        await self.consumers.do("pace", work=work / 1000, open=open)

    async def _produce(self, **load: float) -> None:
        await self.producer.do("produce", queue=self.source, size=SIZE, keys=KEYS, **load)


@asynccontextmanager
async def _stage(run: Run, members: int) -> AsyncIterator[_Stage]:
    async with (
        temporary_queue(amqp_url(), "source", QUEUES["classic"]) as source,
        clients(run) as consumers,
        clients(run) as producer,
        routers(run) as router,
    ):
        stage = _Stage(
            run=run, router=router, consumers=consumers, producer=producer, source=source, joins=members < 10
        )
        router.configure("g", (), source_queue=source, partitions=64, rebalance_delay=_DELAY, backlog_limit=1_000_000)
        await stage.join(members)
        await router.settled("g")
        yield stage
