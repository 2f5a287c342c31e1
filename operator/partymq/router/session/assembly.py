"""The parts of a session put together, and what happens between them.

Invariant: parts are made from the bottom up, each from those that it uses, and never exchanged. What goes the other way
is told by signals, all of which are connected here or by who listens. What is journaled is followed in one place: first
by the lanes, then by all else.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass

from partymq.amqp.channel import Returned
from partymq.core.ledger import Ledger
from partymq.errors import ClientGoneError
from partymq.message.key_reader import key_reader
from partymq.message.stamp import read_stamp
from partymq.router.clients.bindings import Bindings
from partymq.router.clients.client_queues import ClientQueues
from partymq.router.clients.overflow import Overflows
from partymq.router.context import Context
from partymq.router.flow.backlogs import Backlogs
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.keyless import Keyless
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.release import Releaser
from partymq.router.flow.source_gate import SourceGate
from partymq.router.flow.source_kind import AskManagement, SourceKind
from partymq.router.flow.source_reader import Routes
from partymq.router.poison.isolation import Isolation
from partymq.router.rebalance.forgotten_consumers import ForgottenConsumers
from partymq.router.rebalance.handoffs import Handoffs
from partymq.router.rebalance.listing import Listing
from partymq.router.rebalance.overdue import OverdueHandoffs, Remembered
from partymq.router.rebalance.progress import Progress
from partymq.router.rebalance.rebalancer import Rebalancer
from partymq.router.session.refusals import Refusals
from partymq.router.session.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisers:
    """Who is asked for what this session cannot see itself."""

    remembered: Remembered
    ask_management: AskManagement
    at_risk: str
    """Why the source is not to be read, if it is not."""


class Assembly:
    """Routes one group, from a journaled ledger of this session on."""

    def __init__(
        self, context: Context, isolation: Isolation, advisers: Advisers, *, on_gone: Callable[[str], None]
    ) -> None:
        """`on_gone` is told of a plain client whose queue is not there."""
        spec, clients, journal = context.config.spec, context.config.clients, context.journal
        self._context = context
        self._on_gone = on_gone
        self.isolation = isolation
        self.names = context.names
        self.journal = journal
        self.troubles = context.troubles
        self.polling = context.polling
        self._queues = queues = ClientQueues(clients, context.publisher) if clients is not None else None
        self.table = table = LaneTable(journal.ledger.epoch, plain=queues.member if queues is not None else None)
        self.lanes = table.lanes
        self.inboxes = Inboxes(context, table)
        self.keyless = Keyless(context, table)
        self.backlogs = Backlogs(context, table)
        self.releaser = Releaser(context, table, self.backlogs, self.keyless)
        listing = Listing(journal, clients=clients is not None)
        self.handoffs = Handoffs(context, table, inboxes=self.inboxes, releaser=self.releaser, listing=listing)
        self.overdue = OverdueHandoffs(context, handoffs=self.handoffs, remembered=advisers.remembered)
        self.rebalancer = Rebalancer(context, inboxes=self.inboxes, handoffs=self.handoffs, listing=listing)
        self.forgotten = ForgottenConsumers(context, inboxes=self.inboxes, pods=lambda: self.rebalancer.statistics.pods)
        self.overflows = Overflows(context, keyless=self.keyless, readers=self.releaser.readers)
        self.clients: Bindings | None = None
        if queues is not None:
            self.clients = Bindings(
                context,
                table,
                queues=queues,
                inboxes=self.inboxes,
                releaser=self.releaser,
                overflows=self.overflows,
                is_pod=listing.is_pod,
            )
        self.source_gate = SourceGate(
            context,
            table,
            self._routes(),
            kind=SourceKind(queue=spec.source_queue, topology=context.topology, management=advisers.ask_management),
            at_risk=advisers.at_risk,
            backlog=self._wait,
        )
        self._connect()

    def _routes(self) -> Routes:
        slots = self.clients.slots if self.clients is not None else None
        return Routes(
            lanes=slots if slots is not None else self.lanes,
            hashed=slots.count if slots is not None else len(self.journal.ledger.partitions),
            read_key=key_reader(self._context.config.spec.key),
            on_missing=self.keyless.arrival,
            on_oversized=self.keyless.oversized,
            on_returns=self.isolation.counted,
        )

    def _connect(self) -> None:
        """Has everybody told of what concerns them."""
        context = self._context
        refusals = Refusals(troubles=self.troubles, overflows=self.overflows, spec=context.config.clients)
        context.publisher.refusing_changed.connect(refusals.refusing)
        context.link.short.connect(refusals.short)
        self.isolation.follow(self.source_gate)
        self.handoffs.committed.connect(self._on_commit)
        self.rebalancer.membership_changed.connect(self._on_membership)
        self.rebalancer.planned.connect(self._on_ledger)
        if self.clients is not None:
            self.clients.changed.connect(self._on_ledger)
            context.link.explain_returns(self._explain_return)

    @property
    def waiting(self) -> int:
        """Messages in the backlogs, and in the overflows."""
        return self._wait()

    def _wait(self) -> int:
        released = self.releaser.readers.released_from_backlogs
        return self.backlogs.entered - released + self.overflows.waiting

    def snapshot(self) -> Snapshot:
        """How everything is at this moment."""
        ledger = self.journal.ledger
        entered, taken = self.backlogs.entered_of, self.releaser.taken_from
        return Snapshot(
            session=self.journal.session,
            names=self.names,
            ledger=ledger,
            calm=self.polling.calm,
            source=self.source_gate.statistics,
            inboxes=self.inboxes.statistics(time.monotonic()),
            lanes=self.lanes.statistics,
            backlogs={p: max(0, entered(p) - taken(p)) for p in ledger.backlogs},
            waiting=max(0, self.waiting),
            backlogged=self.backlogs.appended,
            released=self.releaser.released,
            handoffs={progress.donor: progress.statistics for progress in self.handoffs.running.values()},
            overdue=self.overdue.sentences,
            troubles=self.troubles.statistics,
            rebalancer=self.rebalancer.statistics,
            keyless=self.keyless.statistics,
            isolation=self.isolation.statistics,
        )

    async def prepare(self) -> None:
        """Declares what the ledger names; what an earlier session held has settled."""
        ledger = self.journal.ledger
        await self.inboxes.restore(ledger.members)
        await self.backlogs.declare(ledger.backlogs)

    def resume(self) -> None:
        """Goes on where the ledger says."""
        link = self._context.link
        link.on_chunk(self.inboxes.look)
        link.on_arrivals(self.inboxes.look)
        self.journal.changed.connect(self.polling.stir)
        self.polling.on_work(self._context.listener.changed)
        self._on_ledger(self.journal.ledger)
        for handoff in self.journal.ledger.handoffs.values():
            self.handoffs.resume(handoff)

    def services(self) -> Collection[Coroutine[object, object, None]]:
        """What runs for as long as the session does."""
        return (
            self.polling.run(),
            self._context.publisher.watch(),
            self.inboxes.run(),
            self.backlogs.run(),
            self.releaser.run(),
            self.overflows.run(),
            self.handoffs.run(),
            self.overdue.run(),
            self.forgotten.run(),
            self.rebalancer.run(),
            self.source_gate.run(),
            *((self.clients.slots.run(),) if self.clients is not None else ()),
        )

    async def stop(self) -> None:
        """Gives everything back so that nothing is repeated."""
        await self.source_gate.close()
        await self.handoffs.stop()
        self._context.publisher.pause()
        await asyncio.gather(self.releaser.close(), self.overflows.close())
        await self._context.publisher.confirmed()

    # --- what happens

    def _on_ledger(self, ledger: Ledger) -> None:
        """Takes over who owns what, and who has what place."""
        self.table.follow(ledger)
        self._spread()
        if self.clients is not None:
            self.clients.slots.sync(ledger)
        self._admit()
        self.releaser.wake()
        self._context.listener.changed()

    def _on_commit(self, progress: Progress, moved: int) -> None:
        self._on_ledger(self.journal.ledger)
        seconds = asyncio.get_running_loop().time() - progress.begun
        self._context.listener.committed(progress.donor, moved, seconds)

    def _on_membership(self) -> None:
        self._spread()
        self._admit()
        self.releaser.readers.pump()  # keyless messages may have been waiting for somebody
        self._context.listener.changed()

    def _spread(self) -> None:
        """Says who is given keyless messages: of the admitted, who is there to take them or owns partitions.

        One that has been away for longer than its rejoin time owns nothing: messages that it was given would only wait.
        """
        ledger = self.journal.ledger
        owners = {partition.owner for partition in ledger.partitions}
        takers = ledger.members & (self.rebalancer.membership.eligible | owners)
        self.keyless.admit(takers, self.clients.ready if self.clients is not None else ())

    def _admit(self) -> None:
        """Lets the source be read while somebody owns partitions and is there to take them."""
        membership = self.rebalancer.membership
        owned = any(partition.owner is not None for partition in self.journal.ledger.partitions)
        self.source_gate.members(
            bool(self.journal.ledger.plain_ready) or (owned and bool(membership.eligible or membership.keeping))
        )

    def _explain_return(self, message: Returned) -> bool:
        """A client's queue is gone, or was never bound: its messages stay in the source, the next session drops it."""
        name = self._queues.named(message.exchange, message.routing_key) if self._queues is not None else None
        if name is None:
            return False
        self._on_gone(name)
        stamp = read_stamp(message.header)
        ours = stamp is not None and stamp.epoch == self.journal.ledger.epoch and self.source_gate.returned(stamp.seq)
        if not ours:  # on its way out of a segment: nothing but a crash leaves it there
            error = ClientGoneError(f"{name} has no queue bound to {message.exchange}: {message.reason}")
            self._context.link.fail(error)
        return True
