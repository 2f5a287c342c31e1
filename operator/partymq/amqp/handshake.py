"""How a connection starts: who we are, whether the broker will do, what both agree on.

Invariant: whoever gets past this talks to RabbitMQ 4.0 or later, within limits that both sides know.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from pamqp import commands
from pamqp.common import FieldTable

from partymq.amqp.frames import DEFAULT_FRAME_MAX, SMALLEST_FRAME_MAX
from partymq.core.spec import BrokerAddress
from partymq.errors import (
    AccessRefusedError,
    BrokerTooOldError,
    ConnectionClosedError,
    LimitReachedError,
    NotAmqpError,
    OverLimitError,
    PartyMQError,
)
from partymq.foreign import NAME, shown

OLDEST: Final = (4, 0, 0)
_REFUSALS: Final = {403, 530}
"""Reply codes that a handshake ends with when user, password or virtual host are wrong."""
_CHANNEL_MAX: Final = 2047
_CAPABILITIES: Final = {
    "authentication_failure_close": True,  # a refusal with its reason, instead of a closed socket
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What both sides agreed on; `heartbeat` in seconds, 0 for none."""

    channel_max: int
    frame_max: int
    heartbeat: int


def start_ok(address: BrokerAddress, name: str) -> commands.Connection.StartOk:
    """Who we are; `name` is what the broker's management shows."""
    properties: FieldTable = {
        "product": "PartyMQ",
        "version": version("partymq"),
        "platform": "Python",
        "connection_name": name,
        "capabilities": dict(_CAPABILITIES),
    }
    return commands.Connection.StartOk(
        client_properties=properties, mechanism="PLAIN", response=f"\0{address.username}\0{address.password}"
    )


def server_version(properties: Mapping[str, Any], where: str) -> tuple[int, int, int]:
    """The version of the broker at `where`; raises when it is not a RabbitMQ that will do."""
    product, text = (_text(properties.get(name)) for name in ("product", "version"))
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?!\d)", text, re.ASCII)
    if product != "RabbitMQ" or found is None:
        raise BrokerTooOldError(
            f"{where} is {product or 'a broker without a name'} {text}; PartyMQ needs RabbitMQ 4.0 or later."
        )
    major, minor, patch = (int(number) for number in found.groups(default="0"))
    if (major, minor, patch) < OLDEST:
        raise BrokerTooOldError(
            f"{where} is RabbitMQ {text}; PartyMQ needs 4.0 or later, for consumer priorities on quorum queues with a "
            "single active consumer. Upgrade the broker."
        )
    return major, minor, patch


def agree(tune: commands.Connection.Tune, heartbeat: int) -> Limits:
    """The lower of both sides' limits, where 0 stands for none; raises where it is less than AMQP allows."""
    if 0 < (tune.frame_max or 0) < SMALLEST_FRAME_MAX:
        raise NotAmqpError(
            f"the broker takes frames of {tune.frame_max} bytes at most, and AMQP lets nobody go below "
            f"{SMALLEST_FRAME_MAX}: raise frame_max in its configuration"
        )
    return Limits(
        channel_max=_lower(tune.channel_max or 0, _CHANNEL_MAX),
        frame_max=_lower(tune.frame_max or 0, DEFAULT_FRAME_MAX),
        heartbeat=_lower(tune.heartbeat or 0, heartbeat),
    )


def refused(address: BrokerAddress, where: str, code: int, text: str) -> PartyMQError:
    """What the broker at `where` means that closes the connection before it is open."""
    if (limit := LimitReachedError.said(text)) is not None:
        return limit
    if code in _REFUSALS:
        user, vhost = shown(address.username, NAME), shown(address.vhost, NAME)
        return AccessRefusedError(f"{where} refuses user {user!r} on virtual host {vhost!r}: {code} {text}")
    return ConnectionClosedError(code, text)


def closed(code: int, text: str) -> PartyMQError:
    """What it means once the connection is open."""
    if (limit := LimitReachedError.said(text)) is not None:
        return OverLimitError(f"the broker closed the connection. {limit}")
    return ConnectionClosedError(code, text)


def _text(value: object) -> str:
    return shown(value, NAME) if isinstance(value, str | bytes | bytearray) else ""


def _lower(theirs: int, ours: int) -> int:
    return min(theirs, ours) if theirs and ours else theirs or ours
