"""The parts of a session put together, and what happens between them.

Invariant: a lane's owner is the one in the last journaled ledger, and its destination follows from its mode; both
change only here and in `release`.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator

from partymq.amqp.stamp import read_stamp
from partymq.amqp.topology import Topology
from partymq.core.ledger import Ledger
from partymq.core.membership import Membership
from partymq.core.names import SPREAD, Names
from partymq.core.spec import GroupConfig
from partymq.router.backlogs import Backlogs
from partymq.router.careful import Careful
from partymq.router.clients import SessionClients
from partymq.router.controller import Controller
from partymq.router.escalation import Escalation, Remembered
from partymq.router.handoff import Handoffs, Progress
from partymq.router.inboxes import Inboxes
from partymq.router.intake import Intake
from partymq.router.journal import Journal
from partymq.router.keyless import Keyless
from partymq.router.lanes import Lane, Lanes, Member, Mode
from partymq.router.link import Link
from partymq.router.listener import Listener
from partymq.router.overflow import Overflows
from partymq.router.pace import Pace
from partymq.router.points import Checkpoint
from partymq.router.publisher import Publisher
from partymq.router.refusals import Refusals
from partymq.router.release import Releaser
from partymq.router.reluctant import Message
from partymq.router.segments import Flow, SegmentReader
from partymq.router.source import KeyReader
from partymq.router.sourcekind import AskManagement, SourceKind
from partymq.router.troubles import Troubles


class Routing:
    """Routes one group, from a journaled ledger of this session on."""

    def __init__(
        self,
        *,
        config: GroupConfig,
        names: Names,
        link: Link,
        topology: Topology,
        publisher: Publisher,
        journal: Journal,
        read_key: KeyReader,
        listener: Listener,
        remembered: Remembered,
        ask_management: AskManagement,
        on_gone: Callable[[str], None],
        careful: Careful,
        at_risk: str,
        checkpoint: Checkpoint,
    ) -> None:
        spec, ledger = config.spec, journal.ledger
        self._link = link
        self._publisher = publisher
        self.careful = careful
        careful.idle = lambda: self.intake.idle
        careful.passed = lambda returning: self.intake.passed(returning)
        self._listener = listener
        self.names = names
        self.journal = journal
        self.troubles = troubles = Troubles(on_notice=listener.notice, on_change=listener.changed)
        self.pace = pace = Pace(topology, queues=lambda: (spec.source_queue, *self.inboxes.queues))
        self._ledger: Ledger | None = None
        """The one that lanes follow: what the journal holds, once `_on_ledger` was told."""
        self._handed: frozenset[int] = frozenset()
        """Its partitions that are in a handoff."""
        self.lanes = Lanes(ledger.epoch, self._on_park, on_made=self._on_made)
        self.inboxes = Inboxes(
            topology=topology,
            names=names,
            publisher=publisher,
            window=spec.inbox_window,
            room=link.budget.inboxes,
            pace=pace,
            troubles=troubles,
            on_polled=self._on_polled,
            on_refused=self._on_refused,
        )
        self.keyless = Keyless(
            lane=self.lanes[SPREAD],
            publisher=publisher,
            members=self.inboxes.members,
            key=spec.key,
            dead=names.dead,
            header_max=link.header_max,
        )
        self.backlogs = Backlogs(
            topology=topology,
            names=names,
            journal=journal,
            publisher=publisher,
            troubles=troubles,
            on_open=self._on_open,
            on_found=lambda: self.releaser.wake(),
        )
        self.releaser = Releaser(
            link=link,
            topology=topology,
            publisher=publisher,
            journal=journal,
            names=names,
            backlogs=self.backlogs,
            lanes=self.lanes,
            go_direct=self._go_direct,
            any_sink=self.keyless.next_sink,
            on_stray=self._on_stray,
            pace=pace,
            checkpoint=checkpoint,
        )
        self.handoffs = Handoffs(
            link=link,
            topology=topology,
            publisher=publisher,
            journal=journal,
            names=names,
            inboxes=self.inboxes,
            releaser=self.releaser,
            troubles=troubles,
            lanes=self.lanes,
            present=lambda member: self.controller.present(member),
            on_commit=self._on_commit,
            on_end=self._on_handed_off,
            checkpoint=checkpoint,
        )
        self.escalation = Escalation(
            config=config,
            names=names,
            journal=journal,
            handoffs=self.handoffs,
            makes_zombies=link.makes_zombies,
            remembered=remembered,
            on_notice=listener.notice,
        )
        self.controller = Controller(
            spec=spec,
            journal=journal,
            inboxes=self.inboxes,
            handoffs=self.handoffs,
            pace=pace,
            managed=lambda: self.clients.pods if self.clients is not None else (),
            on_membership=self._on_membership,
            on_ledger=self._on_ledger,
        )
        self.overflows = Overflows(
            link=link,
            topology=topology,
            publisher=publisher,
            journal=journal,
            names=names,
            troubles=troubles,
            on_stray=self._on_stray,
            on_left=self.releaser.left,
            checkpoint=checkpoint,
        )
        self._refusals = Refusals(troubles=troubles, overflows=self.overflows, spec=config.clients)
        publisher.on_reluctant = self._refusals.reluctant
        link.on_short = self._refusals.short
        self.clients: SessionClients | None = None
        if config.clients is not None:
            self.clients = SessionClients(
                spec=config.clients,
                link=link,
                publisher=publisher,
                journal=journal,
                names=names,
                inboxes=self.inboxes,
                holding=self.releaser.holding,
                lanes=self.lanes,
                overflows=self.overflows,
                request=self.backlogs.request,
                on_ledger=self._on_ledger,
                on_gone=on_gone,
                source_returned=lambda seq: self.intake.returned(seq),
                is_pod=self.controller.is_pod,
            )
        self.intake = Intake(
            spec=spec,
            link=link,
            topology=topology,
            kind=SourceKind(queue=spec.source_queue, topology=topology, management=ask_management),
            publisher=publisher,
            lanes=self.clients.slots if self.clients is not None else self.lanes,
            hashed=self.clients.slots.count if self.clients is not None else len(ledger.partitions),
            parked=self._all_lanes,
            read_key=read_key,
            on_missing=self.keyless.arrival,
            on_oversized=self.keyless.oversized,
            on_returns=careful.counted,
            at_risk=at_risk,
            backlog=lambda: self.waiting,
            pace=pace,
            trouble=listener.trouble,
            checkpoint=checkpoint,
        )

    @property
    def waiting(self) -> int:
        """Messages in the backlogs, and in the overflows."""
        return self.backlogs.entered - self.releaser.released_from_backlogs + self.overflows.waiting

    async def prepare(self) -> None:
        """Declares what the ledger names; what an earlier session held has settled."""
        ledger = self.journal.ledger
        await self.inboxes.restore(ledger.members)
        await self.backlogs.declare(ledger.backlogs)

    def resume(self) -> None:
        """Goes on where the ledger says."""
        self._link.on_chunk(self.inboxes.look)
        self._link.on_arrivals(self.inboxes.look)
        self.journal.on_change = self.pace.stir
        self.pace.on_work(self._listener.changed)
        self._on_ledger(self.journal.ledger)
        for handoff in self.journal.ledger.handoffs.values():
            self.handoffs.resume(handoff)

    def services(self) -> Collection[Coroutine[object, object, None]]:
        """What runs for as long as the session does."""
        return (
            self.pace.run(),
            self._publisher.watch(),
            self.inboxes.run(),
            self.backlogs.run(),
            self.releaser.run(),
            self.overflows.run(),
            self.handoffs.run(),
            self.escalation.run(),
            self.controller.run(),
            self.intake.run(),
            *((self.clients.slots.run(),) if self.clients is not None else ()),
        )

    async def stop(self) -> None:
        """Gives everything back so that nothing is repeated."""
        await self.intake.close()
        await self.handoffs.stop()
        self._publisher.pause()
        await asyncio.gather(self.releaser.close(), self.overflows.close())
        await self._publisher.confirmed()

    def _on_refused(self, member: Member, message: Message) -> None:
        """A member's inbox has refused a message: it waits, and before what comes after it."""
        member.refused(asyncio.get_running_loop().time())
        if message.arrived:
            stamp = read_stamp(message.header)
            assert stamp is not None
            lane = self.lanes[stamp.partition]
            lane.take_back(message.tag, message.header, message.body)
            self.backlogs.request(lane)
        else:
            assert isinstance(message.origin, Flow)  # nothing else gives to inboxes
            message.origin.take_back(message.tag, message.header, message.body)
        self._wait_for(member)
        self._refusals.inbox(self.names.inbox(member.name), member=member.name)
        self.pace.stir()

    def _on_park(self, lane: Lane) -> None:
        if lane.mode is Mode.WAITING:
            self.backlogs.request(lane)
        elif lane.mode is Mode.DIRECT and lane.owner is not None:
            lane.owner.starved.append(lane)
            self.inboxes.wake(lane.owner)

    def _on_open(self, lane: Lane) -> None:
        if lane.index == SPREAD or (lane.owner is not None and not lane.owner.full):
            self.releaser.wake()

    def _on_polled(self, member: Member) -> None:
        starved, member.starved = member.starved, []
        for lane in starved:
            if lane.mode is Mode.DIRECT and lane.owner is member and not lane.resume(member.sink):
                member.starved.append(lane)
        if member.cautious and not (member.full or member.pause):
            self.troubles.over(self.names.inbox(member.name))
        if member.full:
            member.starved.clear()
            self._wait_for(member)
        elif not member.takes and not member.sink.unconfirmed:
            self.inboxes.wake(member)  # else the next confirm does
        self.releaser.pump()
        if member.was_full and not member.full:
            self.releaser.wake()
        if member.news:
            self.controller.wake()

    def _wait_for(self, member: Member) -> None:
        """The member's inbox has no room: what comes for it waits in backlogs."""
        for lane in self.lanes.values():
            if lane.owner is member and lane.mode is Mode.DIRECT:
                lane.stop(Mode.WAITING)
                if lane.parked:
                    self.backlogs.request(lane)

    def _go_direct(self, lane: Lane) -> None:
        owner = lane.owner
        if owner is None or owner.closed or owner.barred:  # keyless messages have none; a handoff has just begun
            lane.stop(Mode.WAITING)
            if lane.parked:
                self.backlogs.request(lane)
            return
        lane.stop(Mode.DIRECT)
        if not lane.resume(owner.sink):
            owner.starved.append(lane)
            self.inboxes.wake(owner)

    def _on_ledger(self, ledger: Ledger) -> None:
        """Takes over who owns what; partitions that have changed hands are waiting."""
        self._ledger, self._handed = ledger, frozenset(ledger.held)
        for p, partition in enumerate(ledger.partitions):
            if p not in self.lanes and (partition.owner is None or (partition.direct and p not in self._handed)):
                continue  # its first message makes its lane
            lane = self.lanes[p]
            owner = self._member(partition.owner, ledger) if partition.owner is not None else None
            if lane.owner is not owner:
                assert lane.mode is Mode.WAITING, "an owner changes only while arrivals wait"
                lane.owner = owner
        self._spread()
        if self.clients is not None:
            self.clients.slots.sync(ledger)
        self._admit()
        self.releaser.wake()
        self._listener.changed()

    def _on_made(self, lane: Lane) -> None:
        """A lane begins where the releaser would have brought it: direct, where nothing stands before new messages."""
        if self._ledger is None or lane.index == SPREAD:
            return
        partition = self._ledger.partitions[lane.index]
        if partition.owner is None:
            return
        owner = lane.owner = self._member(partition.owner, self._ledger)
        if partition.direct and lane.index not in self._handed and not owner.full:
            self._go_direct(lane)
        else:
            self.releaser.wake()

    def _member(self, name: str, ledger: Ledger) -> Member:
        if self.clients is not None and name in ledger.plain:
            return self.clients.sink(name)
        return self.inboxes.members[name]

    def _all_lanes(self) -> Iterator[Lane]:
        """Every lane that may have parked arrivals."""
        return iter(self.lanes.values())

    def _on_commit(self, progress: Progress, moved: int) -> None:
        self._on_ledger(self.journal.ledger)
        self._listener.committed(progress.donor, moved, asyncio.get_running_loop().time() - progress.begun)

    def _on_handed_off(self, donor: str) -> None:
        self.controller.handed_off(donor)
        self.releaser.wake()
        self._listener.changed()

    def _on_membership(self, _membership: Membership) -> None:
        self._spread()
        self._admit()
        self.releaser.pump()  # keyless messages may have been waiting for somebody
        self._listener.changed()

    def _spread(self) -> None:
        """Says who is given keyless messages: of the admitted, who is there to take them or owns partitions.

        One that has been away for longer than its rejoin time owns nothing, and what it were given would wait for it.
        """
        ledger = self.journal.ledger
        owners = {partition.owner for partition in ledger.partitions}
        takers = ledger.members & (self.controller.membership.eligible | owners)
        self.keyless.admit(takers, self.clients.ready if self.clients is not None else ())

    def _admit(self) -> None:
        """Lets the source be read while somebody owns partitions and is there to take them."""
        membership = self.controller.membership
        owned = any(partition.owner is not None for partition in self.journal.ledger.partitions)
        self.intake.members(
            bool(self.journal.ledger.plain_ready) or (owned and bool(membership.eligible or membership.keeping))
        )

    def _on_stray(self, header: bytes, body: bytes, reader: SegmentReader, tag: int) -> None:
        """Something unstamped in a queue of ours: somebody else's message."""
        self.keyless.bury(header, body, reader, tag)
