"""Who consumes what on each virtual host, and what its queues are, looked at now and then over the management API.

Invariant: one look at a time for each virtual host and user, however many groups are there, and none on the way of a
message. What is seen is seconds old and may be missing: it is for telling people, and for finding a connection.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from partymq.amqp.management import Management
from partymq.core.consumers import Consumer, Consumers, by_group, shows
from partymq.core.hazards import QueueFacts, absences, transient
from partymq.core.names import PREFIX, Names
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, PartyMQError

LOG = logging.getLogger(__name__)

LOOK_EVERY = 20.0
LOOK_EVERY_MAX = 120.0
"""Seconds between looks, the second while the API does not answer."""
SECOND_LOOK = 6.0
"""Seconds from the first look to the second: the API shows a new consumer, as our own, up to five seconds late."""
QUEUES_EVERY = 60.0
"""Seconds between looks at the queues: that list is longer, and policies are few."""
QUEUES_SHARE = 50
"""How many times as long as the last look took it is waited at least: the broker works for that list."""
OURS = rf"^{re.escape(PREFIX)}"
TELL_AGAIN = 3
"""Looks that are told of: one with something new, and those after it, for some things are said only if they stay."""
NEW_HOSTS_EVERY = 1.0
KEPT = 64 * 1024 * 1024
"""Bytes of answers, of all brokers together, of which the consumers and queues are kept until the next look."""
LEAST_KEPT = 128 * 1024
ASKING = 8
"""Queues that are asked for at the same time: hundreds of groups may begin at once."""
ANSWERS_WITHIN = 5.0
"""Seconds that who asks for one queue waits for an answer."""
SHOWN_TRIES = 20
ASK_EVERY = 0.5
"""How often, and every how many seconds, it is looked again for what the API shows up to five seconds late."""
REMEMBER = 3600.0
"""Seconds for which a consumer that was seen is remembered: it may be cancelled, and still hold messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuesSeen:
    """What one look at the queues has seen; with an `error` nothing."""

    queues: Mapping[str, QueueFacts] = field(default_factory=dict)
    """Sources, and queues of groups for which a policy holds, or that lack a member: of the rest nothing is to be told.
    """
    error: PartyMQError | None = None
    groups: Mapping[str, Mapping[str, QueueFacts]] = field(default_factory=dict, compare=False)
    absent: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False)
    """By queue, nodes without its member: what is seen once may be a node that starts."""
    due: float = field(default=float("-inf"), compare=False)
    """When they are to be looked at again, on the monotonic clock."""

    def of(self, names: Names, source: str) -> Mapping[str, QueueFacts]:
        """A group's queues that are seen, and its source."""
        sources = {source: self.queues[source]} if source in self.queues else {}
        return {**self.groups.get(names.prefix, {}), **sources}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one look has seen; with an `error` nothing."""

    consumers: Consumers = field(default_factory=dict)
    error: PartyMQError | None = None
    groups: Mapping[str, Consumers] = field(default_factory=dict, compare=False)
    """Those of each group's own queues: hundreds of groups look for theirs."""
    queues: QueuesSeen = field(default_factory=QueuesSeen)
    """What was seen last of the queues, which are looked at less often."""
    began: float = field(default=0.0, compare=False)
    """When it began to look, on the monotonic clock."""

    def of(self, names: Names, source: str) -> Consumers:
        """The consumers of a group's queues and of its source."""
        return {**self.groups.get(names.prefix, {}), source: self.consumers.get(source, ())}

    def shows(self, names: Names, session: str) -> bool:
        """Whether this session is seen to consume its group's journal: the API is then the same broker's."""
        return shows(self.consumers.get(names.journal, ()), session)


