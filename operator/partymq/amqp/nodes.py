"""Which of a broker's nodes is connected to.

Invariant: a node that does not answer costs its caller a second, and never the connection, while another one answers:
each address of each node is tried, the next one as soon as one fails, or beside those that keep silent. An address can
take a TCP connection and say nothing (its node is frozen, or a balancer's back end is), so only a finished handshake
counts as an answer.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final, TypeVar

from partymq.amqp.causes import cause
from partymq.amqp.dial import AddressInfo, lookup
from partymq.core.spec import BrokerAddress
from partymq.errors import ConnectionLostError

T = TypeVar("T")

NEXT_AFTER: Final = 1.0
"""Seconds without an answer until another address is tried beside it; a handshake takes some ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address of one node."""

    host: str
    port: int
    info: AddressInfo

    def __str__(self) -> str:
        """The node as it was written, and what its name stands for."""
        ip = self.info[4][0]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f" ({ip})" if ip != self.host else "")


async def endpoints(address: BrokerAddress, *, near: Endpoint | None = None) -> list[Endpoint]:
    """All there are, `near` first; the nodes in any order, each node's second address after every node's first.

    Raises `ConnectionLostError` when no name is known.
    """
    # Everybody begins with another node, so that not all come to the one that is written first.
    nodes = random.sample(address.nodes, len(address.nodes))
    looked_up = await asyncio.gather(*(lookup(host, port) for host, port in nodes), return_exceptions=True)
    found: list[list[Endpoint]] = []
    failures: list[str] = []
    for (host, port), infos in zip(nodes, looked_up, strict=True):
        if isinstance(infos, OSError):
            failures.append(f"No connection to {host}:{port}: {infos.strerror or infos}.")
        elif isinstance(infos, BaseException):
            raise infos
        else:
            found.append([Endpoint(host=host, port=port, info=info) for info in infos])
    if not found:
        raise ConnectionLostError(" ".join(failures))
    ordered = [one for one in chain(*zip_longest(*found)) if one is not None]
    return sorted(ordered, key=lambda one: one != near)


@asynccontextmanager
async def reached(endpoint: Endpoint, *, within: float) -> AsyncIterator[None]:
    """Says of what is done to reach `endpoint` why it failed: raises `ConnectionLostError` with a sentence."""
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError:
        raise ConnectionLostError(f"{endpoint} did not answer within {within:g} seconds.") from None
    except ssl.SSLError as error:
        raise ConnectionLostError(f"No TLS connection to {endpoint}: {cause(error)}.") from None
    except OSError as error:
        raise ConnectionLostError(f"No connection to {endpoint}: {cause(error)}.") from None


async def first_to_answer(
    tries: Iterable[Callable[[], Awaitable[T]]], *, give_up: Callable[[T], None], next_after: float = NEXT_AFTER
) -> T:
    """The result of the first that has one; others that come to one all the same are given up.

    Raises what the last failure says, or a `ConnectionLostError` that has what all of them say; at once what is no
    `ConnectionLostError`, for another node would say the same.
    """
    running: set[asyncio.Future[T]] = set()
    waiting = iter(tries)
    failures: list[ConnectionLostError] = []
    try:
        while True:
            following = next(waiting, None)
            if following is not None:
                running.add(asyncio.ensure_future(following()))
            elif not running:
                break
            timeout = None if following is None else next_after
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    result = task.result()
                except ConnectionLostError as error:
                    running.discard(task)
                    failures.append(error)
                else:
                    running.discard(task)
                    return result
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(late, BaseException):
                give_up(late)
    if len(failures) == 1:
        raise failures[0]
    raise ConnectionLostError(" ".join(dict.fromkeys(str(failure) for failure in failures)))
