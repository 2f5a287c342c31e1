"""Which consumers weaken the promises, and what to change.

Invariant: this only names them. What is known of consumers is seconds old, so nothing that a promise rests on follows
from it (docs/guarantees.md says what still holds with each).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from partymq.core.names import Names

T = TypeVar("T")

TAKEOVER_PRIORITY: Final = 2147483647
"""The highest there is: a consumer with any other priority can be taken over."""
OUR_TAG: Final = "partymq"
"""The consumer tag of every consumer that PartyMQ has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A queue's consumer, and the connection that it belongs to."""

    connection: str
    """The connection's name at the broker: both ends' addresses."""
    client: str
    """Host and port of the other end, as the broker sees it."""
    tag: str
    active: bool
    """Whether it is the one that is served."""
    acknowledges: bool
    """False for automatic acknowledgement: then nobody knows what it holds."""
    prefetch: int = 1
    """Most messages that it may hold; 0 is no limit."""
    priority: int = 0
    session: str = ""
    """Of the router's own consumer of a journal: which session it is."""
    node: str = ""
    """The broker's node that its connection goes to."""

    @property
    def foreign(self) -> bool:
        """True unless it is PartyMQ's own."""
        return self.tag != OUR_TAG


SESSION_ARGUMENT: Final = "x-partymq-session"
"""The argument with which a router consumes its journal: who sees it there asks the very broker that it is on."""

_PREFIX_PARTS: Final = 3
MOST: Final = 500
"""Weaknesses of a group that are looked for: nobody reads more of them, and a broker may list any number."""
_PLACES: Final = 10

Consumers = Mapping[str, tuple[Consumer, ...]]
"""By queue."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Weakness:
    """`who` is a pod or a queue; `what` is a sentence that says what is wrong and what to change."""

    who: str
    what: str
    passing: bool = False
    """Whether it may be over in a moment, as when a container starts again: it is told when it was seen twice."""


def by_group(queues: Mapping[str, T]) -> Mapping[str, Mapping[str, T]]:
    """What is known of each group's own queues, by what the names of these begin with."""
    groups: dict[str, dict[str, T]] = {}
    for queue, known in queues.items():
        parts = queue.split(".", _PREFIX_PARTS)  # neither a namespace nor a group has a dot in its name
        if len(parts) > _PREFIX_PARTS:
            groups.setdefault(queue.removesuffix(parts[-1]), {})[queue] = known
    return groups


def shows(journal: Iterable[Consumer], session: str) -> bool:
    """Whether one of a journal's consumers is this session's."""
    return any(consumer.tag == OUR_TAG and consumer.session == session for consumer in journal)


def weaknesses(names: Names, source: str, consumers: Consumers) -> tuple[Weakness, ...]:
    """What weakens the promises to this group, each once, in order."""
    found: set[Weakness] = set()
    prefix = names.prefix
    for queue, consuming in consumers.items():
        if len(found) >= MOST:
            break
        if not queue.startswith(prefix) and queue != source:
            continue  # most are other groups'
        foreign = [consumer for consumer in consuming if consumer.foreign]
        if (pod := names.member_of(queue)) is not None:
            found.update(Weakness(who=pod, what=what) for consumer in foreign for what in _of_pod(pod, consumer))
            if len(foreign) > 1:
                found.add(Weakness(who=pod, what=_of_several(queue, foreign), passing=True))
        elif foreign and queue == source:
            found.add(Weakness(who=queue, what=_of_source(queue, foreign)))
        elif foreign and queue != names.dead:
            found.add(Weakness(who=queue, what=_of_our_queue(queue, foreign)))
    return tuple(sorted(found))


def _of_pod(pod: str, consumer: Consumer) -> Iterable[str]:
    if not consumer.acknowledges:
        yield (
            f"pod {pod} consumes with automatic acknowledgement: nobody knows what it still works on, so two pods may "
            "hold a key, and what it held is lost if it dies. Consume with manual acknowledgement (no_ack=false)"
        )
    elif consumer.prefetch == 0:
        yield (
            f"pod {pod} consumes without a prefetch limit: it is given all that there is, and its partitions can move "
            "only after it has worked all of it off. Set a prefetch (basic.qos) before consuming, such as 20"
        )
    if consumer.priority >= TAKEOVER_PRIORITY:
        yield (
            f"pod {pod} consumes with x-priority {consumer.priority}, the highest there is: its partitions cannot be "
            "taken over while it consumes. Leave x-priority out"
        )


def _of_several(queue: str, foreign: Iterable[Consumer]) -> str:
    return (
        f"{queue!r} has several consumers ({_places(foreign)}): when one is cancelled while it holds messages, the "
        "broker gives the next one newer messages first, and two hold a key. Consume an inbox once; more threads or "
        "connections in one pod do not make it faster than a larger prefetch"
    )


def _of_source(queue: str, foreign: Iterable[Consumer]) -> str:
    return (
        f"the source queue {queue!r} has another consumer ({_places(foreign)}): it takes messages out of the order, or "
        "will as soon as it is served. Stop it"
    )


def _of_our_queue(queue: str, foreign: Iterable[Consumer]) -> str:
    return (
        f"{queue!r} is consumed by somebody else ({_places(foreign)}): what it takes is lost to the group. Stop it; "
        "pods consume nothing but their own inbox"
    )


def _places(consumers: Iterable[Consumer]) -> str:
    places = sorted({consumer.client for consumer in consumers})
    more = [f"and {len(places) - _PLACES} more"] if len(places) > _PLACES else []
    return ", ".join([*places[:_PLACES], *more])
