"""Every message that a session publishes leaves through one channel, which also consumes the journal.

Invariant: what was published and is not confirmed is known, in order. One channel is one process at the broker: when
this session's hold on the journal is released, nothing that it published can still be on its way (design, section 3).
"""

import asyncio
from typing import Protocol

from partymq.amqp.channel import Channel
from partymq.errors import BrokerError
from partymq.router.link import Link


class Settled(Protocol):
    """Where a published message came from; told once that the broker has it."""

    def confirmed(self, tag: int) -> None: ...


class Publisher:
    """Publishes with confirms. `arrival` is the per-message path: no task, future or lock."""

    def __init__(self, link: Link, channel: Channel) -> None:
        self._link = link
        self._channel = channel
        self._send = channel.publish
        self.sent = 0
        """The sequence number of the last publish."""
        self._low = 1
        self._arrivals: dict[int, int] = {}
        self._others: dict[int, tuple[Settled, int] | None] = {}
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self._source: Settled | None = None

    async def open(self) -> None:
        """Puts the channel into confirm mode."""
        await self._channel.confirm_select(self._on_confirm, self._on_nack)

    def serve(self, source: Settled) -> None:
        """Makes `source` the origin of arrivals; the one before has nothing unconfirmed."""
        assert not self._arrivals
        self._source = source

    def arrival(self, frame: bytes, header: bytes, body: bytes, tag: int) -> None:
        """Publishes what the source delivered under `tag`."""
        self.sent = sent = self.sent + 1
        self._arrivals[sent] = tag
        self._send(frame, header, body)

    def publish(self, frame: bytes, header: bytes, body: bytes, *, origin: Settled | None = None, tag: int = 0) -> None:
        """Publishes anything else; `origin` is told when it is confirmed."""
        self.sent = sent = self.sent + 1
        self._others[sent] = None if origin is None else (origin, tag)
        self._send(frame, header, body)

    async def confirmed(self) -> None:
        """Returns when everything published so far is confirmed."""
        self._advance()
        if self._low > self.sent:
            return
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append((self.sent, barrier))
        await barrier

    def _on_confirm(self, tag: int, multiple: bool) -> None:
        if multiple:
            for sequence in range(self._low, tag + 1):
                self._settle(sequence)
            self._low = max(self._low, tag + 1)
        else:
            self._settle(tag)
        if self._barriers:
            self._advance()

    def _settle(self, sequence: int) -> None:
        tag = self._arrivals.pop(sequence, 0)
        if tag:
            self._source.confirmed(tag)  # type: ignore[union-attr] # an arrival has a source
        elif (other := self._others.pop(sequence, None)) is not None:
            origin, tag = other
            origin.confirmed(tag)

    def _advance(self) -> None:
        low = self._low
        while low <= self.sent and low not in self._arrivals and low not in self._others:
            low += 1
        self._low = low
        while self._barriers and self._barriers[0][0] < low:
            _, barrier = self._barriers.pop(0)
            if not barrier.done():
                barrier.set_result(None)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: ARG002 - the fields of the method
        self._link.fail(BrokerError(f"the broker could not store publish {tag} (basic.nack): a queue has failed"))
