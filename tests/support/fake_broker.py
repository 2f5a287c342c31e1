"""A broker without a network: the far end of a `Connection`, on the same loop, which answers as it is told.

Invariant: what was written is decoded with pamqp, whole and in order; a frame that pamqp cannot read fails the test.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.common import FieldTable
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat

from partymq.amqp.dial import AddressInfo
from partymq.core.spec import BrokerAddress

ADDRESS = BrokerAddress(host="broker", username="user", password="secret", vhost="shop")
AnyFrame = Frame | ContentBody | ContentHeader | ProtocolHeader | Heartbeat
Answer = Frame | None | Callable[[Frame], Frame | None]
"""A method to answer with, silence, or what makes one of these."""


class FakeBroker(asyncio.Transport):
    """The transport of one connection and the broker behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.version = "4.0.5"
        self.product = "RabbitMQ"
        self.tune = commands.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=60)
        self.answers: dict[type[Frame], Answer] = {
            commands.Connection.Close: commands.Connection.CloseOk(),
            commands.Connection.Open: commands.Connection.OpenOk(),
            commands.Connection.StartOk: lambda _: self.tune,
            commands.Channel.Open: commands.Channel.OpenOk(),
            commands.Channel.Close: commands.Channel.CloseOk(),
            commands.Confirm.Select: commands.Confirm.SelectOk(),
            commands.Basic.Qos: commands.Basic.QosOk(),
            commands.Basic.Consume: commands.Basic.ConsumeOk(consumer_tag="partymq"),
            commands.Queue.Declare: commands.Queue.DeclareOk(queue="q", message_count=5, consumer_count=1),
            commands.Queue.Purge: commands.Queue.PurgeOk(message_count=3),
            commands.Queue.Delete: commands.Queue.DeleteOk(message_count=2),
        }
        self.sent: list[tuple[int, AnyFrame]] = []
        """What the client wrote: channels and frames."""
        self.writes = 0
        self.reading = True
        self.high_water = 0
        self.aborted = False
        self._closing = False
        self._protocol: asyncio.Protocol | None = None
        self._rest = b""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Connections that are opened meanwhile end here."""

        async def dial(factory: Callable[[], asyncio.Protocol], **_: object) -> None:
            self._protocol = factory()
            self._protocol.connection_made(self)

        async def lookup(host: str, port: int) -> list[AddressInfo]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))]

        with patch("partymq.amqp.connection.dial", dial), patch("partymq.amqp.nodes.lookup", lookup):
            yield

    # What the broker does.

    def give(self, *parts: bytes | tuple[int, AnyFrame]) -> None:
        """Have the client read these frames, in one chunk, now."""
        assert self._protocol is not None
        data = b"".join(part if isinstance(part, bytes) else frame.marshal(part[1], part[0]) for part in parts)
        self._protocol.data_received(data)

    def lose(self, error: Exception | None = None) -> None:
        """Break the network."""
        self._closing = True
        assert self._protocol is not None
        self._protocol.connection_lost(error)

    def methods(self, channel: int | None = None) -> list[Frame]:
        """The methods that the client wrote, on one channel or on all."""
        return [method for number, method in self.sent if isinstance(method, Frame) and channel in {None, number}]

    def _receive(self, channel: int, received: AnyFrame) -> None:
        self.sent.append((channel, received))
        if isinstance(received, ProtocolHeader):
            properties: FieldTable = {"product": self.product, "version": self.version}
            self._later(0, commands.Connection.Start(server_properties=properties, mechanisms="PLAIN"))
        elif isinstance(received, Frame):
            answer = self.answers.get(type(received))
            answer = answer(received) if callable(answer) else answer
            if answer is not None:
                self._later(channel, answer)

    def _later(self, channel: int, answer: Frame) -> None:
        def give() -> None:
            if not self._closing:
                self.give((channel, answer))

        asyncio.get_running_loop().call_soon(give)

    # What a transport does.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        self._rest += bytes(data)
        while len(self._rest) >= 8:
            if not self._rest.startswith(b"AMQP") and len(self._rest) < int.from_bytes(self._rest[3:7], "big") + 8:
                break
            size, channel, received = frame.unmarshal(self._rest)
            self._rest = self._rest[size:]
            self._receive(channel, received)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high_water = high or 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.lose)

    def abort(self) -> None:
        self.aborted = True
        self.close()
