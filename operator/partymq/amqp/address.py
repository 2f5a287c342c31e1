"""Where the broker is, from what people write.

Invariant: an address that comes out is complete, was meant, and can be sent to a broker: what is missing, misspelt,
contradictory or no UTF-8 is refused in a sentence that names it, and no sentence repeats a password.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from partymq.core.spec import BrokerAddress, Tls
from partymq.errors import InvalidSecretError

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_UNREADABLE: Final = (
    "The broker's URI cannot be read. Look at its port (1 to 65535), at the brackets of an IPv6 address, and at "
    "characters of the password that must be percent-encoded."
)
_LONGEST_NAME: Final = 255
_LONGEST_HOST: Final = 253
_MOST_NODES: Final = 64
_HOST: Final = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_NODE: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>.*))?", re.DOTALL)


def parse_uri(
    uri: str, *, ca: str = "", certificate: str = "", key: str = "", management_uri: str = ""
) -> BrokerAddress:
    """An `amqp://` or `amqps://` URI; certificates are PEM texts, for `amqps://` only.

    It may name several nodes of one cluster: `amqp://user:password@rabbit-0,rabbit-1:5673/vhost`.
    """
    try:
        parts = urlsplit(uri.strip())
    except ValueError:  # its text may repeat a part of the password
        raise InvalidSecretError(_UNREADABLE) from None
    if parts.scheme not in _PORTS:
        raise InvalidSecretError("The broker's URI must start with amqp:// or amqps://.")
    if not (hosts := parts.netloc.rpartition("@")[2]):
        raise InvalidSecretError("The broker's URI names no host: amqp://user:password@host:5672/vhost.")
    nodes = _nodes(hosts, _PORTS[parts.scheme], what="The broker's URI")
    if parts.query or parts.fragment:
        raise InvalidSecretError(
            "The broker's URI has a part behind `?` or `#`, which PartyMQ does not know: take it out, or write these "
            "characters of a password as %3F and %23."
        )
    if parts.path.count("/") > 1:
        raise InvalidSecretError(
            "The broker's URI has more than one `/` in its path: write those of a virtual host as %2F."
        )
    if "@" in parts.path:  # what stands before it is most likely a password, and would be shown as a virtual host
        raise InvalidSecretError(
            "The broker's URI has an `@` behind a `/`: write a `/` of a user name or password as %2F, and an `@` of a "
            "virtual host as %40."
        )
    tls = _tls(ca=ca, certificate=certificate, key=key)
    if parts.scheme == "amqp" and tls != Tls():
        raise InvalidSecretError(
            "The connection Secret has certificates, but its URI starts with amqp://, which is without TLS: write "
            "amqps://, or take ca.crt, tls.crt and tls.key out."
        )
    return BrokerAddress(
        host=nodes[0][0],
        port=nodes[0][1],
        others=nodes[1:],
        username=_usable(parts.username, "user name") if parts.username is not None else "guest",
        password=_usable(parts.password, "password") if parts.password is not None else "guest",
        vhost=_virtual_host(_usable(parts.path[1:], "virtual host")),
        tls=tls if parts.scheme == "amqps" else None,
        management_uri=management_uri,
    )


def from_service_binding(secret: Mapping[str, str]) -> BrokerAddress:
    """The decoded data of a connection Secret.

    Either `uri`, or `host`, `username` and `password` with optional `port` and `vhost`, as the Secrets of the RabbitMQ
    cluster operator have them; `host` may list several nodes, with commas. Besides, optional `ca.crt`, `tls.crt` and
    `tls.key`. TLS is used when one of these is there or the port is 5671 (which is what the cluster operator writes
    for a broker with TLS). An optional `management-uri` says where the management API is. Other keys are not looked at.
    """
    management_uri = management_address(secret.get("management-uri", "").strip())
    pem = {"ca": secret.get("ca.crt", ""), "certificate": secret.get("tls.crt", ""), "key": secret.get("tls.key", "")}
    if uri := secret.get("uri", "").strip():
        return parse_uri(uri, **pem, management_uri=management_uri)
    # A password may well end in a space that is meant; the others end in the line break of whoever encoded them.
    values = {name: secret.get(name, "").strip() for name in ("host", "port", "username", "vhost")}
    password = secret.get("password", "").rstrip("\r\n")
    missing = [name for name in ("host", "username") if not values[name]] + ([] if password else ["password"])
    if missing:
        raise InvalidSecretError(
            f"The connection Secret has neither `uri` nor {_and(missing)}: give it either `uri`, or `host`, "
            "`username` and `password` (and `port` and `vhost` where they are not the usual ones)."
        )
    port = _port(values["port"])
    tls = _tls(**pem)
    secure = tls != Tls() or port == _PORTS["amqps"]
    usual = port or _PORTS["amqps" if secure else "amqp"]
    nodes = _nodes(values["host"], usual, what="The connection Secret's host")
    return BrokerAddress(
        host=nodes[0][0],
        port=nodes[0][1],
        others=nodes[1:],
        username=_usable(values["username"], "username", quoted=False),
        password=_usable(password, "password", quoted=False),
        vhost=_virtual_host(_usable(values["vhost"], "vhost", quoted=False)),
        tls=tls if secure else None,
        management_uri=management_uri,
    )


def management_address(uri: str) -> str:
    """An address of a management API as it is used; empty for none. Raises InvalidSecretError."""
    try:
        parts = urlsplit(uri)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        if parts.username is not None:
            _usable(parts.username, "user name"), _usable(parts.password or "", "password")
    except (ValueError, InvalidSecretError):
        usable = False
    if uri and (not usable or parts.query or parts.fragment):
        raise InvalidSecretError(
            "The connection Secret's management-uri is no address of a management API: write "
            "http://host:15672 or https://user:password@host:15671, with the password's special characters "
            "percent-encoded, or take it out."
        )
    return uri.rstrip("/")


def _usable(text: str, what: str, *, quoted: bool = True) -> str:
    """A text as a broker can be sent it, its %XX decoded if it is `quoted`: UTF-8, and no NUL, which ends a text."""
    try:
        found = (unquote_to_bytes(text) if quoted else text.encode()).decode()
    except UnicodeError:  # its text would repeat all of it
        raise InvalidSecretError(f"The broker's {what} is no UTF-8: write it in UTF-8.") from None
    if "\0" in found:
        raise InvalidSecretError(f"The broker's {what} has a NUL character: take it out.")
    return found


def _virtual_host(name: str) -> str:
    if len(name.encode()) > _LONGEST_NAME:
        raise InvalidSecretError(f"The broker's virtual host has a name of more than {_LONGEST_NAME} bytes.")
    return name or "/"


def _tls(*, ca: str, certificate: str, key: str) -> Tls:
    if bool(certificate) != bool(key):
        there, missing = ("tls.crt", "tls.key") if certificate else ("tls.key", "tls.crt")
        raise InvalidSecretError(
            f"The connection Secret has {there} but no {missing}: a client certificate needs both."
        )
    return Tls(ca=ca, certificate=certificate, key=key)


def _nodes(text: str, port: int, *, what: str) -> tuple[tuple[str, int], ...]:
    """Hosts with or without ports, between commas, each once; an IPv6 address in brackets, or alone."""
    try:
        return ((str(ipaddress.IPv6Address(text)), port),)
    except ValueError:
        pass
    nodes: dict[tuple[str, int], None] = {}
    if text.count(",") >= _MOST_NODES:
        raise InvalidSecretError(f"{what} lists more than {_MOST_NODES} nodes.")
    for entry in text.split(","):
        found = _NODE.fullmatch(entry.strip())
        if found is None:
            raise InvalidSecretError(_UNREADABLE if "," not in text else f"{what} lists a node that cannot be read.")
        if not (host := (found["v6"] or found["name"] or "").lower()):
            raise InvalidSecretError(f"{what} lists a node without a name: write host1,host2:5673 or take a comma out.")
        if found["v6"] is None and not (len(host) <= _LONGEST_HOST and _HOST.fullmatch(host)):
            raise InvalidSecretError(f"{what} has a host that is no name and no address. {_UNREADABLE}")
        if found["v6"] is not None and not _is_ipv6(host):
            raise InvalidSecretError(_UNREADABLE)
        if (given := found["port"]) and not _is_port(given):
            raise InvalidSecretError(_UNREADABLE)
        nodes[host, int(given) if given else port] = None
    return tuple(nodes)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65_536


def _port(text: str) -> int | None:
    if not text:
        return None
    if not _is_port(text):
        raise InvalidSecretError(f"The connection Secret's port is {text[:20]!r}: it must be a number from 1 to 65535.")
    return int(text)


def _and(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
