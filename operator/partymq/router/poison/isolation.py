"""Publishing one message at a time, over connections that may be lost.

Invariant: while this is engaged, everything that an outlet is given goes its way in the order in which the outlet was
given it, each message confirmed before the next is sent. So a message that the broker refuses costs a probe and nothing
else: source, segments and takeovers stay as they are, nothing returns to any queue, and it is known which one it is. A
probe carries one message at a time, so each outlet's messages go over another one, side by side with those of others.

What the broker refuses is set aside, or stays (`poison.refused_messages`).

For whoever publishes nothing changes: a message counts as on its way until it is confirmed, or set aside.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from partymq.amqp.connection import Connection
from partymq.errors import BrokerError, ChannelClosedError, ConnectionClosedError
from partymq.message.dead_letter import KeyOf
from partymq.router.context import Context
from partymq.router.poison.failed_sessions import Advice
from partymq.router.poison.probe import NackedError
from partymq.router.poison.probes import Probes
from partymq.router.poison.refused_messages import RefusedMessages
from partymq.router.publish.outlet import Diverted, Outlet

WARY_AT: Final = 2
"""So often has a message come back before when the broker is not given any other way to refuse one."""
QUIET: Final = 5.0
"""Seconds without a message, while the source is read, after which what was under way has come again for certain.

Of a segment's messages there may be fewer than were: somebody has worked off what was being copied."""


