"""What becomes of messages that the broker refuses.

Invariant: such a message goes into the dead queue, with as much of it as the broker takes. One that fits nowhere (it is
larger than the broker takes now) stays unacknowledged where it was read, is named, and is tried again now and then.
"""

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from partymq.amqp.frames import publish_frame
from partymq.core.names import SPREAD
from partymq.core.report import Notice
from partymq.errors import BrokerError
from partymq.message.dead_letter import KeyOf, describe, origin_of
from partymq.message.set_aside import message_id, set_aside
from partymq.router.context import Context
from partymq.router.poison.probes import Probes
from partymq.router.publish.outlet import Diverted, Stay

LOG = logging.getLogger(__name__)

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


class RefusedMessages:
    """Of one session."""

    def __init__(self, context: Context, probes: Probes, key_of: KeyOf) -> None:
        self._link = context.link
        self._names = context.names
        self._notice = context.listener.notice
        self._on_change = context.listener.changed
        self._probes = probes
        self._key_of = key_of
        self._dead = publish_frame(0, "", context.names.dead)
        self._left_out: dict[str, str] = {}
        """What had to be left out of the last message that was refused in the same words."""
        self.blamed = 0
        """Messages that the broker refuses, and of which it was told what has become of them."""
        self._staying: list[Staying] = []
        self._again = AGAIN[0]
        self.aside = 0
        """Messages that were set aside."""
        self.stays = 0
        """Messages that fit nowhere and did not get into the dead queue later."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Messages that fit nowhere, as people see them."""
        return tuple(staying.described for staying in self._staying if staying.stay.lasts)

    @property
    def due(self) -> float | None:
        """Seconds after which those are to be tried again; None where there are none."""
        return self._again if self._staying else None

    async def set_aside(self, message: Diverted, why: str) -> None:
        """The broker has refused a message in these words."""
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

    async def try_again(self, *, while_: Callable[[], bool]) -> None:
        """Whether the broker takes by now what fitted nowhere."""
        self._again = min(2 * self._again, AGAIN[1])
        self._staying = [staying for staying in self._staying if staying.stay.lasts]
        for staying in list(self._staying):
            if staying.message is None or not staying.stay.lasts or not while_():
                continue
            if (left_out := await self._into_dead(staying.message, staying.why)) is not None and staying.stay.lasts:
                staying.stay.end()
                self._staying = [other for other in self._staying if other is not staying]
                self.stays -= 1
                self._tell(self._set_aside_text(staying.described, staying.why, left_out))
                self._link.ring()

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
        self.blamed += 1
        if self.blamed <= NOTICED:
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
