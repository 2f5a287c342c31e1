"""The words of which a spec may say one, where it has a choice.

Invariant: a word's value is what stands in resources and files; it never changes.
"""

from enum import StrEnum


class KeyFrom(StrEnum):
    """Where a message's key stands."""

    HEADER = "header"
    BODY = "body"
    PROPERTY = "property"
    ROUTING_KEY = "routingKey"


class OnMissing(StrEnum):
    """What happens to a message without a usable key: any member without order, or the dead queue."""

    SPREAD = "spread"
    DEAD_LETTER = "deadLetter"


class OnTimeout(StrEnum):
    """What happens to a donor that holds messages for longer than the handoff's timeout."""

    WAIT = "Wait"
    CLOSE_CONNECTION = "CloseConnection"


class DeletionPolicy(StrEnum):
    """Which of a deleted group's queues go with it."""

    DELETE_EMPTY = "DeleteEmpty"
    DELETE = "Delete"
