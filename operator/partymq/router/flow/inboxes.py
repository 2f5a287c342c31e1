"""The members' inboxes: that they exist, how full they are, and whether somebody consumes them.

Invariant: nothing is published to an inbox beyond the credit that its last poll gave. Polls are exact and cheap; a
member that runs out of credit is polled at once, so that a fast consumer is never throttled by bookkeeping
(docs/design.md, "Flow control").

Zeros change nothing, for they are no answer (`amqp.topology`): whoever consumed is taken to consume, and what credit
there was is left. That an inbox is empty and nobody consumes it is known when it is silent, its leader then answers a
question that it can only refuse, and it is silent again.

An inbox that the broker refuses is its member's trouble: it is tried again and again, and all others go on.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from partymq.amqp.topology import QueueState, Silence
from partymq.errors import BrokerError, PartyMQError
from partymq.router.broker.queue_troubles import REFUSES, refuses
from partymq.router.broker.retry import insist
from partymq.router.context import Context
from partymq.router.flow.inbox_queues import InboxQueues
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Member
from partymq.router.flow.statistics import InboxStatistics
from partymq.router.publish.outlet import Refused
from partymq.router.signals import Signal

LOG = logging.getLogger(__name__)

ASK_EVERY = 1.0
"""Seconds between questions to one leader that did not answer, or whose answer was of no use."""
ANSWER_HOLDS = 0.5
"""Seconds for which an answer shows that a leader answers."""
HEARD_WITHIN = 3.0
"""Seconds for which it is known how an inbox is."""
ASCERTAINED_WITHIN = 3.0
ASCERTAIN_LOOK = 0.05
PATIENCE = 5.0
"""Seconds for which all that a group decides waits for a new inbox; a burst of hundreds is declared in less."""


@dataclass(slots=True)
class Declaration:
    """Of one inbox, which is tried until it is there, or refused and not needed any more."""

    task: asyncio.Task[bool]
    answered: asyncio.Event
    """Set when the broker has answered the first time."""
    unneeded: asyncio.Event


class Inboxes:
    """All inboxes of a group that exist, by member."""

    def __init__(
        self,
        context: Context,
        table: LaneTable,
    ) -> None:
        self._topology = context.topology
        self._existing = InboxQueues(context)
        self._names = context.names
        self._publisher = context.publisher
        self._window = context.config.spec.inbox_window
        """Messages that each is to hold at most."""
        self._room = context.link.budget.inboxes
        """Bytes that all of them together are to hold."""
        self._polling = context.polling
        self._troubles = context.troubles
        self._table = table
        self.members = table.inboxes
        self.news = Signal[[]]()
        """A poll has seen a consumer come or go."""
        self._wanted: set[str] = set()
        self._deleting: set[str] = set()
        self._declaring: dict[str, Declaration] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._doubted: set[str] = set()
        self._wake = asyncio.Event()
        self._all = False
        self._polling.on_look(self._look_at_all, queues=lambda: self.queues)
        table.starves.connect(self.wake)

    async def ensure(self, name: str) -> None:
        """Declares an inbox that is not known yet, and polls it once; raises what the broker says against it."""
        if name not in self._deleting and (name not in self.members or self.members[name].barred):
            await self._declare(name)

    async def restore(self, names: Collection[str]) -> None:
        """Declares the inboxes of members that a ledger names, and polls each once; one that is refused is barred."""
        await asyncio.gather(*(self._restore(name) for name in sorted(names)))

    async def _restore(self, name: str) -> None:
        try:
            await self.ensure(name)
        except BrokerError as error:
            member = self.members[name] = self._member(name)
            self._table.bar(member)
            self._refused(name, error)
            self._begin(name)

    async def expect(self, names: Collection[str]) -> None:
        """Has the inboxes of `names`, who are all that may join, declared.

        One that the broker refuses, or is slow to declare, keeps the others waiting only for `PATIENCE`, once.
        """
        for name in self._declaring.keys() - set(names) - self.members.keys():
            self._declaring[name].unneeded.set()
            self._troubles.over(self._names.inbox(name))
        new = [name for name in self._unknown(names) if name not in self._declaring]
        for name in new:
            self._begin(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for name in new:
                    await self._declaring[name].answered.wait()
        for name in [name for name, declaring in self._declaring.items() if declaring.task.done()]:
            self._declaring.pop(name).task.result()

    async def usable(self, member: Member) -> None:
        """Returns when the inbox is there."""
        while member.barred:
            await asyncio.wait([self._declaring[member.name].task])

    def _unknown(self, names: Collection[str]) -> list[str]:
        return sorted(set(names) - self.members.keys() - self._deleting)

    def _begin(self, name: str) -> None:
        answered, unneeded = asyncio.Event(), asyncio.Event()
        declaring = insist(partial(self._declare, name), refused=partial(self._refused, name), enough=unneeded)
        task = asyncio.create_task(declaring, name=f"declare the inbox of {name}")
        task.add_done_callback(lambda _: answered.set())
        self._declaring[name] = Declaration(task, answered, unneeded)

    def _refused(self, name: str, error: BrokerError) -> None:
        effect = f"{name} cannot join" if name not in self.members else f"What is for {name} waits"
        declaring = self._declaring.get(name)
        if declaring is not None:
            declaring.answered.set()
        if declaring is None or not declaring.unneeded.is_set():
            self._troubles.refused(self._names.inbox(name), error, effect=effect)

    def _member(self, name: str) -> Member:
        member = Member(name, self._publisher.sink(self._names.inbox(name), left=0), self._window)
        member.sink.on_refused(partial(self._on_refused, member))
        return member

    def _on_refused(self, member: Member, message: Refused) -> None:
        self._table.refused(member, message, now=asyncio.get_running_loop().time())
        inbox = self._names.inbox(member.name)
        self._troubles.meet(inbox, reason=REFUSES, message=f"{refuses(inbox)}. What is for {member.name} waits")
        self._polling.stir()

    async def _declare(self, name: str) -> None:
        await self._existing.declare(name)
        member = self.members.get(name)
        if member is not None and not member.barred:
            return  # somebody else has asked for it meanwhile
        if member is None:
            member = self.members[name] = self._member(name)
        self._table.unbar(member)
        self._polling.stir()
        await self._poll(member)

    @property
    def queues(self) -> list[str]:
        """The names of all inboxes."""
        return [self._names.inbox(name) for name, member in self.members.items() if not member.barred]

    def statistics(self, now: float) -> dict[str, InboxStatistics]:
        """All that are known, by member."""
        return {name: member.statistics(now) for name, member in self.members.items()}

    def occupied(self, name: str) -> bool:
        """True while somebody consumes the inbox, or did when we took it over."""
        member = self.members.get(name)
        return member is not None and (member.consuming or member.closed)

    @property
    def consuming(self) -> dict[str, bool]:
        """Whose inboxes have a consumer, of those that were seen and are not ours now."""
        return {m.name: m.consuming for m in self.members.values() if m.polled_at is not None and not m.closed}

    def vacant(self, name: str) -> bool:
        """True while it is known that nobody consumes the inbox; while it is ours it is not vacant."""
        member = self.members.get(name)
        return member is None or (not member.consuming and not member.closed and self._heard(member))

    def unheard(self) -> frozenset[str]:
        """Members of whose inboxes nothing is known now: what was seen earlier may not be so any more."""
        return frozenset(m.name for m in self.members.values() if not m.closed and not self._heard(m))

    def _heard(self, member: Member) -> bool:
        return member.heard_since(time.monotonic() - HEARD_WITHIN)

    def doubt(self, names: Collection[str]) -> None:
        """Something depends on how these inboxes are now: they are asked until that is known."""
        for name in names:
            member = self.members.get(name)
            if member is not None and not member.closed and not self._heard(member):
                self._doubted.add(name)
                self.wake(member)

    async def ascertain(self, name: str) -> bool:
        """Whether the inbox is vacant; False, too, where that cannot be known now."""
        until = time.monotonic() + ASCERTAINED_WITHIN
        while not self.vacant(name):
            member = self.members[name]
            if self._heard(member) or member.closed or time.monotonic() > until:
                return False
            self.doubt([name])
            await asyncio.sleep(ASCERTAIN_LOOK)
        return True

    def forget(self, name: str) -> None:
        """The inbox is about to be deleted; until `deleted`, its name is not declared again."""
        self.members.pop(name, None)
        self._polling.stir()
        self._deleting.add(name)

    async def renew(self, member: Member) -> None:
        """Declares the inbox of a donor again, which was deleted; returns when the broker has it."""
        await insist(partial(self._existing.declare, member.name), refused=partial(self._refused, member.name))

    async def delete(self, name: str) -> None:
        """Deletes an inbox to which nothing is on its way; returns when it is gone, or raises BrokerError."""
        await self._existing.delete(name)

    def deleted(self, name: str) -> None:
        """The inbox is gone, and may be declared again."""
        self._deleting.discard(name)

    async def discard(self, name: str) -> None:
        """Deletes the inbox of one that came and went without ever being a member, if nobody has put it to use."""
        member = self.members[name]
        if member.ready or not self.vacant(name):
            self.doubt([name])
            return
        self.forget(name)
        try:
            await self.delete(name)
        except BrokerError:
            self.members[name] = member  # and the next one who looks tries again
        finally:
            self.deleted(name)

    def wake(self, member: Member) -> None:
        """Polls a member as soon as possible."""
        self._wanted.add(member.name)
        self._wake.set()

    def look(self) -> None:
        """Finds members that come near their window or room; called once for every chunk that was read."""
        calm = self._polling.calm
        for member in self.members.values():
            if calm and member.written:
                self._polling.stir()
            sink = member.sink
            near = sink.left < member.low or sink.weight > member.room >> 1
            if near and not (member.closed or member.barred or member.name in self._wanted):
                self.wake(member)

    async def run(self) -> None:
        """Polls whoever asks, and everybody now and then."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                everybody, self._all = self._all, False
                wanted, self._wanted = self._wanted.union(self.members if everybody else ()), set()
                members = [self.members[name] for name in sorted(wanted) if name in self.members]
                await asyncio.gather(*(self._poll(member) for member in members))
                if everybody and not all(member.idle for member in self.members.values()):
                    self._polling.stir()
        finally:
            await self._stop_tasks()

    async def _stop_tasks(self) -> None:
        tasks = [*(declaring.task for declaring in self._declaring.values()), *self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look_at_all(self) -> None:
        if self.members:
            self._all = True
            self._wake.set()

    async def _poll(self, member: Member) -> None:
        if member.closed or member.barred:
            return
        left, unconfirmed, asked = member.sink.left, member.sink.unconfirmed, time.monotonic()
        state = await self._polling.poll(self._names.inbox(member.name))
        if member.closed or member.name not in self.members:
            return  # a handoff began meanwhile: what we saw may be our own takeover
        if state is None:
            raise BrokerError(f"the inbox of {member.name} is gone: somebody deleted it; starting again")
        if isinstance(state, Silence):
            if not self._is_empty(member, state, asked):
                return
            state = QueueState(0, 0)
        self._doubted.discard(member.name)
        self._table.polled(
            member,
            ready=state.ready,
            consuming=state.consumers > 0,
            # Polls overtake publishes, which queue at the broker when it is busy.
            uncounted=unconfirmed + left - member.sink.left,
            now=time.monotonic(),
            room=self._room // len(self.members),
        )
        if member.cautious and not (member.full or member.pause):
            self._troubles.over(self._names.inbox(member.name))
        if member.news:
            self.news.emit()

    def _is_empty(self, member: Member, silence: Silence, asked: float) -> bool:
        """Whether zeros are a fact: the leader has answered since the first of them, and a moment ago."""
        since = member.silent(asked)
        answered = since <= member.answered_at and asked - ANSWER_HOLDS < member.answered_at <= asked
        if answered and silence is Silence.ZERO:
            return True
        # Somebody who consumed may have gone, or needs more credit than was left; else nothing depends on it.
        if member.consuming or member.sink.left <= 0 or member.name in self._doubted:
            self._ask(member, asked)
        return False

    def _ask(self, member: Member, now: float) -> None:
        if member.name not in self._asking and now - member.asked_at >= ASK_EVERY:
            member.asked(now)
            self._asking[member.name] = asyncio.create_task(self._answered(member), name=f"ask {member.name}")

    async def _answered(self, member: Member) -> None:
        try:
            await self._topology.answered(self._names.inbox(member.name))
            member.answered(time.monotonic())
            self.wake(member)
        except PartyMQError as error:
            LOG.info("the inbox of %s does not answer: %s", member.name, error)
        finally:
            del self._asking[member.name]
