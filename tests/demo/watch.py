"""Keeps the picture true while something is shown, and tells what happens.

Invariant: whoever is asked for shares and news may not answer for a moment: what was known then stays in the picture.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic

from demo.picture import NOTHING, Key, Picture, Shares
from demo.view import View, behind, slower
from support.broker import Depths
from support.processes import Client
from support.spool import Spool

EVERY = 0.25
_SAMPLES = 12
_KEYS = 3
_COMMITTED = re.compile(r"partitions? moved (?:from .*|in (\d+) handoffs, the longest of which took) (?:in )?(\d+) ms")
"""Of a handoff, or of all of a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Something that PartyMQ has said, and how often."""

    sentence: str
    times: int = 1


class Watch:
    """`look` once, or `run` beside what goes on."""

    def __init__(
        self,
        *,
        view: View,
        spool: Spool,
        depths: Depths,
        source: str,
        inbox: Callable[[str], str],
        shares: Callable[[], Awaitable[Shares | None]],
        news: Callable[[], Awaitable[Iterable[News]]],
    ) -> None:
        """`inbox` names a member's queue; `shares` says who has what, None while nobody knows."""
        self._view = view
        self._spool = spool
        self._depths = depths
        self._source = source
        self._inbox = inbox
        self._shares = shares
        self._news = news
        self._samples = [(monotonic(), 0)]
        self.picture: Picture = NOTHING

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Ask everybody, and show it."""
        shares = await self._shares() or self.picture.shares
        confirmed, acked = self._spool.counts()
        self._samples = [*self._samples[-_SAMPLES:], (monotonic(), acked)]
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        self.picture = replace(
            self.picture,
            shares=shares,
            confirmed=confirmed,
            acked=acked,
            rate=(after - before) / max(now - then, 0.001),
            source=await self._depths.ready(self._source),
            ready={member.name: await self._depths.ready(self._inbox(member.name)) for member in shares.members},
            handled=self._handled(),
            keys=self._keys(),
        )
        await self.tell()
        self._view.show(self.picture)

    async def tell(self) -> None:
        """Show what is new, and learn from it how long handoffs took."""
        for news in await self._news():
            self._view.note(f"    {news.sentence}")
            if took := _COMMITTED.search(news.sentence):
                self.picture = replace(
                    self.picture,
                    handoffs=self.picture.handoffs + news.times * int(took[1] or 1),
                    longest_handoff=max(self.picture.longest_handoff, int(took[2]) / 1000),
                )

    async def drain(self, producer: Client) -> str:
        """Stop the producer and wait for the last messages; a sentence if consumers were slower, or nothing."""
        await producer.stop()
        began, waiting = monotonic(), self._spool.unsettled()
        if told := behind(waiting, self.picture.rate):
            self._view.note(f"    {told}")
        await self._spool.settled()
        return slower(waiting, monotonic() - began)

    def _handled(self) -> dict[str, int]:
        """By member: a pod's container may have been started several times, each time as an actor of its own."""
        handled: dict[str, int] = {}
        for actor, count in self._spool.handled.items():
            member = actor.partition("~")[0]
            handled[member] = handled.get(member, 0) + count
        return handled

    def _keys(self) -> tuple[Key, ...]:
        """The same ones each time."""
        newest = self._spool.newest
        return tuple(
            Key(name=name, consumer=newest[name][1].partition("~")[0], number=newest[name][0])
            for name in list(newest)[:_KEYS]
        )


@asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something beside the block; its failure ends the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        yield
        task.cancel()
