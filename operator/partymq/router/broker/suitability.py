"""Whether a broker does what handoffs rest on, tried on a queue that is made for it.

Invariant: a broker is refused only over what it was seen to do otherwise. One that does not answer in time, or has no
room for another queue, is tried again by the next session: nothing is known of it, and the rest goes on.

RabbitMQ changes these things without a word (4.3 did: see `broker.takeover`), and no version number tells what a build
of somebody's own does. What is tried are the sentences that `broker.takeover` rests on.
"""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.frames import HEADER_HEAD, Arguments, body_frames, publish_frame
from partymq.core.consumers import TAKEOVER_PRIORITY
from partymq.core.names import SELF_TEST
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, BrokerUnsuitableError

LOG = logging.getLogger(__name__)

WITHIN: Final = 5.0
"""Seconds for all of it; it takes some 50 ms."""
LOOK: Final = 0.01
AGAIN: Final = 300.0
"""Seconds until a broker is tried again that did not answer."""
FIRMLY: Final = 1.0
"""Seconds for which a count has to be wrong."""
EXPIRES: Final = 60_000
"""Milliseconds after which the queue is gone should this process die."""
QUEUE: Final[Arguments] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 100,
    "x-expires": EXPIRES,
}
_MESSAGES: Final = 2
Version = tuple[int, int, int]
_Build = tuple[BrokerAddress, Version]
_HEADER: Final = HEADER_HEAD.pack(60, 0, 1) + b"\x10\x00\x02"
"""Of a persistent message with one byte."""


class Suitability:
    """What this process knows of brokers; each is tried once, and again when its version is another."""

    def __init__(self) -> None:
        self._proven: set[_Build] = set()
        self._untold: dict[_Build, float] = {}
        """Those that could not be tried, and when that was."""
        self._trying: defaultdict[BrokerAddress, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def prove(self, broker: BrokerAddress, version: Version, dial: Callable[[], Awaitable[Connection]]) -> None:
        """Raises BrokerUnsuitableError."""
        build = broker, version
        if self._known(build):
            return
        async with self._trying[broker]:  # the groups of one broker begin together
            if self._known(build):
                return
            try:
                async with asyncio.timeout(WITHIN):
                    await _examined(dial)
            except BrokerUnsuitableError:
                raise
            except (BrokerError, TimeoutError) as error:
                why = error or "no answer in time"
                LOG.info("it is not known whether the broker does what handoffs rest on: %s", why)
                self._untold[build] = asyncio.get_running_loop().time()
            else:
                self._proven.add(build)

    def _known(self, build: "_Build") -> bool:
        since = asyncio.get_running_loop().time() - self._untold.get(build, float("-inf"))
        return build in self._proven or since < AGAIN


async def _examined(dial: Callable[[], Awaitable[Connection]]) -> None:
    connection = await dial()
    try:
        await examine(connection)
    finally:
        connection.abort()


async def examine(connection: Connection, arguments: Arguments = QUEUE) -> None:
    """Tries a queue with these arguments; raises BrokerUnsuitableError, or a BrokerError where that cannot be done.

    Where there is no answer in time, the queue is left to expire.
    """
    queue = f"{SELF_TEST}{secrets.token_hex(4)}"
    channel = await connection.channel()
    await channel.declare_queue(queue, arguments)
    try:
        await _Trial(connection, channel, queue).run()
    except BrokerUnsuitableError:
        await channel.delete_queue(queue)
        raise
    await channel.delete_queue(queue)


class _Consumer:
    """One of the queue's consumers: what it was given."""

    def __init__(self, channel: Channel, news: asyncio.Event) -> None:
        self.channel = channel
        self.given = 0
        self._news = news

    def take(self, _tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
        self.given += 1
        self._news.set()


class _Trial:
    """One trial; a client and two routers, by their parts in a handoff."""

    def __init__(self, connection: Connection, channel: Channel, queue: str) -> None:
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._news = asyncio.Event()

    async def run(self) -> None:
        client = await self._consumer(prefetch=1)
        self._publish()
        await self._until(lambda: client.given == 1)
        router = await self._consumer(arguments={"x-priority": TAKEOVER_PRIORITY})
        await self._counts(1, "its `consumer_count` has consumers that wait")
        self._refuse_if(router.given > 0, "it serves two consumers of a single active consumer queue at once")
        client.channel.ack(1)
        await self._until(lambda: router.given + client.given > 1)
        self._refuse_if(client.given > 1, "it goes on serving a consumer while one of higher priority waits")
        await router.channel.close()
        await self._until(lambda: client.given > 1)  # what the router held has come back
        await client.channel.cancel()
        successor = await self._consumer(arguments={"x-priority": TAKEOVER_PRIORITY})
        await self._counts(2, "its `consumer_count` leaves out a cancelled consumer that holds messages")
        await client.channel.close()
        await self._until(lambda: successor.given > 0)
        await self._counts(1, "its `consumer_count` has consumers that are gone")

    async def _consumer(self, *, prefetch: int = 0, arguments: Arguments | None = None) -> _Consumer:
        consumer = _Consumer(await self._connection.channel(), self._news)
        await consumer.channel.consume(self._queue, consumer.take, prefetch=prefetch, arguments=arguments)
        return consumer

    def _publish(self) -> None:
        number = self._channel.number
        for _ in range(_MESSAGES):
            self._channel.publish(publish_frame(number, "", self._queue), _HEADER, body_frames(b"-", number))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def _counts(self, expected: int, otherwise: str) -> None:
        """Zeros are no answer: see `amqp.topology`."""
        now = asyncio.get_running_loop().time
        wrong_since: float | None = None
        while (consumers := (await self._channel.inspect(self._queue))[1]) != expected:
            if not consumers:
                wrong_since = None
            elif wrong_since is None:
                wrong_since = now()
            self._refuse_if(wrong_since is not None and now() - wrong_since > FIRMLY, otherwise)
            await asyncio.sleep(LOOK)

    def _refuse_if(self, wrong: bool, what: str) -> None:
        if wrong:
            version = ".".join(map(str, self._connection.server_version))
            raise BrokerUnsuitableError(
                f"the broker, RabbitMQ {version}, does not do what handoffs rest on: {what}. PartyMQ does not route on "
                "it, because two pods could hold messages of one key. docs/compatibility.md has the versions that do"
            )
