"""Brokers that mean harm, in a process of their own: `python -m support.hostile_broker`.

It prints one JSON object: the port of a broker for each kind of harm, and of a management API for each. Each broker
lets whoever connects get as far as to consume, and does its harm then (`flooding_broker` has those that a session gets
further with); it serves until its standard input is closed.
"""

import asyncio
import json
import struct
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Final

from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.header import ProtocolHeader

from partymq.amqp.frames import BODY, FRAME_HEAD, HEARTBEAT, header_frame, plain_header
from support.flooding_broker import FLOODS, start
from support.hostile_management import (
    Answer,
    HostileManagement,
    consumers,
    endless,
    gzip_bomb,
)
from support.hostile_management import (
    json as answers_json,
)

Harm = Callable[[asyncio.StreamWriter, int], Coroutine[None, None, None]]
"""Gets where to write, and the number of the channel that consumes."""

ANSWERS: Final[dict[type[Frame], Frame]] = {
    commands.Connection.StartOk: commands.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=60),
    commands.Connection.Open: commands.Connection.OpenOk(),
    commands.Connection.Close: commands.Connection.CloseOk(),
    commands.Channel.Open: commands.Channel.OpenOk(),
    commands.Channel.Close: commands.Channel.CloseOk(),
    commands.Confirm.Select: commands.Confirm.SelectOk(),
    commands.Basic.Qos: commands.Basic.QosOk(),
    commands.Basic.Consume: commands.Basic.ConsumeOk(consumer_tag="partymq"),
    commands.Queue.Declare: commands.Queue.DeclareOk(queue="q", message_count=0, consumer_count=1),
    commands.Queue.Bind: commands.Queue.BindOk(),
    commands.Queue.Delete: commands.Queue.DeleteOk(message_count=0),
    commands.Exchange.Declare: commands.Exchange.DeclareOk(),
}


def _deliver(channel: int, tag: int = 1) -> bytes:
    return frame.marshal(commands.Basic.Deliver("partymq", tag, False, "ex", "key"), channel)


async def _for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
    while not writer.is_closing():
        writer.write(data)
        await writer.drain()


async def body(writer: asyncio.StreamWriter, channel: int) -> None:
    """A message of 2^63 bytes."""
    writer.write(_deliver(channel) + header_frame(channel, plain_header(2**63)))
    size = 131_064
    await _for_ever(writer, FRAME_HEAD.pack(BODY, channel, size) + bytes(size) + b"\xce")


async def almost(writer: asyncio.StreamWriter, channel: int) -> None:
    """Messages that never come to their end, of as many bytes as are taken in."""
    writer.write(_deliver(channel) + header_frame(channel, plain_header(16 * 2**20)))
    size = 131_064
    for _ in range(127):
        writer.write(FRAME_HEAD.pack(BODY, channel, size) + bytes(size) + b"\xce")
        await writer.drain()
    await asyncio.get_running_loop().create_future()


async def heartbeats(writer: asyncio.StreamWriter, _channel: int) -> None:
    """Heartbeats without end."""
    await _for_ever(writer, HEARTBEAT * 10_000)


async def marks(writer: asyncio.StreamWriter, channel: int) -> None:
    """A journal without end."""
    payload = b'{"mark":"x"}'
    head = header_frame(channel, plain_header(len(payload)))
    content = head + FRAME_HEAD.pack(BODY, channel, len(payload)) + payload + b"\xce"
    await _for_ever(writer, b"".join(_deliver(channel, tag) + content for tag in range(1, 1000)))


async def confirms(writer: asyncio.StreamWriter, channel: int) -> None:
    """Confirms of what nobody sent."""
    ack = commands.Basic.Ack(delivery_tag=2**63 - 1, multiple=True)
    await _for_ever(writer, frame.marshal(ack, channel) * 1000)


HARMS: Final[dict[str, Harm]] = {harm.__name__: harm for harm in (body, almost, heartbeats, marks, confirms)}
APIS: Final[dict[str, Answer]] = {
    "bomb": gzip_bomb(2**31),
    "endless": endless,
    "many": answers_json(consumers(300_000)),
    "few": answers_json(consumers(19_000)),
}


async def _serve(harm: Harm, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    doing: asyncio.Task[None] | None = None
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readexactly(len(ProtocolHeader().marshal()))
        start = commands.Connection.Start(
            server_properties={"product": "RabbitMQ", "version": "4.0.5"}, mechanisms="PLAIN"
        )
        writer.write(frame.marshal(start, 0))
        while True:
            head = await reader.readexactly(7)
            data = head + await reader.readexactly(struct.unpack(">I", head[3:])[0] + 1)
            channel, received = frame.unmarshal(data)[1:]
            answer = ANSWERS.get(type(received)) if isinstance(received, Frame) else None
            if answer is not None:
                writer.write(frame.marshal(answer, channel))
            if isinstance(received, commands.Basic.Consume) and doing is None:
                doing = asyncio.create_task(harm(writer, channel))
    if doing is not None:
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
    writer.close()


async def _main() -> None:
    ports = {}
    for name, harm in HARMS.items():
        server = await asyncio.start_server(partial(_serve, harm), "127.0.0.1", 0)
        ports[name] = server.sockets[0].getsockname()[1]
    for name, flood in FLOODS.items():
        ports[name] = await start(flood)
    for name, answer in APIS.items():
        api = HostileManagement(answer)
        await api.begin()
        ports[name] = api.port
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
