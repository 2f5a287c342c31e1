"""Offering messages to the broker over probes, one probe after another.

Invariant: a message is offered again only when nothing that the last probe has sent can still arrive; and what is the
destination's fault, or everybody's, ends the session instead of blaming the message.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from partymq.amqp.connection import Connection
from partymq.errors import AccessRefusedError, BrokerError, ChannelClosedError, ConnectionClosedError
from partymq.router.broker.settling import await_alone
from partymq.router.context import Context
from partymq.router.poison.probe import NackedError, Probe, UnansweredError
from partymq.router.publish.publisher import STALLED_AFTER

LOG = logging.getLogger(__name__)

DIAL_AGAIN: Final = (0.05, 5.0)
"""Seconds between tries to open a probe, the first and the longest."""
FORCED: Final = 320
"""The reply code when a connection is closed for reasons of its own: a shutdown, a person."""
NOT_ITS_FAULT: Final = {403, 404}
"""Reply codes that speak of the destination, and not of the message."""
COINCIDENCES: Final = 2
"""So often a connection may be lost under a message without a word of the broker's until it is the message."""


class Probes:
    """Of one session; there is one at a time, and none while none is needed."""

    def __init__(self, context: Context, dial: Callable[[], Awaitable[Connection]]) -> None:
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._names = context.names
        self._dial = dial
        self._probe: Probe | None = None
        self._broken = False
        """True while the last probe may still be on its way to the queues."""

    async def offer(self, frame: bytes, header: bytes, body: bytes) -> None:
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

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages over the probe."""
        return self._probe is not None and self._probe.blocked

    def abort(self) -> None:
        """The session is over."""
        if self._probe is not None:
            self._probe.abort()

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

    async def close(self) -> None:
        """None is needed for a while."""
        probe, self._probe = self._probe, None
        if probe is not None:
            self._broken = True
            await probe.close()