@dataclass(slots=True)
class _Line:
    """What waits of one outlet."""

    waiting: deque[Diverted] = field(default_factory=deque)
    """The first is under way."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    """True when only what is under way is to be finished."""

    def take(self, message: Diverted) -> None:
        """Queues what the outlet was given."""
        self.waiting.append(message)
        self.news.set()

    def end(self) -> None:
        """No further message begins."""
        self.over = True
        self.news.set()

    async def next(self) -> Diverted | None:
        """The first, as soon as there is one; None at the end."""
        while not self.waiting and not self.over:
            self.news.clear()
            await self.news.wait()
        return None if self.over else self.waiting[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationStatistics:
    """What the broker refuses, and what becomes of it."""

    engaged: bool
    """Whether messages go one at a time."""
    aside: int
    """Messages that were set aside."""
    kept: tuple[str, ...]
    """Messages that fit nowhere, as people see them."""


class Passing(Protocol):
    """What reads the source."""

    @property
    def idle(self) -> bool:
        """Whether the source is read, and all that it has delivered is on its way or further."""

    def passed(self, returning: int) -> bool:
        """Whether what came back to the source, so many messages at the least, has passed."""


class Isolation:
    """The way of a session's messages while the broker may refuse one of them; does nothing until `engage`."""

    def __init__(self, context: Context, *, dial: Callable[[], Awaitable[Connection]], key_of: KeyOf) -> None:
        self._now = asyncio.get_running_loop().time
        self._link = context.link
        self._publisher = context.publisher
        self._on_change = context.listener.changed
        self._lines: dict[Outlet, _Line] = {}
        self._passed = asyncio.Event()
        self._engaged = asyncio.Event()
        self._before: list[asyncio.Future[None]] = []
        """Done when what the outlets sent themselves is confirmed: nothing may overtake that."""
        self._probes = Probes(context, dial)
        self._refused = RefusedMessages(context, self._probes, key_of)
        self._arrivals = self._others = self._prefetch = 0
        """So many messages have to pass yet, at the most, until nothing is left of what was under way."""
        self._linger = self._until = 0.0
        """Care lasts for so many seconds after a message was refused: by the loop's clock, until then at the least."""
        self._asked = 0
        """So often has somebody asked for care."""
        self._last_other = 0.0
        self.begun = False
        """True once it is known how the session is to go about it."""
        self._source: Passing | None = None
        """What reads the source, once there is something."""
        self.returning = 0
        """So many messages of the source, at the least, must have passed."""
        self.returns = 0
        """The most often that a message of the source has come back before."""

    @property
    def statistics(self) -> IsolationStatistics:
        """How it stands."""
        return IsolationStatistics(engaged=self.engaged, aside=self._refused.aside, kept=self._refused.kept)

    @property
    def stays(self) -> int:
        """Messages that fit nowhere and did not get into the dead queue later."""
        return self._refused.stays

    @property
    def blamed(self) -> int:
        """Messages that the broker refuses, whatever has become of them."""
        return self._refused.blamed

    @property
    def engaged(self) -> bool:
        """True while one message goes at a time."""
        return self._engaged.is_set()

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages over a probe."""
        return self._probes.blocked

    def follow(self, source: Passing) -> None:
        """What goes one at a time is that source's, too."""
        self._source = source

    def begin(self, advice: Advice, *, arrivals: int) -> None:
        """The outlets are open; `arrivals` is how many messages of the source may have been under way."""
        self.begun = True
        self._linger = advice.linger
        if advice.careful:
            self.returning = advice.returning
            self.engage(arrivals=arrivals, others=advice.others)
        self._prefetch = arrivals

    def engage(self, *, arrivals: int, others: int) -> None:
        """From now on one message goes at a time, until so many of the source's, and so many others, have passed."""
        self._arrivals, self._others = max(self._arrivals, arrivals), max(self._others, others)
        self._asked += 1
        if not self.engaged:
            self._before = [outlet.barrier() for outlet in self._publisher.outlets]
            self._lines = {outlet: _Line() for outlet in self._publisher.outlets}
            for outlet, line in self._lines.items():
                outlet.divert(line.take)
            self._engaged.set()
            self._on_change()

    def counted(self, returns: int) -> None:
        """A message of the source has come back so often: whatever it was, there must be no more of it."""
        self.returns = max(self.returns, returns)
        if returns >= WARY_AT:
            self._beware()

    def _beware(self) -> None:
        """What has come back so often may be what the broker refuses: it is not given another way to do so."""
        self.engage(arrivals=self._prefetch, others=0)

    @property
    def others(self) -> int:
        """Messages that are not the source's and are not confirmed, or were not when the last session failed."""
        return max(self._others, sum(outlet.others for outlet in self._publisher.outlets))

    async def run(self) -> None:
        """Passes messages on while it is engaged; raises what is no message's fault."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._refused.due):
                        await self._engaged.wait()
                except TimeoutError:
                    await self._refused.try_again(while_=lambda: not self.engaged)
                else:
                    for barrier in self._before:
                        await barrier
                    await self._pass_on()
                await self._probes.close()
        finally:
            self._probes.abort()

    async def _pass_on(self) -> None:
        """Passes messages on until care is over."""
        self._last_other = self._now()
        asked = -1
        while asked != self._asked:  # nobody has asked for more while the last ones went
            async with asyncio.TaskGroup() as tasks:
                for line in self._lines.values():
                    line.over = False
                    tasks.create_task(self._pass_in_order(line))
                await self._all_has_passed()
                asked = self._asked
                for line in self._lines.values():
                    line.end()
        self._straighten()

    async def _all_has_passed(self) -> None:
        """Returns when what was under way has passed, or comes no more."""
        while self._is_to_last:
            self._passed.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self._passed.wait()
            except TimeoutError:
                waits = any(line.waiting for line in self._lines.values())
                if not waits and self._source is not None and self._source.idle and self._now() >= self._until:
                    return

    @property
    def _is_to_last(self) -> bool:
        now = self._now()
        return not self._arrivals_passed or (self._others > 0 and now < self._last_other + QUIET) or now < self._until

    async def _pass_in_order(self, line: _Line) -> None:
        while (message := await line.next()) is not None:
            if message.outlet.is_arrival(message.sequence):
                self._arrivals -= 1
            else:
                self._others -= 1
                self._last_other = self._now()
            refused = await self._pass(message)
            if refused:
                self._until = self._now() + self._linger
            line.waiting.popleft()
            self._passed.set()
            self._link.ring()

    @property
    def _arrivals_passed(self) -> bool:
        return self._arrivals <= 0 or (self._source is not None and self._source.passed(self.returning))

    def _straighten(self) -> None:
        """What waits leaves by the outlets, at once, as everything after it."""
        self._arrivals = self._others = self.returning = 0
        self._engaged.clear()
        self._on_change()
        for outlet, line in self._lines.items():
            outlet.straighten(line.waiting)
        self._lines = {}

    async def _pass(self, message: Diverted) -> bool:
        """Sends a message, and sees to what becomes of it; says whether the broker refuses it, whatever its queue."""
        try:
            await self._send_and_wait(message)
        except NackedError:
            message.outlet.nacked(message.sequence)
        except BrokerError as error:
            why = str(error)
            if isinstance(error, ChannelClosedError | ConnectionClosedError):
                why = f"{error.code} {error.text}"
            await self._refused.set_aside(message, why)
            return True
        else:
            message.outlet.settle(message.sequence)
        return False

    async def _send_and_wait(self, message: Diverted) -> None:
        """Returns when the broker has it."""
        await self._probes.offer(message.frame, message.header, message.body_frames)
