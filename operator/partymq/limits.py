"""How much of anything others may have of this process.

Invariant: whatever comes from outside has a limit that is known before it is read. Each has a default that real use
does not meet; what meets it gets a sentence, and costs nobody else.

docs/limits.md lists them all, with those that are not settings; `make generate` writes its table of settings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from partymq import values
from partymq.errors import InvalidSpecError
from partymq.foreign import NAME, shown

VARIABLES: Final = "PARTYMQ_LIMIT_"
_MIB: Final = 1024**2
MOST: Final = 2**40


def _limit(default: int, what: str, meets: str, *, least: int = 1, size: bool = False) -> Any:  # noqa: ANN401 - as `field`
    return field(default=default, metadata={"what": what, "meets": meets, "least": least, "size": size})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that are settings, each with what it is of and what happens to what meets it; sizes are bytes."""

    message: int = _limit(
        16 * _MIB,
        "the body of a message that a broker delivers. RabbitMQ's own `max_message_size` is 16 MiB; where yours is "
        "larger, raise this, too",
        "the session ends with `MessageTooLarge`, and is tried ever more rarely; the message stays in its queue",
        size=True,
    )
    answer: int = _limit(
        8 * _MIB,
        "an answer of a management API, as it is sent: it is never unpacked",
        "`ManagementUnreachable` (of `ConsumersSafe` and `QueuesSafe`); routing goes on",
        least=64 * 1024,
        size=True,
    )
    listed: int = _limit(20_000, "consumers, or queues, in a management API's list", "the same")
    clients: int = _limit(
        1000,
        "clients of the HTTP API that are bound to a group, or were and still have an inbox",
        "`bind` is answered 429",
    )
    connections: int = _limit(
        1000,
        "connections to each HTTP port, and at most a quarter of the files that the process may open",
        "the one that has idled for longest is closed",
        least=8,
    )
    groups_in_namespace: int = _limit(
        200, "PartitionGroups of a namespace", "the younger ones are not routed: `TooManyGroups`"
    )
    partitions_in_namespace: int = _limit(32_768, "partitions of all of them", "the same")
    groups: int = _limit(1000, "PartitionGroups that a process routes", "the same")
    partitions: int = _limit(131_072, "partitions of all of them", "the same")


def names() -> tuple[str, ...]:
    """What the limits are called on the command line and in the chart."""
    return tuple(one.name.replace("_", "-") for one in fields(Limits))


def load_limits(given: Iterable[str], environ: Mapping[str, str]) -> Limits:
    """Limits out of `name=value` (a flag each) and PARTYMQ_LIMIT_<NAME>; raises InvalidSpecError."""
    flags = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or name not in names():
            raise InvalidSpecError(f"--limit {shown(text, NAME)!r} is no limit: give NAME=VALUE with {_listed()}.")
        flags[name] = value
    found = {}
    for one in fields(Limits):
        name = one.name.replace("_", "-")
        if said := flags.get(name) or environ.get(f"{VARIABLES}{one.name.upper()}"):
            found[one.name] = _number(name, said, least=one.metadata["least"], size=one.metadata["size"])
    return Limits(**found)


def _number(name: str, text: str, *, least: int, size: bool) -> int:
    number = values.size(text) if size else values.number(text)
    if number is None or not least <= number <= MOST:
        what = f"a size of at least {least}, such as 16Mi" if size else f"a number of at least {least}"
        variable = f"{VARIABLES}{name.upper().replace('-', '_')}"
        raise InvalidSpecError(f"--limit {name}={shown(text, NAME)} ({variable}): give {what}.")
    return number


def _listed() -> str:
    return ", ".join(names())
