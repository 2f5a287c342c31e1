"""Who consumes what on each virtual host, looked at now and then over the management API.

Invariant: one look at a time for each virtual host and user, however many groups are there, and none on the way of a
message. What is seen is seconds old and may be missing: it is for telling people, and for finding a connection.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from partymq.amqp.management import Management
from partymq.core.consumers import Consumer, Consumers, by_group
from partymq.core.names import Names
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, PartyMQError

LOG = logging.getLogger(__name__)

LOOK_EVERY = 20.0
LOOK_EVERY_MAX = 120.0
"""Seconds between looks, the second while the API does not answer."""
NEW_HOSTS_EVERY = 1.0
REMEMBER = 3600.0
"""Seconds for which a consumer that was seen is remembered: it may be cancelled, and still hold messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one look has seen; with an `error` nothing."""

    consumers: Consumers = field(default_factory=dict)
    error: PartyMQError | None = None
    groups: Mapping[str, Consumers] = field(default_factory=dict, compare=False)
    """Those of each group's own queues: hundreds of groups look for theirs."""

    def of(self, names: Names, source: str) -> Consumers:
        """The consumers of a group's queues and of its source."""
        return {**self.groups.get(names.prefix, {}), source: self.consumers.get(source, ())}


class Census:
    """Looks at the virtual hosts that `brokers` names at the time."""

    def __init__(
        self, brokers: Callable[[], Collection[BrokerAddress]], *, on_news: Callable[[BrokerAddress], None]
    ) -> None:
        """`on_news` is called after a look that did not see the same as the one before."""
        self._brokers = brokers
        self._on_news = on_news
        self._followed: set[BrokerAddress] = set()
        self._latest: dict[BrokerAddress, Sighting] = {}
        self._remembered: dict[BrokerAddress, dict[str, tuple[float, tuple[Consumer, ...]]]] = {}

    def latest(self, broker: BrokerAddress) -> Sighting | None:
        """The last look, or None before the first one; the same object until the next look."""
        return self._latest.get(broker)

    def remembered(self, broker: BrokerAddress, queue: str) -> tuple[Consumer, ...]:
        """The consumers other than ours that a queue had when one of them was last seen active.

        A takeover makes them wait, while the one that was active may still hold messages.
        """
        return self._remembered.get(broker, {}).get(queue, (0.0, ()))[1]

    async def run(self) -> None:
        """Owns the looking."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for broker in set(self._brokers()) - self._followed:
                    self._followed.add(broker)
                    tasks.create_task(self._follow(broker), name=f"census {broker.host} {broker.vhost}")
                await asyncio.sleep(NEW_HOSTS_EVERY)

    async def _follow(self, broker: BrokerAddress) -> None:
        wait = LOOK_EVERY
        while broker in self._brokers():
            sighting, before = await self._look(broker), self._latest.get(broker)
            self._latest[broker] = sighting
            if before is None or sighting.error is not None or sighting != before:
                self._on_news(broker)
            wait = LOOK_EVERY if sighting.error is None else min(2 * wait, LOOK_EVERY_MAX)
            await asyncio.sleep(wait)
        self._followed.discard(broker)
        self._latest.pop(broker, None)
        self._remembered.pop(broker, None)

    async def _look(self, broker: BrokerAddress) -> Sighting:
        try:
            async with Management(broker) as management:
                consumers = await management.all_consumers()
        except PartyMQError as error:
            return Sighting(error=error)
        except Exception as error:  # a defect, or an API like no other: routing must not end for it
            LOG.exception("the consumers of %s could not be read", broker.host)
            return Sighting(error=BrokerError(f"The management API's list of consumers cannot be read: {error!r}."))
        self._remember(broker, consumers)
        return Sighting(consumers=consumers, groups=by_group(consumers))

    def _remember(self, broker: BrokerAddress, consumers: Consumers) -> None:
        now = time.monotonic()
        before = self._remembered.get(broker, {})
        remembered = {queue: known for queue, known in before.items() if now - known[0] < REMEMBER}
        for queue, consuming in consumers.items():
            foreign = tuple(consumer for consumer in consuming if consumer.foreign)
            if any(consumer.active for consumer in foreign):
                remembered[queue] = now, foreign
        self._remembered[broker] = remembered
