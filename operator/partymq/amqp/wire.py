"""Temporary: the frame pieces of `connection` and `channel`."""

import struct
from typing import Final

PUBLISH_CHANNEL: Final = 1
END: Final = b"\xce"
METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
_PREFIX = struct.Struct(">BHI")
BODY_PREFIX: Final = struct.pack(">BH", BODY, PUBLISH_CHANNEL)


def header_prefix(channel: int, size: int) -> bytes:
    """What stands before a content header's payload of `size` bytes."""
    return _PREFIX.pack(HEADER, channel, size)
