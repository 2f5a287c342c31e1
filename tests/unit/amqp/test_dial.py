"""The TCP connection below an AMQP connection: which address it goes to, and what its other side makes of it."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from partymq.amqp.dial import dial


@pytest.fixture
def broker() -> Iterator[socket.socket]:
    """Listens on IPv4 loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


class Client(asyncio.Protocol):
    transport: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


async def dialled(host: str, broker: socket.socket) -> Client:
    client = Client()
    await dial(lambda: client, host=host, port=broker.getsockname()[1], context=None)
    return client


def send_buffer(accepted: socket.socket) -> int:
    return accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


async def test_over_loopback_a_broker_gets_a_small_send_buffer(broker: socket.socket) -> None:
    with socket.create_connection(broker.getsockname()), broker.accept()[0] as plain:
        client = await dialled("127.0.0.1", broker)
        with broker.accept()[0] as ours:
            assert send_buffer(ours) * 4 < send_buffer(plain)
        client.transport.close()


async def test_an_address_that_refuses_is_passed_over(broker: socket.socket) -> None:
    address = broker.getsockname()
    kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")

    async def getaddrinfo(_: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET6, *kind, ("::1", port, 0, 0)), (socket.AF_INET, *kind, address)]

    with patch.object(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo):
        client = await dialled("broker.example", broker)
    assert client.transport.get_extra_info("peername") == address
    client.transport.close()


async def test_a_connection_that_is_given_up_leaves_no_socket(broker: socket.socket) -> None:
    def refuse() -> asyncio.Protocol:
        raise RuntimeError("no protocol")

    with pytest.raises(RuntimeError, match="no protocol"):
        await dial(refuse, host="127.0.0.1", port=broker.getsockname()[1], context=None)
    with broker.accept()[0] as accepted:
        assert accepted.recv(1) == b""


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await dial(Client, host="127.0.0.1", port=port, context=None)
