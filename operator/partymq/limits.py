"""How much of anything others may have of this process.

Invariant: whatever comes from outside has a limit that is known before it is read. Each has a default that real use
does not meet; what meets it gets a sentence, and costs nobody else.

docs/limits.md lists them all, with those that are not settings.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from partymq.errors import InvalidSpecError
from partymq.foreign import NAME, shown

VARIABLES: Final = "PARTYMQ_LIMIT_"
_SIZE: Final = re.compile(r"(\d{1,12})(Ki|Mi|Gi)?")
_UNITS: Final = {"": 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
_MIB: Final = 1024**2
MOST: Final = 2**40


def _limit(default: int, what: str, *, least: int = 1, size: bool = False) -> Any:  # noqa: ANN401 - as `field`
    return field(default=default, metadata={"what": what, "least": least, "size": size})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that are settings; sizes are bytes."""

    message: int = _limit(
        16 * _MIB, "the body of a message that a broker delivers; RabbitMQ's own max_message_size", size=True
    )
    answer: int = _limit(8 * _MIB, "an answer of a management API", least=64 * 1024, size=True)
    listed: int = _limit(20_000, "consumers, or queues, that are taken in from a management API's list")
    clients: int = _limit(1000, "clients of the HTTP API that are bound to a group")
    connections: int = _limit(1000, "connections to each HTTP port", least=8)
    groups: int = _limit(1000, "groups that a process routes")
    partitions: int = _limit(131_072, "partitions of all groups that a process routes")
    groups_in_namespace: int = _limit(200, "groups of a namespace")
    partitions_in_namespace: int = _limit(32_768, "partitions of all groups of a namespace")


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
    found = _SIZE.fullmatch(text)
    number = int(found[1]) * _UNITS[found[2] or ""] if found and (size or not found[2]) else -1
    if not least <= number <= MOST:
        what = f"a size of at least {least}, such as 16Mi" if size else f"a number of at least {least}"
        variable = f"{VARIABLES}{name.upper().replace('-', '_')}"
        raise InvalidSpecError(f"--limit {name}={shown(text, NAME)} ({variable}): give {what}.")
    return number


def _listed() -> str:
    return ", ".join(names())
