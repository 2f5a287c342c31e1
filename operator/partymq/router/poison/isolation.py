"""Publishing one message at a time, over a connection that may be lost.

Invariant: while this is engaged, everything that the outlets are given goes its way in the order in which they were
given it, each message confirmed before the next is sent. So a message that the broker refuses costs a probe and nothing
else: source, segments and takeovers stay as they are, nothing returns to any queue, and it is known which one it is.

That one is set aside into the dead queue, with as much of it as the broker takes. Where it fits nowhere (it is larger
than the broker takes now), it stays unacknowledged where it was read, and all others go on past it; now and then it is
tried whether it fits into the dead queue by now.

For whoever publishes nothing changes: a message counts as on its way until it is confirmed, or set aside.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from partymq.amqp.connection import Connection
from partymq.amqp.frames import publish_frame
from partymq.core.names import SPREAD
from partymq.core.report import Notice
from partymq.errors import BrokerError, ChannelClosedError, ConnectionClosedError
from partymq.message.dead_letter import KeyOf, describe, origin_of
from partymq.message.set_aside import message_id, set_aside
from partymq.router.context import Context
from partymq.router.poison.failed_sessions import Advice
from partymq.router.poison.probe import NackedError
from partymq.router.poison.probes import Probes
from partymq.router.publish.outlet import Diverted, Stay

LOG = logging.getLogger(__name__)

WARY_AT: Final = 2
"""So often has a message come back before when the broker is not given any other way to refuse one."""
QUIET: Final = 5.0
"""Seconds without a message, while the source is read, after which what was under way has come again for certain.

Of a segment's messages there may be fewer than were: somebody has worked off what was being copied."""
AGAIN: Final = (5.0, 60.0)
"""Seconds until what fits nowhere is tried again, the first and the longest."""
TRIED_BYTES: Final = 64 * 1024 * 1024
"""What is tried again is kept in memory, up to so many bytes; the rest is tried by the next session."""
NOTICED: Final = 10
"""Messages of a session that get an Event each; all are in the log, and in the dead queue."""


