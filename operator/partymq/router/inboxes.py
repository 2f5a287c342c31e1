"""The members' inboxes: that they exist, how full they are, and whether somebody consumes them.

Invariant: nothing is published to an inbox beyond the credit that its last poll gave. Polls are exact and cheap; a
member that runs out of credit is polled at once, so that a fast consumer is never throttled by bookkeeping (design,
section 7).
"""

import asyncio
import time
from collections.abc import Callable, Collection

from partymq.amqp.topology import Topology
from partymq.core.names import Names
from partymq.errors import BrokerError
from partymq.router.lanes import Member
from partymq.router.pace import Pace
from partymq.router.publisher import Publisher

PATIENCE = 5.0
"""Seconds for which all that a group decides waits for a new inbox; a burst of hundreds is declared in less."""


class Inboxes:
    """All inboxes of a group that exist, by member."""

    def __init__(
        self,
        *,
        topology: Topology,
        names: Names,
        publisher: Publisher,
        window: int,
        pace: Pace,
        on_polled: Callable[[Member], None],
    ) -> None:
        self._topology = topology
        self._names = names
        self._publisher = publisher
        self._window = window
        self._pace = pace
        self._on_polled = on_polled
        self._wanted: set[str] = set()
        self._deleting: set[str] = set()
        self._declaring: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._all = False
        pace.on_look(self._look_at_all)
        self.members: dict[str, Member] = {}

    async def ensure(self, names: Collection[str]) -> None:
        """Declares the inboxes of `names` that are not known yet, and polls each once."""
        await asyncio.gather(*(self._declare(name) for name in self._unknown(names)))

    async def expect(self, names: Collection[str]) -> None:
        """As `ensure`, but one that the broker is slow to declare keeps the others waiting only for `PATIENCE`, once.

        Raises what became of one before.
        """
        new = [name for name in self._unknown(names) if name not in self._declaring]
        for name in new:
            self._declaring[name] = asyncio.create_task(self._declare(name), name=f"declare the inbox of {name}")
        if new:
            await asyncio.wait([self._declaring[name] for name in new], timeout=PATIENCE)
        for name in [name for name, declaring in self._declaring.items() if declaring.done()]:
            self._declaring.pop(name).result()

    def _unknown(self, names: Collection[str]) -> list[str]:
        return sorted(set(names) - self.members.keys() - self._deleting)

    async def _declare(self, name: str) -> None:
        inbox = self._names.inbox(name)
        await self._topology.declare_quorum(inbox, single_active=True, dead_letter_exchange=self._names.dlx)
        if name in self.members:
            return  # somebody else has asked for it meanwhile
        member = Member(name, self._publisher.sink(inbox, left=0), self._window)
        self.members[name] = member
        self._pace.stir()
        await self._poll(member)

    @property
    def queues(self) -> list[str]:
        """The names of all inboxes."""
        return [self._names.inbox(name) for name in self.members]

    def occupied(self, name: str) -> bool:
        """True while somebody consumes the inbox, or did when we took it over."""
        member = self.members.get(name)
        return member is not None and (member.consuming or member.closed)

    def forget(self, name: str) -> None:
        """The inbox is about to be deleted; until `deleted`, its name is not declared again."""
        self.members.pop(name, None)
        self._pace.stir()
        self._deleting.add(name)

    def deleted(self, name: str) -> None:
        """The inbox is gone."""
        self._deleting.discard(name)

    async def discard(self, name: str) -> None:
        """Deletes the inbox of one that came and went without ever being a member, if nobody has put it to use."""
        member = self.members[name]
        if member.ready or member.consuming:
            return
        self.forget(name)
        await self._topology.delete(self._names.inbox(name))
        self.deleted(name)

    def wake(self, member: Member) -> None:
        """Polls a member as soon as possible."""
        self._wanted.add(member.name)
        self._wake.set()

    def look(self) -> None:
        """Finds members that come near their window; called once for every chunk that was read."""
        pace = self._pace
        for member in self.members.values():
            if pace.calm and member.written:
                pace.stir()
            if member.sink.left < member.low and member.name not in self._wanted and not member.closed:
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
                    self._pace.stir()
        finally:
            await self._stop_declaring()

    async def _stop_declaring(self) -> None:
        for declaring in self._declaring.values():
            declaring.cancel()
        await asyncio.gather(*self._declaring.values(), return_exceptions=True)

    def _look_at_all(self) -> None:
        if self.members:
            self._all = True
            self._wake.set()

    async def _poll(self, member: Member) -> None:
        if member.closed:
            return
        left, unconfirmed = member.sink.left, member.sink.unconfirmed
        state = await self._pace.poll(self._names.inbox(member.name))
        if member.closed or member.name not in self.members:
            return  # a handoff began meanwhile: what we saw may be our own takeover
        if state is None:
            raise BrokerError(f"the inbox of {member.name} is gone: somebody deleted it; starting again")
        member.polled(
            ready=state.ready,
            consuming=state.consumers > 0,
            # Polls overtake publishes, which queue at the broker when it is busy.
            uncounted=unconfirmed + left - member.sink.left,
            now=time.monotonic(),
        )
        self._on_polled(member)
