"""Every error that PartyMQ raises on purpose.

    PartyMQError
    ├── InvalidSpecError        what a person wrote cannot be used as it stands
    │   ├── InvalidSecretError
    │   └── SourceTakenError
    ├── BrokerError             the broker refused, failed or went away
    │   ├── ConnectionLostError
    │   ├── ChannelClosedError
    │   ├── BrokerTooOldError
    │   ├── AccessRefusedError
    │   ├── SourceMissingError
    │   ├── SourceSharedError
    │   ├── SourceIsStreamError
    │   ├── JournalLostError
    │   └── ClientGoneError
    └── SessionOverError        this router stops being the router: replaced, or asked to stop

`reason` is the CamelCase word that conditions and Events carry; the message is a sentence that says what to do.
"""

from typing import ClassVar


class PartyMQError(Exception):
    """Base of all errors; its message is written for the person who reads a condition, an Event or a log."""

    reason: ClassVar[str] = "InternalError"


class InvalidSpecError(PartyMQError):
    """What a person wrote (a resource, a Secret, a flag) cannot be used as it stands."""

    reason = "InvalidSpec"


class InvalidSecretError(InvalidSpecError):
    """The connection Secret is missing or does not describe a broker."""

    reason = "InvalidSecret"


class SourceTakenError(InvalidSpecError):
    """Another PartitionGroup routes this source queue."""

    reason = "SourceTaken"


class BrokerError(PartyMQError):
    """The broker refused something, failed or went away."""

    reason = "BrokerError"


class ConnectionLostError(BrokerError):
    """The connection could not be made or broke; the broker settles what was unfinished."""

    reason = "BrokerUnreachable"


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


class AccessRefusedError(BrokerError):
    """User name, password, virtual host or permissions are wrong."""

    reason = "AccessRefused"

    @classmethod
    def permission(cls, refused: str) -> "AccessRefusedError":
        """What the broker refuses for want of a permission, and which ones are needed."""
        return cls(
            f"The broker says {refused}. Give the user of the connection Secret the permissions to configure, write "
            "and read partymq.*, to write amq.default, and to read the source queue."
        )


class SourceMissingError(BrokerError):
    """The source queue does not exist."""

    reason = "SourceMissing"


class SourceSharedError(BrokerError):
    """Others consume the source queue too: they would steal messages out of the order."""

    reason = "SourceShared"


class SourceIsStreamError(BrokerError):
    """The source is a stream: an acknowledgement takes nothing out of it, so it would be routed again and again."""

    reason = "SourceIsStream"


class JournalLostError(BrokerError):
    """The journal is empty although the group was routed before."""

    reason = "JournalLost"


class ClientGoneError(BrokerError):
    """A client of the HTTP API has no queue bound any more: it is dropped, its keys go to others."""

    reason = "ClientGone"


class SessionOverError(PartyMQError):
    """The session ends without fault: another router takes over, or the group stops."""

    reason = "SessionOver"
