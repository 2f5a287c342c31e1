"""The TCP connection below an AMQP connection: what its other side makes of it."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from partymq.amqp.dial import AddressInfo, dial, lookup


@pytest.fixture
def broker() -> Iterator[socket.socket]:
    """Listens on IPv4 loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


class Client(asyncio.Protocol):
    transport: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


async def dialled(broker: socket.socket) -> Client:
    client = Client()
    await dial(lambda: client, host="127.0.0.1", info=await _info(broker.getsockname()[1]), context=None)
    return client


async def _info(port: int) -> AddressInfo:
    (info,) = await lookup("127.0.0.1", port)
    return info


def send_buffer(accepted: socket.socket) -> int:
    return accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


async def test_over_loopback_a_broker_gets_a_small_send_buffer(broker: socket.socket) -> None:
    with socket.create_connection(broker.getsockname()), broker.accept()[0] as plain:
        client = await dialled(broker)
        with broker.accept()[0] as ours:
            # Up to 2 MiB where Linux remembers much disorder of the address, and mostly far less.
            assert send_buffer(ours) * 3 < send_buffer(plain) * 2
        client.transport.close()


async def test_a_connection_that_is_given_up_leaves_no_socket(broker: socket.socket) -> None:
    def refuse() -> asyncio.Protocol:
        raise RuntimeError("no protocol")

    with pytest.raises(RuntimeError, match="no protocol"):
        await dial(refuse, host="127.0.0.1", info=await _info(broker.getsockname()[1]), context=None)
    with broker.accept()[0] as accepted:
        assert accepted.recv(1) == b""


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await dial(Client, host="127.0.0.1", info=await _info(port), context=None)
