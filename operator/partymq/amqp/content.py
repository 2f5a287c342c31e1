"""A message that arrives in more than one read chunk, or between other channels' frames.

Invariant: a message is handed on when its last byte is there, and only then. No more of it is kept than was announced,
and none is begun that announces more than the connection's limit.
"""

from collections.abc import Callable
from typing import Final

from partymq.amqp.frames import BODY, FRAME_END, FRAME_HEAD, HEADER_HEAD, SMALLEST_CONTENT_HEADER
from partymq.errors import ConnectionLostError, MessageTooLargeError, NotAmqpError
from partymq.limits import Limits

_SMALL_FRAME: Final = 1024
"""Bytes: a broker fills its frames, of 4096 at least, all but the last."""
_FEW_FRAMES: Final = 16

DeliveryCallback = Callable[[int, bytes, bytes, bytes], None]
"""Gets delivery tag, exchange and routing key as two short strings, the content header's payload, the body frames."""


class Content:
    """What has arrived of one channel's current message, and who gets it when it is whole."""

    __slots__ = (
        "_channel",
        "_frames",
        "_header",
        "_missing",
        "_most",
        "_origin",
        "_parts",
        "_tag",
        "_wanted",
        "on_delivery",
        "on_returned",
        "redelivered",
    )

    def __init__(self, channel: int, most: int = Limits().message) -> None:
        """`most` are the bytes of a body that is taken in."""
        self.on_delivery: DeliveryCallback = _nobody
        self.on_returned: Callable[[bytes], None] = _nowhere
        """Gets the content header's payload of a message that came back."""
        self.redelivered = False
        """True once there was a message that some consumer had been given before."""
        self._channel = channel
        self._most = most
        self._tag = 0
        self._origin = b""
        self._header = b""
        self._parts: list[bytes] = []
        self._missing = -1
        """Bytes of the body to come; -1 while the content header is still to come."""
        self._frames = 0
        """The most frames that it may come in: what each one takes besides is more than a small one."""
        self._wanted = False
        """True from the method that announces a message to its end."""

    def begin(self, tag: int, origin: bytes) -> None:
        """A delivery's method frame."""
        self._expect_none()
        self._tag, self._origin = tag, origin
        self._wanted = True

    def skip(self) -> None:
        """A returned message's method frame."""
        self._expect_none()
        self._tag = 0
        self._wanted = True

    def drop(self) -> None:
        """Hand on nothing any more."""
        self.on_delivery = _nobody

    def header(self, payload: bytes) -> None:
        """The content header's payload."""
        if not self._wanted or self._missing >= 0 or len(payload) < SMALLEST_CONTENT_HEADER:
            raise ConnectionLostError(f"an unexpected content header on channel {self._channel}")
        self._header = payload
        self._missing = HEADER_HEAD.unpack_from(payload)[2]
        if self._missing > self._most:
            raise MessageTooLargeError(self._missing, self._most)
        self._frames = _FEW_FRAMES + self._missing // _SMALL_FRAME
        if self._missing == 0:
            self._finish()

    def body(self, payload: bytes) -> None:
        """A body frame's payload."""
        size = len(payload)
        if not self._wanted or not 0 < size <= self._missing:  # each empty frame would be kept, too
            raise ConnectionLostError(f"an unexpected body on channel {self._channel}")
        if len(self._parts) >= self._frames:
            raise NotAmqpError(f"a body in more than {self._frames} frames on channel {self._channel}")
        self._parts.append(FRAME_HEAD.pack(BODY, self._channel, size) + payload + FRAME_END)
        self._missing -= size
        if self._missing == 0:
            self._finish()

    def _finish(self) -> None:
        tag, origin, header, body = self._tag, self._origin, self._header, b"".join(self._parts)
        self._header = b""
        self._parts.clear()
        self._missing = -1
        self._wanted = False
        if tag:  # delivery tags count from 1; a returned message has none
            self.on_delivery(tag, origin, header, body)
        else:
            self.on_returned(header)

    def _expect_none(self) -> None:
        if self._wanted:
            raise ConnectionLostError(f"a message within a message on channel {self._channel}")


def _nowhere(header: bytes) -> None:
    """A returned message that nobody asks about."""


def _nobody(tag: int, origin: bytes, header: bytes, body_frames: bytes) -> None:
    """A delivery that came too early or too late."""
