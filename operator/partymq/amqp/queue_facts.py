"""What a queue that somebody else declared is, asked over AMQP.

Invariant: asking makes no queue and changes none. No method tells what a queue is. But who declares one that exists
with other properties is refused and told the first that differs, in words: whether it is in exclusive use, then
`durable`, `auto_delete` and the arguments, in an order of the broker's (`rabbit_amqqueue:assert_equivalence`, the same
in 4.0 to 4.3). What is told is put into the next question, which then gets further. No question can succeed: it asks
for a queue type that does not exist, so what is not there is not made, and what is there differs in that at least.

It takes the permission to configure the queue, and the broker logs each question as an error: nobody asks in a loop.
"""

import re
from collections.abc import Mapping
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.topology import Topology
from partymq.core.hazards import QueueFacts
from partymq.errors import AccessRefusedError, ChannelClosedError

LOCKED: Final = 405
"""The reply code for a queue in exclusive use by another connection."""

_ASKED_TYPE: Final = "partymq-asks"
_QUESTIONS: Final = 12
"""At most: the arguments that come before the type are fewer."""
_INTEGERS: Final = {"byte", "unsignedbyte", "short", "unsignedshort", "signedint", "unsignedint", "long", "timestamp"}
_TOLD: Final = re.compile(r"inequivalent arg '([\w-]+)' for queue .* but current is (.*)", re.DOTALL)
_VALUE: Final = re.compile(r"the value '(.*)' of type '(\w+)'", re.DOTALL)


class UnaskableError(AccessRefusedError):
    """The user may not configure the queue, and so cannot ask."""


async def ask(topology: Topology, queue: str) -> QueueFacts | None:
    """What a queue is, as far as its type, life and expiry go; None where there is none or the answer is unknown.

    Raises `UnaskableError`.
    """
    durable = True
    arguments: dict[str, int | str | None] = {}
    for _ in range(_QUESTIONS):
        match await _question(topology, queue, durable=durable, arguments=arguments):
            case ("exclusive", _):
                return QueueFacts(name=queue, exclusive=True)
            case ("durable", "false"):
                durable = False
            case ("auto_delete", "true"):
                return QueueFacts(name=queue, durable=durable, auto_delete=True)
            case ("x-queue-type", str(kind)):
                return QueueFacts(name=queue, kind=kind, durable=durable, arguments=arguments)
            case (str(key), value) if key.startswith("x-"):
                arguments[key] = value
                if key == "x-expires":
                    return QueueFacts(name=queue, durable=durable, arguments=arguments)
            case _:
                return None
    return None


async def _question(
    topology: Topology, queue: str, *, durable: bool, arguments: Mapping[str, int | str | None]
) -> tuple[str, int | str] | None:
    """One declaration: the property that differs, and what it is at the broker."""

    async def declare(channel: Channel) -> tuple[str, int | str] | None:
        try:
            await channel.declare_queue(queue, {**arguments, "x-queue-type": _ASKED_TYPE}, durable=durable)
        except AccessRefusedError as error:
            raise UnaskableError(str(error)) from None
        except ChannelClosedError as error:
            return ("exclusive", "true") if error.code == LOCKED else _told(error.text)
        return None

    return await topology.errand(f"queue {queue!r}", declare)


def _told(text: str) -> tuple[str, int | str] | None:
    found = _TOLD.search(text)
    if found is None:
        return None
    key, said = found.groups()
    if (value := _VALUE.fullmatch(said)) is not None:
        return key, int(value[1]) if value[2] in _INTEGERS else value[1]
    return key, said.strip("'")
