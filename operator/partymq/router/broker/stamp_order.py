"""What was collected of several queues, put in the order of its stamps.

Invariant: nothing is left out but what is there twice: the same stamp, and the same message. A copy between two queues
that a crash has left in both is such a repeat. A stamp alone proves nothing: a client can publish a message of its own,
with the headers of one that it has received, straight into a queue of ours. That is another message, and it stays.

What has no stamp that one of our sessions can have set was never routed by us; it comes first, to be set aside.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from partymq.amqp.frames import body_payload
from partymq.core.names import SPREAD
from partymq.message.stamp import Stamp
from partymq.message.tables import HEADERS, TIMESTAMP, entries, properties

Message = tuple[Stamp | None, bytes, bytes]
"""Stamp, content header's payload, body frames."""

NEWEST: Final = 1 << 40
"""No group comes to so many sessions: where nothing says how many there were, and a place to count on from."""
_CLOCKED: Final = b"\x0ftimestamp_in_ms"
"""Set by the broker's interceptor, which may set the property `timestamp`, too."""
_BY_BROKERS: Final = {b"\x10x-delivery-count", b"\x10x-acquired-count", b"\x0bx-routed-by", _CLOCKED}
"""Headers that a broker may set anew whenever a message is delivered or published."""


def genuine(stamp: Stamp, *, partitions: int, newest: int) -> bool:
    """Whether a session up to the epoch `newest` can have set it; another group's stamp often cannot be ours."""
    return SPREAD <= stamp.partition < partitions and 0 < stamp.epoch <= newest


def in_order(messages: Iterable[Message], *, partitions: int, newest: int) -> list[Message]:
    """All messages by stamp, in the order in which they came where that is the same; repeats only once.

    Those without a genuine stamp come first, and have None for it.
    """
    strays: list[Message] = []
    found: defaultdict[Stamp, list[Message]] = defaultdict(list)
    for message in messages:
        stamp = message[0]
        if stamp is None or not genuine(stamp, partitions=partitions, newest=newest):
            strays.append((None, *message[1:]))
        else:
            found[stamp].append(message)
    return [*strays, *(message for stamp in sorted(found) for message in _different(found[stamp]))]


def _different(messages: list[Message]) -> Iterator[Message]:
    if len(messages) == 1:
        yield messages[0]
        return
    seen = set()
    for message in messages:
        content = _content(*message[1:])
        if content not in seen:
            seen.add(content)
            yield message


def _content(header: bytes, body: bytes) -> tuple[object, ...]:
    """What makes it this message, however often brokers have written its header anew."""
    kept = []
    rows: set[bytes] = set()
    clocked = False
    for flag, start, stop in properties(header):
        if flag != HEADERS:
            kept.append((flag, header[start:stop]))
            continue
        for entry in entries(header, start, stop):
            name = header[entry.start : entry.kind_at]
            clocked = clocked or name == _CLOCKED
            if name not in _BY_BROKERS:
                rows.add(header[entry.start : entry.stop])
    properties_kept = tuple(each for each in kept if not clocked or each[0] != TIMESTAMP)
    return properties_kept, frozenset(rows), body_payload(body)
