"""What a group is asked to be: the resource's spec and the broker's address as values.

Defaults and bounds stand here once; the CRD and the chart repeat them and a test holds them equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from partymq.limits import Limits

MOST_PARTITIONS: Final = 4096
"""Of a group."""
CLIENT_ROUTING_KEY: Final = "partymq.partition-"
"""A plain client's name follows."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class GroupId:
    """Names a group; also the middle of every name it uses on the broker."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM texts for a TLS connection; empty strings mean the system's CAs and no client certificate."""

    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where the broker is and who we are there; `tls` None means plain TCP.

    `others` are more nodes of the same broker, host and port. `management_uri` says where its management API is if not
    at the usual port of the same hosts; it may name another user.
    """

    host: str
    port: int = 5672
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    tls: Tls | None = None
    management_uri: str = field(default="", repr=False)
    others: tuple[tuple[str, int], ...] = ()
    limits: Limits = field(default=Limits(), compare=False, repr=False)
    """How much is taken in of what the broker and its management API send."""

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """All nodes, host and port."""
        return ((self.host, self.port), *self.others)

    @property
    def where(self) -> str:
        """The nodes, for people."""
        return ", ".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.nodes)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """How to find a message's key.

    `name` is a header, a property, a top-level JSON field or a JSON pointer (RFC 6901).
    """

    source: KeyFrom = KeyFrom.HEADER
    name: str = "partitionKey"
    on_missing: OnMissing = OnMissing.SPREAD


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A group's settings; times are seconds, sizes are messages."""

    source_queue: str
    key: KeySpec = KeySpec()
    partitions: int = 64
    inbox_window: int = 256
    backlog_limit: int = 100_000
    rejoin_seconds: float = 30.0
    rebalance_delay: float = 2.0
    rollout_patience: float = 60.0
    handoff_timeout: float = 300.0
    on_timeout: OnTimeout = OnTimeout.WAIT
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE_EMPTY
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsSpec:
    """That a group serves clients of the HTTP API, and how; times are seconds."""

    exchange: str
    """The direct exchange to which plain clients bind queues of their own."""
    expires_after: float = 120.0
    """A client of which nothing was heard for so long is unbound."""
    check_every: float = 30.0
    most: int = Limits().clients
    """How many may be bound at a time."""

    @staticmethod
    def routing_key(client: str) -> str:
        """What a plain client binds its queue with."""
        return f"{CLIENT_ROUTING_KEY}{client}"

    @staticmethod
    def client_of(routing_key: str) -> str | None:
        """The client that this routing key is of."""
        name = routing_key.removeprefix(CLIENT_ROUTING_KEY)
        return name if name != routing_key else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """All that a router needs to route a group; a change of broker or spec starts a new session."""

    group: GroupId
    spec: GroupSpec
    broker: BrokerAddress
    known_epoch: int = 0
    """The highest epoch that the resource's status has shown: an empty journal is then a lost one."""
    known_members: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Members that the status has shown, with their partitions: what a lost journal is rebuilt with."""
    uid: str = ""
    """The PartitionGroup's; empty outside of a cluster. Routers of another one of this name are not to be there."""
    clients: ClientsSpec | None = None
    """None where the group serves no clients of the HTTP API."""


def limited(config: GroupConfig, limits: Limits) -> GroupConfig:
    """The same group under these limits."""
    clients = None if config.clients is None else replace(config.clients, most=limits.clients)
    return replace(config, broker=replace(config.broker, limits=limits), clients=clients)
