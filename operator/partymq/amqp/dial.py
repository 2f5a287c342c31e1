"""The TCP connection below an AMQP connection.

Invariant: over loopback a broker sees the segments that it would see over Ethernet. RabbitMQ before 4.1 makes its read
buffer as large as the larger of the two buffers that its kernel gives the socket, and Linux sizes the one for sending
by the segments: over loopback that is 4 MB, which the Erlang VM maps and unmaps for every single read. With segments as
over Ethernet it is 128 KiB, and up to 1.2 MiB when Linux remembers that the peer's segments came out of order (300 of
them at most: `tcp_max_reordering`).
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import aiohappyeyeballs

ETHERNET_SEGMENT: Final = 1460
"""Bytes of a TCP segment where packets have 1500: RFC 9293, section 3.7.1."""

AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]


async def lookup(host: str, port: int) -> list[AddressInfo]:
    """The addresses of a host, each once; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(found))


async def dial(
    protocol: Callable[[], asyncio.Protocol], *, host: str, info: AddressInfo, context: ssl.SSLContext | None
) -> None:
    """Connect `protocol` to this address of `host`; raises OSError or ssl.SSLError."""
    connected = await aiohappyeyeballs.start_connection([info], socket_factory=_socket)
    try:
        server = host if context is not None else None
        await asyncio.get_running_loop().create_connection(
            protocol, sock=connected, ssl=context, server_hostname=server
        )
    except BaseException:
        connected.close()
        raise


def _socket(address: AddressInfo) -> socket.socket:
    family, kind, protocol, _, (host, *_) = address
    made = socket.socket(family, kind, protocol)
    if ipaddress.ip_address(host).is_loopback and hasattr(socket, "TCP_MAXSEG"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, ETHERNET_SEGMENT)
    return made
