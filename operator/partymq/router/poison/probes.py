"""Offering messages to the broker over probes, each of which carries one message at a time.

Invariant: a message is offered again only when nothing that a broken probe has sent can still arrive; and what is the
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
from partymq.router.publish.publisher import OUTLETS, STALLED_AFTER

LOG = logging.getLogger(__name__)

MOST: Final = OUTLETS
"""Probes at once: as many as there are channels otherwise, for messages of one of those keep their order."""
DIAL_AGAIN: Final = (0.05, 5.0)
"""Seconds between tries to open a probe, the first and the longest."""
FORCED: Final = 320
"""The reply code when a connection is closed for reasons of its own: a shutdown, a person."""
NOT_ITS_FAULT: Final = {403, 404}
"""Reply codes that speak of the destination, and not of the message."""
COINCIDENCES: Final = 2
"""So often a connection may be lost under a message without a word of the broker's until it is the message."""


class Probes:
    """Of one session. They are opened when they are needed, and where the broker gives but one, that one serves all."""

    def __init__(self, context: Context, dial: Callable[[], Awaitable[Connection]]) -> None:
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._names = context.names
        self._dial = dial
        self._open: set[Probe] = set()
        self._free: list[Probe] = []
        self._most = MOST
        self._turn = asyncio.Lock()
        """Held by the one who gets the next probe."""
        self._given_back = asyncio.Event()
        self._broken = False
        """True while a probe that is gone may still be on its way to the queues."""

    async def offer(self, frame: bytes, header: bytes, body: bytes) -> None:
        """Returns when the broker has the message; raises what it has against it, or NackedError.

        What is the destination's fault, and what is everybody's, ends the session.
        """
        coincidences = 0
        while True:
            probe = await self._take()
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
                self._drop(probe)
                coincidences += 1
                told = isinstance(error, ConnectionClosedError) and error.code != FORCED
                if coincidences > (1 if told else COINCIDENCES):
                    raise
            else:
                return
            finally:
                self._give_back(probe)

    @property
    def blocked(self) -> bool:
        """True while the broker takes no messages over a probe."""
        return any(probe.blocked for probe in self._open)

    def abort(self) -> None:
        """The session is over."""
        for probe in self._open:
            probe.abort()

    async def _never(self) -> None:
        """The session is over: whoever waits for it ends this."""
        await asyncio.get_running_loop().create_future()

    async def _take(self) -> Probe:
        wait, longest = DIAL_AGAIN
        async with self._turn:
            while True:
                if self._broken:
                    await self._settle()
                if self._free:
                    return self._free.pop()
                if len(self._open) < self._most and (probe := await self._dialled()) is not None:
                    return probe
                if self._open:
                    await self._until_given_back()
                else:
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, longest)

    async def _dialled(self) -> Probe | None:
        try:
            probe = await Probe.open(self._dial, outlets=self._names.outlets, on_return=self._link.returned)
        except BrokerError as error:
            LOG.warning("%s no connection to try messages one by one: %s", self._names.prefix, error)
            self._most = max(1, len(self._open))
            self._broken = self._broken or not self._open  # it may have got as far as that
            return None
        self._open.add(probe)
        return probe

    async def _settle(self) -> None:
        """Returns when nothing that was sent over a broken probe can still arrive: when no probe is left to be seen."""
        while len(self._free) < len(self._open):
            await self._until_given_back()
        self._free.clear()
        while self._open:
            self._open.pop().abort()
        await await_alone(self._topology, self._names.outlets, own=len(self._publisher.outlets), bare=True)
        self._broken = False

    async def _until_given_back(self) -> None:
        self._given_back.clear()
        await self._given_back.wait()

    def _drop(self, probe: Probe) -> None:
        probe.abort()
        self._open.discard(probe)
        self._broken = True

    def _give_back(self, probe: Probe) -> None:
        if probe in self._open:
            self._free.append(probe)
        self._given_back.set()

    async def close(self) -> None:
        """None is needed for a while, and none is in use."""
        self._most = MOST
        self._free.clear()
        while self._open:
            self._broken = True
            await self._open.pop().close()
