"""A broker that plays its part until something is read that has to be read to its end, and delivers without end then.

It has a journal with a ledger of its choice, confirms whatever is published, and counts consumers, so that a session
comes to read an inbox, a transfer, a backlog or a source.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.header import ContentHeader, ProtocolHeader

from partymq.amqp.frames import body_frames, header_frame, plain_header
from partymq.core import codec
from partymq.core.ledger import Handoff, Ledger, Partition, empty
from partymq.core.names import SELF_TEST
from partymq.message.stamp import Stamper

MEMBER: Final = "a"
PARTITIONS: Final = 4
SOURCE: Final = "partymq-nothing"
_LARGE: Final = 100_000
_OF_A_CHUNK: Final = 4_000_000

_ANSWERS: Final[dict[type[Frame], Frame]] = {
    commands.Connection.StartOk: commands.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=60),
    commands.Connection.Open: commands.Connection.OpenOk(),
    commands.Connection.Close: commands.Connection.CloseOk(),
    commands.Channel.Open: commands.Channel.OpenOk(),
    commands.Channel.Close: commands.Channel.CloseOk(),
    commands.Basic.Qos: commands.Basic.QosOk(),
    commands.Queue.Bind: commands.Queue.BindOk(),
    commands.Queue.Purge: commands.Queue.PurgeOk(message_count=0),
    commands.Queue.Delete: commands.Queue.DeleteOk(message_count=0),
    commands.Exchange.Declare: commands.Exchange.DeclareOk(),
}


def _ledger(part: Partition, handoffs: Mapping[str, Handoff] | None = None) -> Ledger:
    parts = (part, *(Partition(owner=MEMBER) for _ in range(PARTITIONS - 1)))
    return replace(
        empty(PARTITIONS), epoch=1, version=1, partitions=parts, members=frozenset({MEMBER}), handoffs=handoffs or {}
    )


_OWNED: Final = Partition(owner=MEMBER)
_HANDOFF: Final = Handoff(id="1.1", donor=MEMBER, targets=dict.fromkeys(range(PARTITIONS), MEMBER))


class Flood:
    """What is delivered without end, and where."""

    def __init__(self, queue: str, ledger: Ledger, *, size: int = _LARGE, answers: bool = True) -> None:
        """`queue` is a part of its name; `size` are bytes of a message; without `answers` its consumer never begins."""
        self.queue = queue
        self.ledger = codec.encode(ledger)
        self.size = size
        self.answers = answers

    def chunks(self, channel: int) -> Iterator[bytes]:
        """Whole deliveries for ever."""
        body = body_frames(b'{"mark"'.ljust(self.size), channel) if self.size else b""
        stamper, tag = Stamper(0, 1), 0
        each = 150 + len(body)
        while True:
            chunk = []
            for _ in range(max(1, _OF_A_CHUNK // each)):
                tag += 1
                header = stamper.stamp(plain_header(self.size), tag, b"\x00\x00")
                chunk.append(delivery(channel, tag) + header_frame(channel, header) + body)
            yield b"".join(chunk)


def delivery(channel: int, tag: int) -> bytes:
    """The method frame."""
    return frame.marshal(commands.Basic.Deliver("partymq", tag, False, "ex", "key"), channel)


FLOODS: Final[dict[str, Flood]] = {
    "takeover": Flood(".inbox.", _ledger(_OWNED, {"1.1": _HANDOFF})),
    "tiny takeover": Flood(".inbox.", _ledger(_OWNED, {"1.1": _HANDOFF}), size=0),
    "transfer": Flood(".transfer.", _ledger(Partition(owner=MEMBER, transfers=("1.7",)))),
    "unanswered transfer": Flood(".transfer.", _ledger(Partition(owner=MEMBER, transfers=("1.7",))), answers=False),
    "backlog": Flood(".backlog.", _ledger(Partition(owner=MEMBER, backlog=True))),
    "source": Flood(SOURCE, _ledger(_OWNED)),
    "unanswered source": Flood(SOURCE, _ledger(_OWNED), answers=False),
    "tiny source": Flood(SOURCE, _ledger(_OWNED), size=0),
    "journal": Flood(".journal", _ledger(_OWNED), size=10_000_000),
}


class FloodingBroker:
    """One broker, for any number of connections."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._consumed = Counter[str]()
        self._journal: tuple[asyncio.StreamWriter, int] | None = None
        self._journal_tag = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await _Conversation(self._flood, self, reader, writer).run()
        writer.close()

    def consumes(self, queue: str, writer: asyncio.StreamWriter, channel: int) -> None:
        """Somebody does."""
        self._consumed[queue] += 1
        if queue.endswith(".journal"):
            self._journal, self._journal_tag = (writer, channel), 0
            self.journaled(self._flood.ledger)

    def gone(self, queue: str) -> None:
        """Its consumer's connection is lost."""
        self._consumed[queue] -= 1

    def journaled(self, payload: bytes) -> None:
        """What was published to the journal comes back."""
        if self._journal is not None:
            writer, channel = self._journal
            self._journal_tag += 1
            head = delivery(channel, self._journal_tag) + header_frame(channel, plain_header(len(payload)))
            writer.write(head + body_frames(payload, channel))

    def state(self, queue: str) -> Frame:
        """What a passive declare says."""
        waits = 5 * any(part in queue for part in (".transfer.", ".backlog.", SOURCE))
        consumers = self._consumed[queue] or int(".inbox." in queue)
        return commands.Queue.DeclareOk(queue=queue, message_count=waits, consumer_count=consumers)


