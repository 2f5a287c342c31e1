"""What a management API answers, from bytes to values.

Invariant: nothing that an API may answer ends anything but this one question. Bytes, values and the time that they take
are limited before they are there; what comes out has the types that it says, and of what is shown to people nothing but
printable text. A large answer is read by a thread of its own, one at a time, for messages are routed meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import aiohttp
import orjson

from partymq.core.consumers import SESSION_ARGUMENT, Consumer, Consumers
from partymq.core.hazards import QueueFacts
from partymq.errors import BrokerError
from partymq.foreign import NAME, shown

T = TypeVar("T")

FREELY: Final = 256 * 1024
"""Bytes of an answer that count for nothing."""
AT_ONCE: Final = 32 * 1024 * 1024
"""Bytes of larger answers that a process has read and not understood yet."""
INLINE: Final = 32 * 1024
"""Bytes that are parsed as fast as a thread is asked."""
_BYTES_A_VALUE: Final = 8
_BYTES_A_TABLE: Final = 32
"""Less than in any answer that means something; each costs a multiple of it."""
_FEW: Final = 1024
MANY: Final = 100
"""Consumers of a queue that are looked at: one is enough for what is told of most."""
_LONGEST: Final = 512
"""Characters of a name, and of a text in a policy."""
_KEYS: Final = 64
"""Of a queue's arguments, or of a policy."""

_READING: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")


class UnreadableError(BrokerError):
    """An answer is no JSON, too much, or of another shape than the API's; says which."""


