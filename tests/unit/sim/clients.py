"""Plain clients in the simulation: one that consumes a member's inbox, and one that produces into the source.

Invariant: a client tells the auditor what a real one would: a receipt once it has the message, an ack before it is
sent, its end before its connection closes. It keeps its prefetch from connection to connection (lowering it is a limit
that docs/guarantees.md states).
"""

import asyncio
from collections import Counter, deque
from typing import Protocol

from pamqp.encode import field_table

from partymq.amqp.frames import HEADER_HEAD, body_frames, body_payload, plain_header, publish_frame
from partymq.errors import BrokerError
from partymq.message.stamp import read_fence, read_stamp
from partymq.message.tables import find_header, value_at
from support.events import CLOSED, KILLED, LOST, Kind
from support.message import body_of, identify
from unit.model.broker import Delivery
from unit.sim.nodes import STEADY
from unit.sim.wire import SimChannel, SimConnection, Wire

POISON = b"poison"
RETRY = 0.1
"""Seconds until a client tries again: its inbox may not be declared yet."""


class Witness(Protocol):
    """Who is told."""

    def report(self, kind: Kind, actor: str, key: str = "", seq: int = 0, note: str = "") -> None: ...

    def given(self, actor: str, delivery: Delivery) -> None:
        """The broker has given a message to a client, which will know in a moment."""

    def fence_seen(self, actor: str, delivery: Delivery) -> None:
        """The same, of a fence."""

    def requeued(self, key: str, seq: int) -> None:
        """A client gives a message back of its own accord."""