class Staying(NamedTuple):
    """A message that fits nowhere."""

    stay: Stay
    message: Diverted | None
    """None where it takes too much memory to try it again."""
    why: str
    described: str


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
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._names = context.names
        self._notice = context.listener.notice
        self._on_change = context.listener.changed
        self._key_of = key_of
        self._dead = publish_frame(0, "", context.names.dead)
        self._waiting: deque[Diverted] = deque()
        self._news = asyncio.Event()
        self._engaged = asyncio.Event()
        self._before: list[asyncio.Future[None]] = []
        """Done when what the outlets sent themselves is confirmed: nothing may overtake that."""
        self._probes = Probes(context, dial)
        self._arrivals = self._others = self._prefetch = 0
        """So many messages have to pass yet, at the most, until nothing is left of what was under way."""
        self._left_out: dict[str, str] = {}
        """What had to be left out of the last message that was refused in the same words."""
        self._blamed = 0
        self.begun = False
        """True once it is known how the session is to go about it."""
        self._source: Passing | None = None
        """What reads the source, once there is something."""
        self.returning = 0
        """So many messages of the source, at the least, must have passed."""
        self.returns = 0
        """The most often that a message of the source has come back before."""
        self.aside = 0
        """Messages that were set aside."""
        self._staying: list[Staying] = []
        self._again = AGAIN[0]
        self.stays = 0
        """Messages that fit nowhere and did not get into the dead queue later."""

    @property
    def statistics(self) -> IsolationStatistics:
        """How it stands."""
        kept = tuple(staying.described for staying in self._staying if staying.stay.lasts)
        return IsolationStatistics(engaged=self.engaged, aside=self.aside, kept=kept)

    @property
    def engaged(self) -> bool:
        """True while one message goes at a time."""
        return self._engaged.is_set()

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages over the probe."""
        return self._probes.blocked

    def follow(self, source: Passing) -> None:
        """What goes one at a time is that source's, too."""
        self._source = source

    def begin(self, advice: Advice, *, arrivals: int) -> None:
        """The outlets are open; `arrivals` is how many messages of the source may have been under way."""
        self.begun = True
        if advice.careful:
            self.returning = advice.returning
            self.engage(arrivals=arrivals, others=advice.others)
        self._prefetch = arrivals

    def engage(self, *, arrivals: int, others: int) -> None:
        """From now on one message goes at a time, until so many of the source's, and so many others, have passed."""
        self._arrivals, self._others = max(self._arrivals, arrivals), max(self._others, others)
        if not self.engaged:
            self._before = [outlet.barrier() for outlet in self._publisher.outlets]
            for outlet in self._publisher.outlets:
                outlet.divert(self._take)
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
                    async with asyncio.timeout(self._again if self._staying else None):
                        await self._engaged.wait()
                except TimeoutError:
                    await self._try_again()
                    continue
                for barrier in self._before:
                    await barrier
                await self._pass_on()
                await self._probes.close()
        finally:
            self._probes.abort()

    def _take(self, message: Diverted) -> None:
        self._waiting.append(message)
        self._news.set()

    async def _pass_on(self) -> None:
        now = asyncio.get_running_loop().time
        last_other = now()
        while not self._arrivals_passed or (self._others > 0 and now() - last_other < QUIET):
            if not self._waiting:
                self._news.clear()
                try:
                    async with asyncio.timeout(QUIET):
                        await self._news.wait()
                except TimeoutError:
                    if self._source is not None and self._source.idle:
                        break
            else:
                message = self._waiting[0]
                if message.outlet.is_arrival(message.sequence):
                    self._arrivals -= 1
                else:
                    self._others -= 1
                    last_other = now()
                await self._pass(message)
                self._waiting.popleft()
                self._link.ring()
        self._straighten()

    @property
    def _arrivals_passed(self) -> bool:
        return self._arrivals <= 0 or (self._source is not None and self._source.passed(self.returning))

    def _straighten(self) -> None:
        """What waits leaves by the outlets, at once, as everything after it."""
        self._arrivals = self._others = self.returning = 0
        self._engaged.clear()
        self._on_change()
        waiting, self._waiting = self._waiting, deque()
        for outlet in self._publisher.outlets:
            outlet.straighten([message for message in waiting if message.outlet is outlet])

    async def _pass(self, message: Diverted) -> None:
        try:
            await self._send_and_wait(message)
        except NackedError:
            message.outlet.nacked(message.sequence)
        except (ChannelClosedError, ConnectionClosedError) as error:
            await self._set_aside(message, f"{error.code} {error.text}")
        except BrokerError as error:
            await self._set_aside(message, str(error))
        else:
            message.outlet.settle(message.sequence)

    async def _send_and_wait(self, message: Diverted) -> None:
        """Returns when the broker has it."""
        await self._probes.offer(message.frame, message.header, message.body_frames)

    async def _set_aside(self, message: Diverted, why: str) -> None:
        described = self._describe(message)
        if (left_out := await self._into_dead(message, why)) is not None:
            message.outlet.settle(message.sequence)
            self._tell(self._set_aside_text(described, why, left_out))
        elif (stay := message.outlet.keep(message.sequence)) is not None:
            held = sum(len(staying.message.body_frames) for staying in self._staying if staying.message is not None)
            light = held + len(message.body_frames) <= TRIED_BYTES
            self._staying.append(Staying(stay, message if light else None, why, described))
            self.stays += 1
            self._again = AGAIN[0]
            self._tell(
                f"The broker refuses {described}: {why}. It fits into no queue, so it stays unacknowledged where it "
                "was read, and all others go on past it. When the broker takes it (for one that is too large, raise "
                f"max_message_size), it goes to {self._names.dead}"
            )

    async def _try_again(self) -> None:
        """Whether the broker takes by now what fitted nowhere."""
        self._again = min(2 * self._again, AGAIN[1])
        self._staying = [staying for staying in self._staying if staying.stay.lasts]
        for staying in list(self._staying):
            if staying.message is None or not staying.stay.lasts or self.engaged:
                continue
            if (left_out := await self._into_dead(staying.message, staying.why)) is not None and staying.stay.lasts:
                staying.stay.end()
                self._staying = [other for other in self._staying if other is not staying]
                self.stays -= 1
                self._tell(self._set_aside_text(staying.described, staying.why, left_out))
                self._link.ring()
        await self._probes.close()

    def _set_aside_text(self, described: str, why: str, left_out: str) -> str:
        without = f", without {left_out}" if left_out else ""
        return (
            f"The broker refuses {described}: {why}. It was set aside into {self._names.dead}{without}; `partymq dead "
            "list` shows it. All others go on"
        )

    async def _into_dead(self, message: Diverted, why: str) -> str | None:
        """Sets a message aside; says what had to be left out, or None where it does not fit."""
        forms = list(set_aside(message.header, why, origin_of(message.header)))
        forms.sort(key=lambda form: form[1] != self._left_out.get(why))
        for header, left_out in forms:
            if len(header) <= self._link.header_max:
                try:
                    await self._probes.offer(self._dead, header, message.body_frames)
                except BrokerError as error:
                    LOG.info("a message does not get into %s either: %s", self._names.dead, error)
                else:
                    self.aside += 1
                    self._left_out[why] = left_out
                    return left_out
        return None

    def _tell(self, text: str) -> None:
        LOG.warning("%s %s", self._names.prefix, text)
        self._on_change()
        self._blamed += 1
        if self._blamed <= NOTICED:
            self._notice(Notice(warning=True, reason="MessageRefused", message=text))

    def _describe(self, message: Diverted) -> str:
        try:
            dead = describe(self._names, message.header, message.body_frames, self._key_of)
            ident = message_id(message.header)
        except BrokerError:
            return "a message with headers that cannot be read"
        parts = [
            f"key {dead.key.decode(errors='backslashreplace')!r}" if dead.key is not None else "without a key",
            f"{dead.size} bytes",
            f"message-id {ident!r}" if ident else "",
            f"routing key {dead.routing_key!r}",
            f"exchange {dead.exchange!r}" if dead.exchange else "",
            f"partition {dead.partition}" if dead.partition not in (None, SPREAD) else "",
        ]
        return f"a message ({', '.join(part for part in parts if part)})"
