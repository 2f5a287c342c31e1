"""A client that does what it is told and nothing else: libraries cancel before they close, or reconnect unasked.

Invariant: one socket, one channel, no thread. Frames are read only inside these methods, in the order of the wire.
"""

import socket
import struct
from time import monotonic
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import body, commands, header
from pamqp.base import Frame
from pamqp.common import FieldTable
from pamqp.header import ContentHeader, ProtocolHeader

DEADLINE = 10.0

Answer = TypeVar("Answer", bound=Frame)


class RawClient:
    """A connection with one channel in confirm mode."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port or 5672), timeout=DEADLINE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._announced: commands.Basic.Deliver | None = None
        """A delivery whose content is still to come."""
        self.deliveries: list[tuple[int, str, bool]] = []
        """Delivery tag, body, redelivered: of this channel, in order."""
        self.cancelled: list[str] = []
        self._confirmed = 0
        self._published = 0
        login = f"\0{unquote(address.username or 'guest')}\0{unquote(address.password or 'guest')}"
        self._socket.sendall(ProtocolHeader().marshal())
        start = self._wait(commands.Connection.Start)
        version = str((start.server_properties or {}).get("version", "0"))
        self.version = tuple(int(part) for part in version.split(".")[:2])
        """The broker's, without its last part."""
        capabilities: FieldTable = {"capabilities": {"consumer_cancel_notify": True, "publisher_confirms": True}}
        self.request(
            commands.Connection.StartOk(capabilities, "PLAIN", login, "en_US"), commands.Connection.Tune, channel=0
        )
        self._send(commands.Connection.TuneOk(channel_max=8, frame_max=131072, heartbeat=0), channel=0)
        vhost = unquote(address.path[1:]) or "/"
        self.request(commands.Connection.Open(vhost), commands.Connection.OpenOk, channel=0)
        self.request(commands.Channel.Open(), commands.Channel.OpenOk)
        self.request(commands.Confirm.Select(), commands.Confirm.SelectOk)

    def request(self, frame: Frame, answer: type[Answer], *, channel: int = 1) -> Answer:
        self._send(frame, channel=channel)
        return self._wait(answer)

    def declare(self, queue: str, arguments: FieldTable) -> None:
        self.request(commands.Queue.Declare(queue=queue, durable=True, arguments=arguments), commands.Queue.DeclareOk)

    def delete(self, queue: str) -> None:
        self.request(commands.Queue.Delete(queue=queue), commands.Queue.DeleteOk)

    def headers_exchange(self, name: str, queue: str, *, header: str) -> None:
        """A headers exchange that gives `queue` what has the header."""
        declare = commands.Exchange.Declare(exchange=name, exchange_type="headers", durable=True)
        self.request(declare, commands.Exchange.DeclareOk)
        bind = commands.Queue.Bind(queue=queue, exchange=name, arguments={"x-match": "all-with-x", header: None})
        self.request(bind, commands.Queue.BindOk)

    def delete_exchange(self, name: str) -> None:
        self.request(commands.Exchange.Delete(exchange=name), commands.Exchange.DeleteOk)

    def purge(self, queue: str) -> None:
        self.request(commands.Queue.Purge(queue=queue), commands.Queue.PurgeOk)

    def depth(self, queue: str) -> tuple[int, int]:
        """Ready messages and consumers; also proves that the channel has handled all that was sent before."""
        answer = self.request(commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)
        return answer.message_count or 0, answer.consumer_count or 0

    def consume(self, queue: str, name: str, *, prefetch: int, priority: int, automatic: bool = False) -> None:
        self.request(commands.Basic.Qos(prefetch_count=prefetch), commands.Basic.QosOk)
        consume = commands.Basic.Consume(
            queue=queue, consumer_tag=name, no_ack=automatic, arguments={"x-priority": priority}
        )
        self.request(consume, commands.Basic.ConsumeOk)

    def cancel(self, name: str) -> None:
        self.request(commands.Basic.Cancel(name), commands.Basic.CancelOk)

    def publish(self, queue: str, text: str, headers: FieldTable, *, expiration: str | None = None) -> None:
        """Publish and wait for the confirm."""
        properties = commands.Basic.Properties(headers=headers, expiration=expiration, delivery_mode=2)
        data = text.encode()
        self._published += 1
        frames: list[pamqp.frame.FrameTypes] = [
            commands.Basic.Publish(routing_key=queue),
            header.ContentHeader(body_size=len(data), properties=properties),
        ]
        if data:
            frames.append(body.ContentBody(data))
        self._socket.sendall(b"".join(pamqp.frame.marshal(frame, 1) for frame in frames))
        deadline = monotonic() + DEADLINE
        while self._confirmed < self._published:
            self._next(deadline)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self._send(commands.Basic.Ack(tag, multiple=multiple))

    def reject(self, tag: int, *, requeue: bool) -> None:
        self._send(commands.Basic.Reject(tag, requeue=requeue))

    def close_channel(self) -> None:
        """Close the channel without cancelling first."""
        self.request(commands.Channel.Close(200, "", 0, 0), commands.Channel.CloseOk)

    def kill(self) -> None:
        """Reset the connection."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def pump(self) -> None:
        """Take what has arrived, without waiting."""
        self._socket.setblocking(False)
        try:
            while data := self._socket.recv(1 << 16):
                self._buffer += data
        except BlockingIOError:
            pass
        finally:
            self._socket.settimeout(DEADLINE)
        while (frame := self._parsed()) is not None:
            self._handle(frame)

    def _send(self, frame: Frame, *, channel: int = 1) -> None:
        self._socket.sendall(pamqp.frame.marshal(frame, channel))

    def _wait(self, answer: type[Answer]) -> Answer:
        deadline = monotonic() + DEADLINE
        while True:
            frame = self._next(deadline)
            if isinstance(frame, answer):
                return frame

    def _next(self, deadline: float) -> pamqp.frame.FrameTypes:
        while (frame := self._parsed()) is None:
            if monotonic() > deadline:
                raise TimeoutError("the broker does not answer")
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the broker closed the connection")
            self._buffer += data
        self._handle(frame)
        return frame

    def _parsed(self) -> pamqp.frame.FrameTypes | None:
        if len(self._buffer) < 7 or len(self._buffer) < 8 + int.from_bytes(self._buffer[3:7], "big"):
            return None
        used, _, frame = pamqp.frame.unmarshal(self._buffer)
        self._buffer = self._buffer[used:]
        return frame

    def _handle(self, frame: pamqp.frame.FrameTypes) -> None:
        match frame:
            case commands.Basic.Deliver():
                self._announced = frame
            case ContentHeader() if frame.body_size == 0:
                self._arrived(b"")
            case body.ContentBody():
                self._arrived(frame.value)
            case commands.Basic.Ack():
                self._confirmed = frame.delivery_tag
            case commands.Basic.Cancel():
                self.cancelled.append(frame.consumer_tag or "")
            case commands.Channel.Close() | commands.Connection.Close():
                raise ConnectionResetError(f"the broker closed the channel: {frame.reply_code} {frame.reply_text}")

    def _arrived(self, data: bytes) -> None:
        deliver, self._announced = self._announced, None
        assert deliver is not None, "content without a delivery"
        assert deliver.delivery_tag is not None
        self.deliveries.append((deliver.delivery_tag, data.decode(), bool(deliver.redelivered)))