class Arriving:
    """What a process has of answers that are not whole: nobody has more than is left for others."""

    def __init__(self, total: int) -> None:
        self.free = total

    async def read(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        """The body, as it is sent; raises UnreadableError beyond `most` bytes, or when there is no room now."""
        parts: list[bytes] = []
        size = counted = 0
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > most:
                    raise UnreadableError(f"more than {most} bytes (the limit `answer`)")
                parts.append(chunk)
                if size > FREELY:
                    self.free -= size - counted
                    counted = size
                    if counted > self.free:
                        raise UnreadableError("more than there is room for beside what others answer now")
            return b"".join(parts)
        finally:
            self.free += counted


ARRIVING: Final = Arriving(AT_ONCE)
"""One for all: the process's memory is."""


async def understood(data: bytes, read: Callable[[object], T]) -> T:
    """What `read` makes of the JSON; raises UnreadableError."""
    if len(data) <= INLINE:
        return _parsed(data, read)
    return await asyncio.get_running_loop().run_in_executor(_READING, _parsed, data, read)


def _parsed(data: bytes, read: Callable[[object], T]) -> T:
    tables = data.count(b"{") + data.count(b"[")
    if tables > _FEW + len(data) // _BYTES_A_TABLE or data.count(b",") > _FEW + len(data) // _BYTES_A_VALUE:
        raise UnreadableError("more values than any list of queues or consumers has")
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UnreadableError("no JSON") from None
    try:
        return read(found)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        raise UnreadableError("JSON of another shape than the API's") from None


def nothing(_found: object) -> None:
    """Of an answer of which nothing is kept."""


def details(found: object) -> list[Consumer]:
    """The consumers in the answer about one queue."""
    listed = found.get("consumer_details") if isinstance(found, Mapping) else None
    return [consumer(one) for one in _rows(listed)[:MANY]]


def consumers(found: object, most: int) -> Consumers:
    """The consumers by queue, of each queue the first ones; raises UnreadableError beyond `most`."""
    rows = _rows(found)
    if len(rows) > most:
        raise UnreadableError(f"{len(rows)} consumers, which is more than {most} (the limit `listed`)")
    by_queue: dict[str, list[Consumer]] = {}
    for row in rows:
        known = by_queue.setdefault(_text(_table(row["queue"])["name"]), [])
        if len(known) < MANY:
            known.append(consumer(row))
    return {queue: tuple(known) for queue, known in by_queue.items()}


def consumer(row: Mapping[str, object]) -> Consumer:
    """One consumer."""
    # A consumer whose channel just went has `[]` there: Erlang's empty list for an empty object.
    channel, arguments = _table(row.get("channel_details")), _table(row.get("arguments"))
    host, port = shown(_text(channel.get("peer_host")), NAME), _number(channel.get("peer_port"), 0)
    return Consumer(
        connection=_text(channel.get("connection_name")),
        client=f"{host}:{port or ''}",
        tag=_text(row.get("consumer_tag")),
        active=bool(row.get("active", False)),
        acknowledges=bool(row.get("ack_required", True)),
        prefetch=_number(row.get("prefetch_count"), 1),
        priority=_number(arguments.get("x-priority"), 0),
        session=_text(arguments.get(SESSION_ARGUMENT)),
        node=shown(_text(channel.get("node")), NAME),
    )


def queue_names(found: object) -> frozenset[str]:
    """The names in a list of queues."""
    return frozenset(_text(row["name"]) for row in _rows(found, must=True))


def queue_facts(found: object) -> QueueFacts | None:
    """What one queue is; None where there is none."""
    return _facts(found) if isinstance(found, Mapping) else None


def page(found: object) -> tuple[tuple[QueueFacts, ...], int]:
    """The queues on a page, and how many pages there are."""
    if not isinstance(found, Mapping):
        raise UnreadableError("JSON of another shape than the API's")
    return tuple(_facts(row) for row in _rows(found["items"], must=True)), _number(found["page_count"], 1)


def keys(found: object) -> tuple[str, ...]:
    """The routing keys in a list of bindings of queues."""
    return tuple(_text(row["routing_key"]) for row in _rows(found) if row["destination_type"] == "queue")


def tags(found: object) -> frozenset[str]:
    """What a user is."""
    given = _table(found).get("tags")
    return frozenset(tag for tag in given if isinstance(tag, str)) if isinstance(given, list) else frozenset()


def stopped(found: object) -> frozenset[str]:
    """The nodes of a list that do not run."""
    return frozenset(_node(row["name"]) for row in _rows(found)[:_FEW] if not row.get("running", True))


def offline(found: object) -> frozenset[str]:
    """The members of a quorum queue that are not online."""
    facts = _table(found)
    return (
        _nodes(facts.get("members")) - _nodes(facts["online"]) if isinstance(facts.get("online"), list) else frozenset()
    )


def members(found: object) -> Mapping[str, bool]:
    """The nodes that a quorum queue's status lists, and whether its member runs there."""
    states = {_text(row.get("Node Name")): _text(row.get("Raft State")) for row in _rows(found)[:_FEW]}
    return {node: state != "noproc" and not state.startswith("terminating") for node, state in states.items()}


def _facts(row: Mapping[str, object]) -> QueueFacts:
    # Where no policy holds it is null, and its keys are `{}` or `[]`; missing, until the queue's first figures came.
    return QueueFacts(
        name=_text(row["name"]),
        kind=_text(row.get("type")) or "classic",
        durable=bool(row.get("durable", True)),
        auto_delete=bool(row.get("auto_delete", False)),
        exclusive=bool(row.get("exclusive", False)),
        arguments=_scalars(row.get("arguments")),
        policy=_text(row.get("policy")),
        operator_policy=_text(row.get("operator_policy")),
        definition=_scalars(row.get("effective_policy_definition")),
        settled="policy" in row,
        members=_nodes(row.get("members")),
        online=_nodes(row.get("online")),
    )


def _rows(found: object, *, must: bool = False) -> list[Mapping[str, object]]:  # each raises where it is no table
    if not isinstance(found, list):
        if must:
            raise UnreadableError("JSON of another shape than the API's")
        return []
    if not all(isinstance(row, dict) for row in found):
        raise UnreadableError("JSON of another shape than the API's")
    return found


def _table(found: object) -> Mapping[str, object]:
    return found if isinstance(found, Mapping) else {}


def _scalars(found: object) -> Mapping[str, object]:
    rows: Iterable[tuple[str, object]] = list(_table(found).items())[:_KEYS]
    return {
        key[:_LONGEST]: value[:_LONGEST] if isinstance(value, str) else value
        for key, value in rows
        if value is None or isinstance(value, str | int | float | bool)
    }


def _text(found: object) -> str:
    return found[:_LONGEST] if isinstance(found, str) else ""


def _node(found: object) -> str:
    return shown(_text(found), NAME)


def _nodes(found: object) -> frozenset[str]:
    return frozenset(map(_node, found[:_FEW])) if isinstance(found, list) else frozenset()


def _number(found: object, default: int) -> int:
    return found if isinstance(found, int) and not isinstance(found, bool) else default
