"""Emptying one donor's inbox, so that its partitions can go to their owners.

Invariant: at any moment at most one client holds unacknowledged messages of a partition. The donor gets nothing after
the takeover, `collect` proves that it holds nothing, `settle` that nothing can come back to it, and no target gets
anything before the commit. Every step is journaled before what depends on it, so a successor goes on where this session
stopped (docs/design.md, "Handoff").
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping

from partymq.core import ranges
from partymq.core.ledger import Handoff, LedgerError, Phase, begin_handoff, commit, extracted
from partymq.errors import BrokerError, ConnectionLostError
from partymq.message.rewrite import passable
from partymq.router.broker.retry import insist
from partymq.router.broker.stamp_order import Message, in_order
from partymq.router.broker.takeover import Takeover
from partymq.router.context import Context
from partymq.router.failpoints import Point
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.flow.lanes import Member
from partymq.router.flow.release import Releaser
from partymq.router.publish.outlet import Refused
from partymq.router.rebalance.fast_donors import finished
from partymq.router.rebalance.listing import Listing
from partymq.router.rebalance.progress import Progress
from partymq.router.signals import Signal

LOG = logging.getLogger(__name__)

REFUSED_FIRST = 0.1
REFUSED_MOST = 10.0
"""Seconds between tries with a transfer that refuses messages."""
COMMITS_WITHIN = 2.0
"""Seconds that a graceful stop gives to handoffs that hold messages, and may still wait for a cancelled consumer."""


class Handoffs:
    """All handoffs of a session; donors hand off in parallel."""

    def __init__(
        self, context: Context, table: LaneTable, *, inboxes: Inboxes, releaser: Releaser, listing: Listing
    ) -> None:
        self._link = context.link
        self._topology = context.topology
        self._publisher = context.publisher
        self._journal = context.journal
        self._names = context.names
        self._troubles = context.troubles
        self._changed = context.listener.changed
        self._reached = context.checkpoint
        self._table = table
        self._inboxes = inboxes
        self._releaser = releaser
        self._listing = listing
        self.committed = Signal[[Progress, int]]()
        """A handoff's commit is journaled, and so many partitions moved."""
        self.ended = Signal[[str]]()
        """A handoff of this donor is over, with or without a commit."""
        self._new: asyncio.Queue[tuple[Progress, Mapping[int, str | None] | None]] = asyncio.Queue()
        self.running: dict[str, Progress] = {}
        """By donor."""
        self._stopping = False

    def start(self, donor: str, targets: Mapping[int, str | None]) -> None:
        """Begins a handoff of `donor`, which is in none."""
        self._add(Progress(self._journal.new_id(), donor), targets)

    def resume(self, handoff: Handoff) -> None:
        """Goes on with a handoff that an earlier session has begun."""
        self._add(Progress(handoff.id, handoff.donor, handoff.since), None)

    def _add(self, progress: Progress, targets: Mapping[int, str | None] | None) -> None:
        if self._stopping:
            return
        self.running[progress.donor] = progress
        self._table.begin_drain(self._inboxes.members[progress.donor])
        self._new.put_nowait((progress, targets))

    async def run(self) -> None:
        """Owns the tasks of all handoffs."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                progress, targets = await self._new.get()
                progress.task = tasks.create_task(self._run(progress, targets), name=f"handoff {progress.handoff_id}")

    async def stop(self) -> None:
        """Stops handoffs that wait for their donor, and lets the others commit.

        What is in our hands is better not given back: a client that gets it and leaves reorders what it returns.
        """
        self._stopping = True
        tasks = {progress.task for progress in self.running.values() if progress.task is not None}
        self._cancel([p for p in self.running.values() if p.takeover is None or not p.takeover.holds])
        if tasks:
            await asyncio.wait(tasks, timeout=COMMITS_WITHIN)
        self._cancel(self.running.values())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel(self, handoffs: Iterable[Progress]) -> None:
        for progress in handoffs:
            if progress.task is not None and not progress.final:
                progress.task.cancel()

    async def _run(self, progress: Progress, targets: Mapping[int, str | None] | None) -> None:
        donor = self._inboxes.members[progress.donor]
        resumed = targets is None
        try:
            if donor.barred:
                progress.trouble = f"the inbox of {donor.name}: {self._troubles.of(self._names.inbox(donor.name))}"
                await self._inboxes.usable(donor)
                progress.trouble = ""
            if targets is not None:
                await self._releaser.hold(self._table.lanes[p] for p in self._journal.ledger.owned_by(progress.donor))
                with contextlib.suppress(LedgerError):  # out of date: the partitions stay, a new plan is made
                    await self._journal.write(
                        lambda ledger: begin_handoff(
                            ledger,
                            handoff_id=progress.handoff_id,
                            donor=progress.donor,
                            targets=targets,
                            since=progress.since,
                        )
                    )
            if progress.handoff_id in self._journal.ledger.handoffs:
                self._reached(Point.DRAIN)
                await self._confirmed(donor)
                async with asyncio.TaskGroup() as tasks:
                    # Ahead of its use, because a busy broker takes its time; one that is not used becomes garbage.
                    # A resumed one takes over at once: should the donor's client drop its connection before, what that
                    # held stands behind what the last session gave back.
                    unneeded = not resumed and await finished(self._topology, self._names.inbox(donor.name))
                    declared = None if unneeded else tasks.create_task(self._declare(progress))
                    await self._empty(progress, declared, resumed=resumed)
        finally:
            if progress.takeover is not None:
                await progress.takeover.close()
            del self.running[progress.donor]
            self._over(progress)
            self._table.end_drain(donor)
        self._inboxes.wake(donor)
        self.ended.emit(progress.donor)
        self._releaser.wake()
        self._changed()

    async def _confirmed(self, donor: Member) -> None:
        """Returns when all that was published to the donor's inbox is in it."""
        await self._publisher.settled(donor.sink)

    async def _nobody_lost_holds_anything(self) -> None:
        """The broker may keep what the client of a lost node held, and give it out when that is back."""
        if self._link.makes_zombies:
            await self._topology.lost_nodes.quiet()

    async def _declare(self, progress: Progress) -> None:
        """Returns when the transfer is there, or is not needed and was refused."""
        transfer = self._names.transfer(progress.handoff_id)

        await insist(
            lambda: self._topology.declare_segment(transfer),
            refused=lambda error: self._refused(progress, error),
            enough=progress.unneeded,
        )
        self._over(progress)

    def _refused(self, progress: Progress, error: BrokerError) -> None:
        effect = f"What {progress.donor} hands off waits"
        self._troubles.refused(self._names.transfer(progress.handoff_id), error, effect=effect)
        progress.trouble = f"its transfer: {error}"
        progress.final = False  # it may be given up: nothing is journaled yet
        if self._stopping and progress.task is not None:
            progress.task.cancel()

    def _over(self, progress: Progress) -> None:
        progress.trouble = ""
        self._troubles.over(self._names.transfer(progress.handoff_id))

    async def _empty(self, progress: Progress, declared: asyncio.Task[None] | None, *, resumed: bool) -> None:
        inbox = self._names.inbox(progress.donor)
        await self._nobody_lost_holds_anything()
        progress.takeover = takeover = await Takeover.attach(
            link=self._link, topology=self._topology, inbox=inbox, epoch=self._journal.ledger.epoch
        )
        LOG.debug("handoff %s: attached to the inbox of %s", progress.handoff_id, progress.donor)
        self._reached(Point.ATTACHED)
        ledger = self._journal.ledger
        found = in_order(await takeover.collect(), partitions=len(ledger.partitions), newest=ledger.epoch)
        LOG.debug("handoff %s: the inbox of %s held %s messages", progress.handoff_id, progress.donor, len(found))
        self._reached(Point.COLLECTED)
        # Whether anything had been redelivered only the session knew that copied it.
        haunted = self._link.makes_zombies
        if self._journal.ledger.handoffs[progress.handoff_id].phase is Phase.DRAIN:
            haunted = takeover.may_leave_a_zombie
            progress.final = bool(found)
            if found:
                await (declared or self._declare(progress))
                progress.final = True
                partitions = await self._extract(progress, found, resumed=resumed)
                progress.final = True
                await self._journal.write(
                    lambda ledger: extracted(ledger, handoff_id=progress.handoff_id, found=partitions)
                )
                self._reached(Point.EXTRACTED)
        else:  # copies, and what somebody else has put there since, which is in no transfer
            await self._bury(message for message in found if message[0] is None)
        progress.final = True
        progress.unneeded.set()
        await takeover.settle()
        LOG.debug("handoff %s: nothing comes back to the inbox of %s", progress.handoff_id, progress.donor)
        self._reached(Point.SETTLED)
        if declared is not None:
            await declared  # what comes into being after the commit would not be deleted
        gone = not self._listing.present(progress.donor)
        if (
            haunted
            and progress.donor in commit(self._journal.ledger, handoff_id=progress.handoff_id, drop=gone).members
        ):
            await self._renew(progress, takeover)
        await self._commit(progress, takeover, gone=gone)

    async def _renew(self, progress: Progress, takeover: Takeover) -> None:
        """Deletes the inbox, which is empty, and declares it anew: who consumes it is told, and a zombie is gone.

        Before the commit, so that a successor knows that it has to be done; the inbox itself it declares at its start.
        """
        donor = self._inboxes.members[progress.donor]
        late = takeover.late
        await takeover.expect_deletion()
        await self._inboxes.delete(progress.donor)
        await self._inboxes.renew(donor)
        for _, header, body in late:
            donor.sink.publish(passable(header), body)
        await self._publisher.settled(donor.sink)

    async def _extract(
        self,
        progress: Progress,
        found: Collection[Message],
        *,
        resumed: bool,
    ) -> Collection[int]:
        """Copies what was collected to the transfer, in order; returns the partitions that are in it."""
        transfer = self._names.transfer(progress.handoff_id)
        if resumed:
            await self._topology.purge(transfer)  # an earlier session's copy may be there in part
        refused: list[Refused] = []
        to_transfer = self._publisher.sink(transfer, refused=refused.append)
        to_dead = self._publisher.sink(self._names.dead)
        for stamp, header, body in found:
            if stamp is None:
                to_dead.publish(passable(header), body)
        partitions = {stamp.partition for stamp, _, _ in found if stamp is not None}
        pause = REFUSED_FIRST
        while True:
            for stamp, header, body in found:
                if stamp is not None:
                    to_transfer.publish(passable(header), body)
            self._reached(Point.COPYING)
            await self._publisher.settled(to_transfer, to_dead)
            if not refused:
                break
            # What came after it may have been taken: the copy is made anew, for it has to be in order.
            refused.clear()
            error = BrokerError(f"{transfer} refuses messages (basic.nack): `rabbitmqctl list_policies` may say why")
            self._refused(progress, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, REFUSED_MOST)
            await self._topology.purge(transfer)
        self._reached(Point.COPIED)
        self._over(progress)
        return partitions

    async def _commit(self, progress: Progress, takeover: Takeover, *, gone: bool) -> None:
        handoff = self._journal.ledger.handoffs[progress.handoff_id]
        leftovers = handoff.found - handoff.targets.keys()
        async with self._releaser.holding(self._table.lanes[p] for p in leftovers):
            if leftovers:
                await self._publisher.confirmed()
            ledger = await self._journal.write(lambda ledger: commit(ledger, handoff_id=progress.handoff_id, drop=gone))
            self._reached(Point.COMMITTED)
            LOG.info(
                "%s%s: %s", self._names.prefix, progress.handoff_id, ranges.handed_over(progress.donor, handoff.targets)
            )
            self.committed.emit(progress, sum(target != progress.donor for target in handoff.targets.values()))
        progress.final = False  # what is left to do another session would do
        if progress.donor in ledger.visitors:
            await self._delete(progress.donor, takeover)

    async def _delete(self, donor: str, takeover: Takeover) -> None:
        """Deletes an inbox; one that the broker does not let us delete is left to the next session."""
        self._inboxes.forget(donor)  # at once: it must not be admitted again before it is deleted
        try:
            await self._bury(takeover.late)
            await takeover.expect_deletion()
            await self._inboxes.delete(donor)
        except ConnectionLostError:
            raise
        except BrokerError as error:
            LOG.warning("%s stays, empty: %s", self._names.inbox(donor), error)
        finally:
            self._inboxes.deleted(donor)

    async def _bury(self, late: Iterable[Message]) -> None:
        """What somebody else puts into an inbox that is about to be deleted goes to nobody."""
        to_dead = self._publisher.sink(self._names.dead)
        for _, header, body in late:
            to_dead.publish(passable(header), body)
        await self._publisher.settled(to_dead)