class Client:
    """A member's client: connects, consumes, works, acknowledges one by one, and connects again when it has to."""

    def __init__(self, wire: Wire, witness: Witness, *, name: str, inbox: str, prefetch: int) -> None:
        self.name = name
        self.pause = 0.001
        """Seconds of work for each message."""
        self.stuck = False
        """True while it acknowledges nothing."""
        self._wire = wire
        self._witness = witness
        self._inbox = inbox
        self._prefetch = prefetch
        self._connections = 0
        self._actor = ""
        self._connection: SimConnection | None = None
        self._channel: SimChannel | None = None
        self._held: deque[tuple[int, tuple[str, int] | None]] = deque()
        self._wake = asyncio.Event()
        self._draining = False
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    @property
    def connection(self) -> SimConnection | None:
        """The last one."""
        return self._connection

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Connect, if it does not run."""
        if not self.running:
            self._ending = False
            self._task = asyncio.create_task(self._run(), name=f"client {self.name}")

    def lose(self) -> None:
        """Its connection is reset; it connects again."""
        self._drop(LOST)

    def kill(self) -> None:
        """It is gone, and what it has not acknowledged returns."""
        self._ending = True
        self._drop(KILLED)
        if self._task is not None:
            self._task.cancel()

    def drain(self, *, end: bool = False) -> None:
        """Cancels with what it holds, works it off, closes, and (unless `end`) connects again."""
        self._ending = self._ending or end
        self._draining = True
        self._wake.set()

    def close(self) -> None:
        """Closes in order, with whatever it holds."""
        self._ending = True
        self._wake.set()

    def requeue(self) -> None:
        """Gives back the newest message that it holds, and goes on."""
        if self._channel is not None and self._held and (last := self._held.pop())[1] is not None:
            self._witness.requeued(*last[1])
            self._channel.requeue(last[0])

    def lose_node(self, node: str) -> None:
        """A node of the broker is about to be lost; who is connected there connects to another one."""
        if self._connection is not None and self._connection.node == node:
            self._drop(LOST, node_lost=True)

    def _drop(self, note: str, *, node_lost: bool = False) -> None:
        if self._connection is not None and not self._connection.lost.done():
            self._witness.report(Kind.GONE, self._actor, note=note)
            self._held.clear()
            if node_lost:
                self._connection.lose()
            else:
                self._connection.cut("reset")
            self._wake.set()

    async def _run(self) -> None:
        while not self._ending:
            try:
                await self._serve()
            except BrokerError:
                await asyncio.sleep(RETRY)

    async def _serve(self) -> None:
        self._connections += 1
        self._actor = actor = f"{self.name}#{self._connections}"
        self._draining = False
        self._connection = connection = SimConnection(self._wire)
        self._channel = channel = await connection.channel()
        channel.check = self._check
        self._held.clear()
        await channel.consume(self._inbox, self._on_delivery, prefetch=self._prefetch, on_cancel=self.lose)
        cancelled = False
        while not connection.lost.done():
            if self._draining and not cancelled:
                cancelled = True
                await channel.cancel()
            if (self._ending and not self._draining) or (cancelled and not channel.holds_anything):
                self._witness.report(Kind.GONE, actor, note=CLOSED)
                await connection.close()
                return
            if not self._held or self.stuck:
                self._wake.clear()
                try:
                    async with asyncio.timeout(0.05 if cancelled else None):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            await asyncio.sleep(self.pause)
            if self._held and not self.stuck and not (self._ending and not self._draining):
                self._ack()

    def _ack(self) -> None:
        assert self._channel is not None
        tag, ident = self._held.popleft()
        if ident is not None:
            self._witness.report(Kind.ACKED, self._actor, *ident)
        self._channel.ack(tag)

    def unstick(self) -> None:
        """Works as it should."""
        self.stuck = False
        self.pause = 0.001
        self._wake.set()

    def _check(self, delivery: Delivery) -> None:
        header = self._wire.content(delivery.body).header
        if read_stamp(header) is None and read_fence(header) is not None:
            self._witness.fence_seen(self._actor, delivery)
        else:
            self._witness.given(self._actor, delivery)

    def _on_delivery(self, tag: int, _origin: bytes, header: bytes, body: bytes) -> None:
        ident = identify(body_payload(body), {})
        if ident is not None:
            self._witness.report(Kind.RECEIVED, self._actor, *ident)
        self._held.append((tag, ident))
        self._wake.set()


class Producer:
    """Publishes into the source with confirms."""

    def __init__(self, wire: Wire, witness: Witness, source: str) -> None:
        self._witness = witness
        self._frame = publish_frame(1, "", source)
        self._connection = SimConnection(wire, node=STEADY)
        self._channel: SimChannel | None = None
        self._unconfirmed: dict[int, tuple[str, int]] = {}
        self._published = 0
        self._next: Counter[str] = Counter()

    @property
    def sent(self) -> int:
        return sum(self._next.values())

    async def open(self) -> None:
        self._channel = await self._connection.channel()
        await self._channel.confirm_select(self._on_confirm, lambda _tag, _multiple: None)

    async def close(self) -> None:
        await self._connection.close()

    def publish(self, key: str) -> None:
        """One more message of the key; the empty key is none."""
        assert self._channel is not None
        self._next[key] += 1
        self._published += 1
        seq = self._next[key]
        self._unconfirmed[self._published] = (key, seq)
        self._witness.report(Kind.SENT, "producer", key, seq)
        body = body_of(key, seq, 0)
        self._channel.publish(self._frame, _header(key, len(body)), body_frames(body))

    def poison(self, key: str, kind: str) -> None:
        """A message that the broker takes here and nowhere else; nobody is told of it."""
        assert self._channel is not None
        self._published += 1
        self._channel.publish(self._frame, _header(key, len(POISON), poison=kind), body_frames(POISON))

    def _on_confirm(self, tag: int, _multiple: bool) -> None:
        if tag not in self._unconfirmed:
            return
        key, seq = self._unconfirmed.pop(tag)
        self._witness.report(Kind.CONFIRMED, "producer", key, seq)


def _header(key: str, size: int, *, poison: str = "") -> bytes:
    if not key:
        return plain_header(size)
    headers_and_delivery_mode = (0x3000).to_bytes(2, "big")
    rows = field_table({"partitionKey": key, "poison": poison} if poison else {"partitionKey": key})
    return HEADER_HEAD.pack(60, 0, size) + headers_and_delivery_mode + rows + b"\x02"


def poison_of(header: bytes) -> str:
    """The kind of poison that a message is, if it is some."""
    at = find_header(header, b"poison")
    value = value_at(header, at) if at >= 0 else None
    return value.decode() if isinstance(value, bytes) else ""