class ConsumerScan:
    """Looks at the virtual hosts that `brokers` names at the time."""

    def __init__(
        self,
        brokers: Callable[[], Collection[BrokerAddress]],
        *,
        on_news: Callable[[BrokerAddress], None],
        sources: Callable[[BrokerAddress], Collection[str]] = lambda _broker: (),
    ) -> None:
        """`on_news` is called after a look that did not see the same as the one before, and after some more.

        `sources` are those in use.
        """
        self._brokers = brokers
        self._on_news = on_news
        self._sources = sources
        self._asking = asyncio.Semaphore(ASKING)
        self._followed: set[BrokerAddress] = set()
        self._latest: dict[BrokerAddress, Sighting] = {}
        self._sizes: dict[BrokerAddress, int] = {}
        """Bytes of the answers that the last looks were made of."""
        self._remembered: dict[BrokerAddress, dict[str, tuple[float, tuple[Consumer, ...]]]] = {}

    def latest(self, broker: BrokerAddress) -> Sighting | None:
        """The last look, or None before the first one; the same object until the next look."""
        return self._latest.get(broker)

    def remembered(self, broker: BrokerAddress, queue: str) -> tuple[Consumer, ...]:
        """The consumers other than ours that a queue had when one of them was last seen active.

        A takeover makes them wait, while the one that was active may still hold messages.
        """
        return self._remembered.get(broker, {}).get(queue, (0.0, ()))[1]

    async def queue(self, broker: BrokerAddress, name: str, *, journal: str, session: str) -> QueueFacts | None:
        """What a queue is, asked now; None where there is none, or nobody answers in time.

        What would be held against the queue is believed only when that session is seen to consume that journal, which
        takes a few seconds: the API may be another broker's, with a queue of the same name.
        """
        async with self._asking:
            try:
                async with Management(broker) as management:
                    async with asyncio.timeout(ANSWERS_WITHIN):
                        named = await management.has_policy(name)  # which is known before what it says
                        facts = await management.queue(name)
                    for _ in range(SHOWN_TRIES):
                        if facts is None:
                            return None
                        if transient(facts) is None:
                            if facts.policy or not named:
                                return facts
                        elif shows(await management.consumers(journal), session):
                            return facts
                        await asyncio.sleep(ASK_EVERY)
                        facts = await management.queue(name)
                    return None
            except (PartyMQError, TimeoutError):
                return None

    async def run(self) -> None:
        """Owns the looking."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for broker in set(self._brokers()) - self._followed:
                    self._followed.add(broker)
                    tasks.create_task(self._follow(broker), name=f"consumer scan {broker.where} {broker.vhost}")
                await asyncio.sleep(NEW_HOSTS_EVERY)

    async def _follow(self, broker: BrokerAddress) -> None:
        wait, same = LOOK_EVERY, 0
        while broker in self._brokers():
            before = self._latest.get(broker)
            sighting = self._latest[broker] = await self._look(broker, before.queues if before else QueuesSeen())
            same = same + 1 if sighting == before and sighting.error is None else 0
            if same < TELL_AGAIN:
                self._on_news(broker)
            wait = LOOK_EVERY if sighting.error is None else min(2 * wait, LOOK_EVERY_MAX)
            await asyncio.sleep(wait if before is not None else min(wait, SECOND_LOOK))
        self._followed.discard(broker)
        self._latest.pop(broker, None)
        self._sizes.pop(broker, None)
        self._remembered.pop(broker, None)

    async def _look(self, broker: BrokerAddress, queues: QueuesSeen) -> Sighting:
        began = time.monotonic()
        try:
            async with Management(broker, keeps=self._room(broker)) as management:
                consumers = await management.all_consumers()
                if began >= queues.due:
                    queues = await self._look_at_queues(broker, management, queues.absent)
        except PartyMQError as error:
            return Sighting(error=error, began=began)
        except Exception:  # a defect: routing must not end for it
            LOG.exception("the consumers of %s could not be read", broker.where)
            unread = BrokerError("The management API's list of consumers cannot be read; the log says why.")
            return Sighting(error=unread, began=began)
        self._sizes[broker] = management.kept
        self._remember(broker, consumers)
        return Sighting(consumers=consumers, groups=by_group(consumers), queues=queues, began=began)

    def _room(self, broker: BrokerAddress) -> int:
        """Bytes of answers that a look may keep: what others leave, and in any case enough for a few hundred pods."""
        others = sum(size for other, size in self._sizes.items() if other != broker)
        return max(LEAST_KEPT, min(broker.limits.answer, (KEPT - others) // 2))

    async def _look_at_queues(
        self, broker: BrokerAddress, management: Management, before: Mapping[str, frozenset[str]]
    ) -> QueuesSeen:
        began = time.monotonic()
        try:
            ours = await management.queues_like(OURS)
            sources = [facts for source in self._sources(broker) if (facts := await management.queue(source))]
        except PartyMQError as error:
            return QueuesSeen(error=error, due=time.monotonic() + QUEUES_EVERY)
        now = time.monotonic()
        absent = absences([*ours, *sources])
        unsettled = absent != before or not all(source.settled for source in sources)
        kept = [queue for queue in ours if queue.definition or queue.name in absent]
        kept += [source for source in sources if source.settled]
        told = {queue.name: _lasting(queue, absent, before) for queue in kept}
        wait = SECOND_LOOK if unsettled else max(QUEUES_EVERY, QUEUES_SHARE * (now - began))
        return QueuesSeen(queues=told, groups=by_group(told), absent=absent, due=now + wait)

    def _remember(self, broker: BrokerAddress, consumers: Consumers) -> None:
        now = time.monotonic()
        before = self._remembered.get(broker, {})
        remembered = {queue: known for queue, known in before.items() if now - known[0] < REMEMBER}
        for queue, consuming in consumers.items():
            # A new one is listed some seconds before its connection is: it could not be found by that.
            foreign = tuple(consumer for consumer in consuming if consumer.foreign and consumer.connection)
            if any(consumer.active for consumer in foreign):
                remembered[queue] = now, foreign
        self._remembered[broker] = remembered


def _lasting(
    queue: QueueFacts, absent: Mapping[str, frozenset[str]], before: Mapping[str, frozenset[str]]
) -> QueueFacts:
    """As it is told: where its members run at the moment is left out, for it changes."""
    twice = absent.get(queue.name, frozenset()) & before.get(queue.name, frozenset())
    return replace(queue, members=frozenset(), online=frozenset(), absent=twice)