class _Conversation:
    """One connection of one client."""

    def __init__(
        self, flood: Flood, broker: FloodingBroker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._flood = flood
        self._broker = broker
        self._reader = reader
        self._writer = writer
        self._consumed: list[str] = []
        self._confirmed = Counter[int]()
        self._keys: dict[int, str] = {}
        self._missing: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._flooding: asyncio.Task[None] | None = None

    async def run(self) -> None:
        await self._reader.readexactly(len(ProtocolHeader().marshal()))
        properties: Mapping[str, str] = {"product": "RabbitMQ", "version": "4.0.5"}
        self._send(0, commands.Connection.Start(server_properties=dict(properties), mechanisms="PLAIN"))
        try:
            while True:
                head = await self._reader.readexactly(7)
                kind, channel, size = struct.unpack(">BHI", head)
                payload = await self._reader.readexactly(size + 1)
                self._received(kind, channel, head + payload)
        finally:
            for queue in self._consumed:
                self._broker.gone(queue)
            if self._flooding is not None:
                self._flooding.cancel()
                await asyncio.gather(self._flooding, return_exceptions=True)

    def _send(self, channel: int, method: Frame) -> None:
        self._writer.write(frame.marshal(method, channel))

    def _received(self, kind: int, channel: int, data: bytes) -> None:
        if kind == 3:
            self._bodies[channel] = self._bodies.get(channel, b"") + data[7:-1]
            self._missing[channel] -= len(data) - 8
            self._end_if_whole(channel)
            return
        received = frame.unmarshal(data)[2]
        match received:
            case ContentHeader():
                self._missing[channel] = received.body_size
                self._end_if_whole(channel)
            case commands.Basic.Publish():
                self._keys[channel] = received.routing_key
            case commands.Confirm.Select():
                self._confirmed[channel] = 0
                if not received.nowait:
                    self._send(channel, commands.Confirm.SelectOk())
            case commands.Queue.Declare():
                self._declared(channel, received)
            case commands.Basic.Consume():
                self._consumes(channel, received.queue)
            case Frame() if type(received) in _ANSWERS:
                self._send(channel, _ANSWERS[type(received)])

    def _declared(self, channel: int, declare: commands.Queue.Declare) -> None:
        if declare.queue.startswith(SELF_TEST):
            close = commands.Channel.Close(reply_code=403, reply_text="no", class_id=50, method_id=10)
            self._send(channel, close)
        else:
            self._send(channel, self._broker.state(declare.queue))

    def _consumes(self, channel: int, queue: str) -> None:
        floods = self._flood.queue in queue and self._flooding is None
        if self._flood.answers or not floods:
            self._send(channel, commands.Basic.ConsumeOk(consumer_tag="partymq"))
        self._consumed.append(queue)
        self._broker.consumes(queue, self._writer, channel)
        if floods:
            self._flooding = asyncio.create_task(self._floods(channel))

    async def _floods(self, channel: int) -> None:
        with suppress(ConnectionError):
            for chunk in self._flood.chunks(channel):
                self._writer.write(chunk)
                await self._writer.drain()

    def _end_if_whole(self, channel: int) -> None:
        if self._missing[channel]:
            return
        body = self._bodies.pop(channel, b"")
        if channel in self._confirmed:
            self._confirmed[channel] += 1
            self._send(channel, commands.Basic.Ack(delivery_tag=self._confirmed[channel]))
        if self._keys[channel].endswith(".journal"):
            self._broker.journaled(body)


async def start(flood: Flood) -> int:
    """Serves until the loop ends; its port."""
    server = await asyncio.start_server(partial(FloodingBroker.serve, FloodingBroker(flood)), "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    _SERVERS.append(server)
    return port


_SERVERS: Final[list[asyncio.Server]] = []
