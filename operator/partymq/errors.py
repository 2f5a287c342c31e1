"""Every error that PartyMQ raises on purpose.

    PartyMQError
    ├── InvalidSpecError        what a person wrote cannot be used as it stands
    │   ├── InvalidSecretError
    │   ├── TooManyGroupsError
    │   └── SourceTakenError
    ├── BrokerError             the broker refused, failed or went away
    │   ├── ConnectionLostError
    │   │   ├── ConnectionClosedError
    │   │   ├── OverLimitError
    │   │   ├── NotAmqpError
    │   │   └── MessageTooLargeError
    │   ├── TooMuchAtOnceError
    │   ├── ChannelClosedError
    │   ├── BrokerTooOldError
    │   ├── BrokerUnsuitableError
    │   ├── NodeLostError
    │   ├── AccessRefusedError
    │   ├── LimitReachedError
    │   │   └── NoChannelError
    │   ├── ForeignQueueError
    │   │   └── LockedQueueError
    │   ├── SourceMissingError
    │   ├── SourceSharedError
    │   ├── SourceIsStreamError
    │   ├── SourceSilentError
    │   ├── SourceAtRiskError
    │   ├── SourceTransientError
    │   ├── JournalLostError
    │   └── ClientGoneError
    └── SessionOverError        this router stops being the router: replaced, or asked to stop

`reason` is the CamelCase word that conditions and Events carry; the message is a sentence that says what to do.
"""

import re
from typing import ClassVar, Final


class PartyMQError(Exception):
    """Base of all errors; its message is written for the person who reads a condition, an Event or a log."""

    reason: ClassVar[str] = "InternalError"


class InvalidSpecError(PartyMQError):
    """What a person wrote (a resource, a Secret, a flag) cannot be used as it stands."""

    reason = "InvalidSpec"


class InvalidSecretError(InvalidSpecError):
    """The connection Secret is missing or does not describe a broker."""

    reason = "InvalidSecret"


class TooManyGroupsError(InvalidSpecError):
    """The namespace, or the operator, has as many groups or partitions as it may have."""

    reason = "TooManyGroups"


class SourceTakenError(InvalidSpecError):
    """Another PartitionGroup routes this source queue."""

    reason = "SourceTaken"


class BrokerError(PartyMQError):
    """The broker refused something, failed or went away."""

    reason = "BrokerError"


class ConnectionLostError(BrokerError):
    """The connection could not be made or broke; the broker settles what was unfinished."""

    reason = "BrokerUnreachable"


class ConnectionClosedError(ConnectionLostError):
    """The broker closed the connection, and said why; `code` is the AMQP reply code."""

    reason = "ClosedByBroker"

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the broker closed the connection: {code} {text}")
        self.code = code
        self.text = text


class ChannelClosedError(BrokerError):
    """The broker closed a channel or refused a method; `code` is the AMQP reply code."""

    reason = "ChannelClosed"

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the broker closed a channel: {code} {text}")
        self.code = code
        self.text = text


class BrokerTooOldError(BrokerError):
    """The broker is older than RabbitMQ 4.0: single-active-consumer quorum queues ignore consumer priorities."""

    reason = "BrokerTooOld"


class BrokerUnsuitableError(BrokerError):
    """The broker was seen not to do what handoffs rest on."""

    reason = "BrokerUnsuitable"


class NodeLostError(BrokerError):
    """A node of the broker is lost, and what its clients held may not be settled yet."""

    reason = "NodeLost"


class AccessRefusedError(BrokerError):
    """User name, password, virtual host or permissions are wrong."""

    reason = "AccessRefused"

    @classmethod
    def permission(cls, refused: str) -> "AccessRefusedError":
        """What the broker refuses for want of a permission, and which ones are needed."""
        return cls(
            f"The broker says {refused}. Give the user of the connection Secret the permissions to configure, write "
            "and read partymq.*, to write amq.default, and to read the source queue (RabbitMQ 4.2.6 and 4.3.0: to "
            "configure it, too)."
        )


class LimitReachedError(BrokerError):
    """A limit of the broker is reached: of queues, connections or channels."""

    reason = "BrokerLimit"

    @classmethod
    def said(cls, text: str) -> "LimitReachedError | None":
        """The error, if that is what the broker says of something that it refuses."""
        if not _LIMIT.search(text):
            return None
        return cls(
            f"A limit of the broker is reached: {text}. Raise it, or delete what nobody needs any more: "
            "`rabbitmqctl list_vhost_limits` and `list_user_limits` show limits, others are in its configuration."
        )


class NoChannelError(LimitReachedError):
    """All channels that the broker allows on a connection are open."""


class OverLimitError(ConnectionLostError):
    """The broker closed the connection over a limit."""

    reason = "BrokerLimit"


class NotAmqpError(ConnectionLostError):
    """What comes is no AMQP 0-9-1, or nothing that a broker sends."""

    reason = "NotAmqp"


class MessageTooLargeError(ConnectionLostError):
    """The broker delivers a message with a larger body than this process takes in."""

    reason = "MessageTooLarge"

    def __init__(self, size: int, most: int) -> None:
        super().__init__(
            f"a message of {size} bytes is delivered, and PartyMQ takes in {most} at most: raise its limit `message` "
            "(docs/limits.md) above the broker's max_message_size, or take the message out of its queue"
        )


class TooMuchAtOnceError(BrokerError):
    """What a session has to take in as a whole is more than this process has room for."""

    reason = "TooMuchAtOnce"

    def __init__(self, held: int, most: int) -> None:
        super().__init__(
            f"{held} bytes of messages came that have to be in memory at once (inboxes in a handoff, transfers, the "
            f"journal), and all groups of this process may have {most}: nothing is lost. Look what stands in the "
            "group's inboxes and transfers; raise --in-flight-bytes, and the memory limit with it, where they are to "
            "hold so much"
        )


_LIMIT: Final = re.compile(r"\blimit\b.* reached|has reached the |connection limit cannot be queried")
"""In the broker's texts about limits; their codes (406, 530) mean other things, too."""


class ForeignQueueError(BrokerError):
    """What PartyMQ wants to declare exists with other arguments: somebody else declared it."""

    reason = "ForeignQueue"


class LockedQueueError(ForeignQueueError):
    """Another connection has a queue of that name for itself."""


class SourceMissingError(BrokerError):
    """The source queue does not exist."""

    reason = "SourceMissing"


class SourceSharedError(BrokerError):
    """Others consume the source queue too: they would steal messages out of the order."""

    reason = "SourceShared"


class SourceIsStreamError(BrokerError):
    """The source is a stream: an acknowledgement takes nothing out of it, so it would be routed again and again."""

    reason = "SourceIsStream"


class SourceSilentError(BrokerError):
    """The source does not answer: nobody knows whether others consume it."""

    reason = "SourceSilent"


class SourceAtRiskError(BrokerError):
    """Sessions have failed over the same messages so often that the source's delivery limit may come into play."""

    reason = "SourceAtRisk"


class SourceTransientError(BrokerError):
    """The broker deletes the source by itself: it is auto-delete, exclusive, or expires."""

    reason = "SourceTransient"


class JournalLostError(BrokerError):
    """The journal is empty although the group was routed before."""

    reason = "JournalLost"


class ClientGoneError(BrokerError):
    """A client of the HTTP API has no queue bound any more: it is dropped, its keys go to others."""

    reason = "ClientGone"


class SessionOverError(PartyMQError):
    """The session ends without fault: another router takes over, or the group stops."""

    reason = "SessionOver"
