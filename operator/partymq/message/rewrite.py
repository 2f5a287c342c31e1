"""What cannot be forwarded as it is, because forwarding is publishing again.

Invariant: after `rewrite` a message may be published any number of times, by any user, into any quorum queue: it
arrives there, in the order in which it is sent, and nowhere else. What is taken out is kept in a header.

- Property `expiration`: the time to live would start anew in every queue, and drop messages between them. Kept in
  `x-partymq-expiration`.
- Property `user-id`: the broker refuses a publish whose user-id is not the name of the connection's user
  (PRECONDITION_FAILED, and the channel is closed): one such message would end every session. Kept in
  `x-partymq-user-id`.
- Property `priority`: a quorum queue delivers what has a higher priority earlier. Up to RabbitMQ 4.2 there are two
  levels, up to 4 and above; since 4.3 there are 32, and a message without priority is on level 4, so that even 0,
  which some clients always send, comes late. No priority is therefore left in. Kept in `x-partymq-priority`.
- Property `reply-to`, if it is `amq.rabbitmq.reply-to` and nothing more: a requester writes that, and the broker puts
  the address of its channel there. What comes by AMQP 1.0 it takes as it is, and then it refuses it from whoever is no
  requester (PRECONDITION_FAILED). Kept in `x-partymq-reply-to`. An address that the broker has written,
  `amq.rabbitmq.reply-to.<more>`, is not touched: replies go there.
- Headers `CC` and `BCC`: the broker would send copies to the queues that they name, again at every hop. Renamed to
  `x-partymq-cc` and `x-partymq-bcc`.
- Headers that start with `x-partymq-`: these are ours to set. Removed.

What a client puts straight into a queue of ours has gone through none of that: `passable` is for what is read there.
"""

from struct import Struct
from typing import Final

from partymq.message.tables import EXPIRATION, FLAGS_AT, HEADERS, PRIORITY, REPLY_TO, USER_ID, entries, properties

OURS: Final = b"x-partymq-"
REQUESTER: Final = b"\x15amq.rabbitmq.reply-to"
"""What stands for the address of whoever publishes it."""

# Tests of the two bytes of flags, one by one: cheaper than putting them together.
ALWAYS_HIGH: Final = (PRIORITY | EXPIRATION) >> 8
ALWAYS_LOW: Final = USER_ID
MAYBE_HIGH: Final = REPLY_TO >> 8
_RENAMED: Final = {b"\x02CC": b"\x0cx-partymq-cc", b"\x03BCC": b"\x0dx-partymq-bcc"}
_DROPPED: Final = {*_RENAMED, b"\x10x-delivery-count", b"\x10x-acquired-count"}
_MOVED: Final = {
    PRIORITY: b"\x12x-partymq-priorityB",
    EXPIRATION: b"\x14x-partymq-expirationS\0\0\0",  # a short string with three more bytes of length is a long one
    USER_ID: b"\x11x-partymq-user-idS\0\0\0",
    REPLY_TO: b"\x12x-partymq-reply-toS\0\0\0",
}
_LONG: Final = Struct(">I")


def rewrite(header: bytes) -> bytes:
    """The content header's payload without what cannot be forwarded."""
    return _rewritten(header, keep=True, ours=False)


def bare(header: bytes) -> bytes:
    """The same, but nothing is kept of what is taken out or was added by brokers: no larger than it was published."""
    return _rewritten(header, keep=False, ours=False)


def passable(header: bytes) -> bytes:
    """The same for a message out of a queue of ours: its `x-partymq-` headers stay. Most are passable as they are."""
    high = header[12]
    if (
        high & ALWAYS_HIGH
        or header[13] & ALWAYS_LOW
        or (high & MAYBE_HIGH and REQUESTER in header)
        or (header.find(b"CC") >= 0 and (b"\x02CC" in header or b"\x03BCC" in header))
    ):
        return _rewritten(header, keep=True, ours=True)
    return header


def _rewritten(header: bytes, *, keep: bool, ours: bool) -> bytes:
    flags = HEADERS
    before: list[bytes] = []
    table: list[bytes] = []
    moved: list[bytes] = []
    after: list[bytes] = []
    for flag, start, stop in properties(header):
        content = header[start:stop]
        if flag == HEADERS:
            table = _kept(header, start, stop, renamed=keep, ours=ours)
        elif (head := _MOVED.get(flag)) and (flag != REPLY_TO or content == REQUESTER):
            if keep:
                moved.append(head + content)
        else:
            flags |= flag
            (before if flag > HEADERS else after).append(content)
    rows = b"".join(table + moved)
    return b"".join((header[:FLAGS_AT], flags.to_bytes(2, "big"), *before, _LONG.pack(len(rows)), rows, *after))


def _kept(header: bytes, start: int, stop: int, *, renamed: bool, ours: bool) -> list[bytes]:
    kept = []
    for entry in entries(header, start, stop):
        name = header[entry.start : entry.kind_at]
        if (ours or not name.startswith(OURS, 1)) and (renamed or name not in _DROPPED):
            kept.append(_RENAMED.get(name, name) + header[entry.kind_at : entry.stop])
    return kept
