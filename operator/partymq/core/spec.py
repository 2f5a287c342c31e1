"""What a group is asked to be: the resource's spec and the broker's address as values.

Invariant: a value with nothing said has the defaults that `core/schema.py` declares; each field's meaning stands there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from partymq.core import schema
from partymq.core.choices import DeletionPolicy as DeletionPolicy
from partymq.core.choices import KeyFrom as KeyFrom
from partymq.core.choices import OnMissing as OnMissing
from partymq.core.choices import OnTimeout as OnTimeout
from partymq.limits import Limits

MOST_PARTITIONS: Final = schema.PARTITIONS.most
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """How to find a message's key.

    `name` is a header, a property, a top-level JSON field or a JSON pointer (RFC 6901).
    """

    source: KeyFrom = schema.KEY_FROM.default
    name: str = schema.KEY_NAME.with_section
    on_missing: OnMissing = schema.KEY_ON_MISSING.default


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A group's settings; times are seconds, sizes are messages."""

    source_queue: str
    key: KeySpec = KeySpec()
    partitions: int = schema.PARTITIONS.default
    inbox_window: int = schema.INBOX_WINDOW.default
    backlog_limit: int = schema.BACKLOG_LIMIT.default
    rejoin_seconds: float = schema.REJOIN_SECONDS.default
    rebalance_delay: float = schema.REBALANCE_DELAY.default
    rollout_patience: float = schema.ROLLOUT_PATIENCE.default
    handoff_timeout: float = schema.HANDOFF_TIMEOUT.default
    on_timeout: OnTimeout = schema.ON_TIMEOUT.default
    deletion_policy: DeletionPolicy = schema.DELETION_POLICY.default
    paused: bool = schema.PAUSED.default


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
