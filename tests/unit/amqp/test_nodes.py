"""Of a broker's nodes, one that answers is found soon, whatever the others do."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import pytest

from partymq.amqp.connection import Connection
from partymq.amqp.dial import AddressInfo
from partymq.amqp.nodes import NEXT_AFTER, Endpoint, endpoints, first_to_answer
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, ConnectionLostError
from support.fake_kubernetes import in_virtual_time

THREE = BrokerAddress(host="a", others=(("b", 5672), ("c", 5673)))


class Tries:
    """Each of them answers after some seconds, or fails, or never does either."""

    def __init__(self) -> None:
        self.given_up: list[str] = []
        self.ended: list[str] = []

    def one(self, name: str, *, after: float, error: Exception | None = None) -> Callable[[], Awaitable[str]]:
        async def attempt() -> str:
            try:
                await asyncio.sleep(after)
            finally:
                self.ended.append(name)
            if error is not None:
                raise error
            return name

        return attempt

    async def first(self, *tries: Callable[[], Awaitable[str]]) -> str:
        return await first_to_answer(tries, give_up=self.given_up.append)


@in_virtual_time
async def test_one_that_is_silent_costs_a_second() -> None:
    tries, loop = Tries(), asyncio.get_running_loop()
    began = loop.time()
    assert await tries.first(tries.one("frozen", after=1000), tries.one("b", after=0.1)) == "b"
    assert loop.time() - began == pytest.approx(NEXT_AFTER + 0.1)
    assert "frozen" in tries.ended, "nothing is left behind"


@in_virtual_time
async def test_one_that_is_slow_is_still_taken() -> None:
    tries = Tries()
    assert await tries.first(tries.one("slow", after=3), tries.one("frozen", after=1000)) == "slow"


@in_virtual_time
async def test_the_next_one_begins_when_one_fails() -> None:
    tries, loop = Tries(), asyncio.get_running_loop()
    began = loop.time()
    down = tries.one("down", after=0.01, error=ConnectionLostError("refused"))
    assert await tries.first(down, down, tries.one("c", after=0.01)) == "c"
    assert loop.time() - began < 0.1


@in_virtual_time
async def test_all_that_fail_are_named() -> None:
    tries = Tries()
    with pytest.raises(ConnectionLostError, match=r"^a is down. b is down.$"):
        await tries.first(
            tries.one("a", after=0, error=ConnectionLostError("a is down.")),
            tries.one("b", after=2, error=ConnectionLostError("b is down.")),
        )


@in_virtual_time
async def test_a_wrong_password_is_not_tried_everywhere() -> None:
    tries = Tries()
    with pytest.raises(AccessRefusedError):
        await tries.first(tries.one("a", after=0, error=AccessRefusedError("no")), tries.one("b", after=0))
    assert tries.ended == ["a"]


@in_virtual_time
async def test_who_answers_at_the_same_time_is_given_up() -> None:
    tries = Tries()
    first = await tries.first(tries.one("a", after=NEXT_AFTER + 1), tries.one("b", after=1))
    assert [first, *tries.given_up] in (["a", "b"], ["b", "a"], ["a"], ["b"])
    assert sorted(tries.ended) == ["a", "b"]


async def _lookup(host: str, port: int) -> list[AddressInfo]:
    if host == "b":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"{host}{n}", port)) for n in (1, 2)]


async def test_each_node_comes_before_second_addresses_and_the_near_one_before_all() -> None:
    with patch("partymq.amqp.nodes.lookup", _lookup):
        found = await endpoints(THREE)
        assert {one.info[4][0] for one in found[:2]} == {"a1", "c1"}
        assert {one.info[4][0] for one in found[2:]} == {"a2", "c2"}
        assert str(next(one for one in found if one.host == "c")) == "c:5673 (c1)"
        for near in found:
            assert (await endpoints(THREE, near=near))[0] == near


async def test_names_that_nobody_knows() -> None:
    with (
        patch("partymq.amqp.nodes.lookup", _lookup),
        pytest.raises(ConnectionLostError, match="No connection to b:5672: Name or service not known"),
    ):
        await endpoints(BrokerAddress(host="b"))


async def test_names_that_nobody_looks_up() -> None:
    async def lookup(_host: str, _port: int) -> list[AddressInfo]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never

    with (
        patch("partymq.amqp.nodes.lookup", lookup),
        pytest.raises(ConnectionLostError, match=r"a:5672, b:5672, c:5673 were not looked up within 0\.05 seconds"),
    ):
        await Connection.open(THREE, name="test", connect_timeout=0.05)


async def test_a_socket_that_takes_the_connection_and_is_silent_is_no_answer() -> None:
    """Both are silent here: one is a process that is frozen, the other one refuses."""
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = frozen.getsockname()[1], closed.getsockname()[1]
        closed.close()
        address = BrokerAddress(host="127.0.0.1", port=ports[0], others=(("127.0.0.1", ports[1]),))
        with pytest.raises(ConnectionLostError) as raised:
            await Connection.open(address, name="test", connect_timeout=0.2)
    assert f"127.0.0.1:{ports[0]} did not answer within 0.2 seconds" in str(raised.value)
    assert f"No connection to 127.0.0.1:{ports[1]}: Connection refused" in str(raised.value)


def test_an_endpoint_is_written_as_people_know_it() -> None:
    info: AddressInfo = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 5672, 0, 0))
    assert str(Endpoint(host="::1", port=5672, info=info)) == "[::1]:5672"
    assert str(Endpoint(host="localhost", port=5672, info=info)) == "localhost:5672 (::1)"
