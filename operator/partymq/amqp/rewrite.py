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
- Headers `CC` and `BCC`: the broker would send copies to the queues that they name, again at every hop. Renamed to
  `x-partymq-cc` and `x-partymq-bcc`.
- Headers that start with `x-partymq-`: these are ours to set. Removed.
"""

from struct import Struct
from typing import Final

from partymq.amqp.tables import EXPIRATION, FLAGS_AT, HEADERS, PRIORITY, USER_ID, entries, properties

OURS: Final = b"x-partymq-"
_RENAMED: Final = {b"\x02CC": b"\x0cx-partymq-cc", b"\x03BCC": b"\x0dx-partymq-bcc"}
_DROPPED: Final = {*_RENAMED, b"\x10x-delivery-count", b"\x10x-acquired-count"}
_MOVED: Final = {
    PRIORITY: b"\x12x-partymq-priorityB",
    EXPIRATION: b"\x14x-partymq-expirationS\0\0\0",  # a short string with three more bytes of length is a long one
    USER_ID: b"\x11x-partymq-user-idS\0\0\0",
}
_LONG: Final = Struct(">I")


def rewrite(header: bytes) -> bytes:
    """The content header's payload without what cannot be forwarded."""
    return _rewritten(header, keep=True)


def bare(header: bytes) -> bytes:
    """The same, but nothing is kept of what is taken out or was added by brokers: no larger than it was published."""
    return _rewritten(header, keep=False)


def _rewritten(header: bytes, *, keep: bool) -> bytes:
    flags = HEADERS
    before: list[bytes] = []
    table: list[bytes] = []
    moved: list[bytes] = []
    after: list[bytes] = []
    for flag, start, stop in properties(header):
        content = header[start:stop]
        if flag == HEADERS:
            table = _kept(header, start, stop, renamed=keep)
        elif head := _MOVED.get(flag):
            if keep:
                moved.append(head + content)
        else:
            flags |= flag
            (before if flag > HEADERS else after).append(content)
    rows = b"".join(table + moved)
    return b"".join((header[:FLAGS_AT], flags.to_bytes(2, "big"), *before, _LONG.pack(len(rows)), rows, *after))


def _kept(header: bytes, start: int, stop: int, *, renamed: bool) -> list[bytes]:
    kept = []
    for entry in entries(header, start, stop):
        name = header[entry.start : entry.kind_at]
        if not name.startswith(OURS, 1) and (renamed or name not in _DROPPED):
            kept.append(_RENAMED.get(name, name) + header[entry.kind_at : entry.stop])
    return kept
