"""Publishing one message at a time, over a connection that may be lost.

Invariant: while this is engaged, everything that the outlets are given goes its way in the order in which they were
given it, each message confirmed before the next is sent. So a message that the broker refuses costs a probe and nothing
else: source, segments and takeovers stay as they are, nothing returns to any queue, and it is known which one it is.

That one is set aside into the dead queue, in the barest form that the broker needs. Where it fits nowhere (it is larger
than the broker takes now), it stays unacknowledged where it was read, and all others go on past it; now and then it is
tried whether it fits into the dead queue by now.

For whoever publishes nothing changes: a message counts as on its way until it is confirmed, or set aside.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from partymq.amqp.connection import Connection
from partymq.amqp.deadletter import KeyOf, describe, origin_of
from partymq.amqp.frames import publish_frame
from partymq.amqp.setaside import message_id, set_aside
from partymq.amqp.topology import Topology
from partymq.core.names import SPREAD, Names
from partymq.core.report import Notice
from partymq.errors import AccessRefusedError, BrokerError, ChannelClosedError, ConnectionClosedError
from partymq.router.caution import Advice
from partymq.router.link import Link
from partymq.router.outlet import Diverted, Stay
from partymq.router.probe import NackedError, Probe, UnansweredError
from partymq.router.publisher import STALLED_AFTER, Publisher
from partymq.router.quiet import await_alone

LOG = logging.getLogger(__name__)

WARY_AT: Final = 2
"""So often has a message come back before when the broker is not given any other way to refuse one."""
QUIET: Final = 5.0
"""Seconds without a message, while the source is read, after which what was under way has come again for certain.

Of a segment's messages there may be fewer than were: somebody has worked off what was being copied."""
DIAL_AGAIN: Final = (0.05, 5.0)
"""Seconds between tries to open a probe, the first and the longest."""
FORCED: Final = 320
"""The reply code when a connection is closed for reasons of its own: a shutdown, a person."""
NOT_ITS_FAULT: Final = {403, 404}
"""Reply codes that speak of the destination, and not of the message."""
COINCIDENCES: Final = 2
"""So often a connection may be lost under a message without a word of the broker's until it is the message."""
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


class Careful:
    """The way of a session's messages while the broker may refuse one of them; does nothing until `engage`."""

    def __init__(
        self,
        *,
        link: Link,
        topology: Topology,
        publisher: Publisher,
        names: Names,
        dial: Callable[[], Awaitable[Connection]],
        key_of: KeyOf,
        notice: Callable[[Notice], None],
        on_change: Callable[[], None],
    ) -> None:
        self._link = link
        self._topology = topology
        self._publisher = publisher
        self._names = names
        self._dial = dial
        self._key_of = key_of
        self._notice = notice
        self._on_change = on_change
        self._dead = publish_frame(0, "", names.dead)
        self._waiting: deque[Diverted] = deque()
        self._news = asyncio.Event()
        self._engaged = asyncio.Event()
        self._before: list[asyncio.Future[None]] = []
        """Done when what the outlets sent themselves is confirmed: nothing may overtake that."""
        self._probe: Probe | None = None
        self._broken = False
        """True while the last probe may still be on its way to the queues."""
        self._arrivals = self._others = self._prefetch = 0
        """So many messages have to pass yet, at the most, until nothing is left of what was under way."""
        self._left_out: dict[str, str] = {}
        """What had to be left out of the last message that was refused in the same words."""
        self._blamed = 0
        self.begun = False
        """True once it is known how the session is to go about it."""
        self.idle: Callable[[], bool] = lambda: False
        """Whether the source is read, and all that it has delivered is on its way or further."""
        self.passed: Callable[[int], bool] = lambda _: False
        """Whether what came back to the source, so many messages at the least, has passed."""
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
    def kept(self) -> list[str]:
        """Messages that fit nowhere, as people see them."""
        self._staying = [staying for staying in self._staying if staying.stay.lasts]
        return [staying.described for staying in self._staying]

    @property
    def engaged(self) -> bool:
        """True while one message goes at a time."""
        return self._engaged.is_set()

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages over the probe."""
        return self._probe is not None and self._probe.blocked

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
                await self._close_probe()
        finally:
            if self._probe is not None:
                self._probe.abort()

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
                    if self.idle():
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
        return self._arrivals <= 0 or self.passed(self.returning)

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
            await self._offer(message.frame, message.header, message.body_frames)
        except NackedError:
            message.outlet.nacked(message.sequence)
        except (ChannelClosedError, ConnectionClosedError) as error:
            await self._set_aside(message, f"{error.code} {error.text}")
        except BrokerError as error:
            await self._set_aside(message, str(error))
        else:
            message.outlet.settle(message.sequence)

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
        for staying in list(self._staying):
            if staying.message is None or not staying.stay.lasts or self.engaged:
                continue
            if (left_out := await self._into_dead(staying.message, staying.why)) is not None and staying.stay.lasts:
                staying.stay.end()
                self._staying = [other for other in self._staying if other is not staying]
                self.stays -= 1
                self._tell(self._set_aside_text(staying.described, staying.why, left_out))
                self._link.ring()
        await self._close_probe()

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
                    await self._offer(self._dead, header, message.body_frames)
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

    async def _offer(self, frame: bytes, header: bytes, body: bytes) -> None:
        """Returns when the broker has the message; raises what it has against it, or NackedError.

        What is the destination's fault, and what is everybody's, ends the session.
        """
        coincidences = 0
        while True:
            probe = await self._ready()
            try:
                await probe.publish(frame, header, body, patience=STALLED_AFTER)
            except (NackedError, UnansweredError, AccessRefusedError) as error:
                if isinstance(error, NackedError):
                    raise
                self._link.fail(error)
                await self._never()
            except ChannelClosedError as error:  # said of this message, which is not stored
                if error.code in NOT_ITS_FAULT:
                    self._link.fail(error)
                    await self._never()
                raise
            except BrokerError as error:
                self._drop_probe()
                coincidences += 1
                told = isinstance(error, ConnectionClosedError) and error.code != FORCED
                if coincidences > (1 if told else COINCIDENCES):
                    raise
            else:
                return

    async def _never(self) -> None:
        """The session is over: whoever waits for it ends this."""
        await asyncio.get_running_loop().create_future()

    async def _ready(self) -> Probe:
        wait, longest = DIAL_AGAIN
        while self._probe is None:
            if self._broken:
                await await_alone(self._topology, self._names.outlets, own=len(self._publisher.outlets), bare=True)
                self._broken = False
            try:
                self._probe = await Probe.open(self._dial, outlets=self._names.outlets, on_return=self._link.returned)
            except BrokerError as error:
                self._broken = True  # it may have got as far as that
                LOG.warning("%s no connection to try messages one by one: %s", self._names.prefix, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, longest)
        return self._probe

    def _drop_probe(self) -> None:
        if self._probe is not None:
            self._probe.abort()
            self._probe, self._broken = None, True

    async def _close_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            self._broken = True
            await probe.close()
