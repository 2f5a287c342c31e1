"""What a client process is asked to do; it crosses to the process as one JSON argument.

Invariant: a test's client and the process that runs it share these values and nothing else.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

KEY_HEADER = "partitionKey"


class Library(StrEnum):
    """The AMQP library that a consumer is written with."""

    AIO_PIKA = "aio-pika"
    PIKA = "pika"


class Leave(StrEnum):
    """What a consumer does on SIGTERM; SIGKILL needs no cooperation."""

    FINISH = "finish"
    """Cancel, work off and acknowledge what it holds, close."""
    DROP = "drop"
    """Close at once, without a cancel and without acknowledging (aio-pika's `close`)."""
    CANCEL = "cancel"
    """Cancel, go on working for `linger` seconds without acknowledging, close (pika's `Channel.close` cancels
    first)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """A consumer: reports to the spool's directory, or to a queue on its own channel when `report_queue` is set."""

    url: str
    queue: str
    name: str
    spool: str = ""
    report_queue: str = ""
    library: Library = Library.AIO_PIKA
    prefetch: int = 20
    work: float = 0.0
    """Seconds that a message takes; messages are handled one after the other."""
    leave: Leave = Leave.FINISH
    linger: float = 0.2
    """Seconds between a cancel (and the last ack, if all are worked off) and the close."""
    hold_after: int | None = None
    """Acknowledge so many messages and hold all later ones for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """A producer: numbers grow per key, keys are drawn evenly, one publish in flight order per key."""

    url: str
    queue: str
    name: str
    spool: str
    rate: float = 500.0
    """Messages a second; 0 sends as fast as confirms come."""
    keys: int = 100
    count: int | None = None
    """Stop after so many; None sends until SIGTERM."""
    size: int = 200
    """Bytes of the body, at least."""
    in_header: bool = True
    """Whether the header `partitionKey` carries the key; the JSON body carries it in any case, as `key`."""
    keyless: float = 0.0
    """The share of messages without any key."""
    first_keyless: int = 0
    """The number of the first of these: it grows from producer to producer, for they share the empty key."""
    in_flight: int = 500
    """Most unconfirmed publishes."""
    seed: int = 0


def to_argument(options: ConsumerOptions | ProducerOptions) -> str:
    """The options as a command-line argument."""
    return json.dumps(asdict(options))


def consumer_options(argument: str) -> ConsumerOptions:
    """The consumer's options of a command-line argument."""
    values = json.loads(argument)
    values["library"] = Library(values.get("library", Library.AIO_PIKA))
    values["leave"] = Leave(values.get("leave", Leave.FINISH))
    return ConsumerOptions(**values)


def producer_options(argument: str) -> ProducerOptions:
    """The producer's options of a command-line argument."""
    return ProducerOptions(**json.loads(argument))
