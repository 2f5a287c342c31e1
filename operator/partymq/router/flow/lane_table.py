"""Where each partition's messages go: all changes of lanes, members and flows in one place.

Invariant: a lane's owner is the one in the last ledger that was followed, and changes only while its arrivals wait. Its
destination changes only while arrivals are parked, and what was sent to the old one is confirmed. What a queue refused
keeps its place. Nobody else changes a lane, a member or a flow: who knows that something has happened tells the table.

A lane      its arrivals                        becomes so by, on behalf of
DIRECT      to its owner's inbox; parked while  `go_direct`: the releaser, which has proven that nothing stands before
            that has no credit (it starves)     them. A lane's first message, where the ledger says so
WAITING     to its backlog; parked while that   `wait`: the releaser (a hold, a switch that takes too long);
            is listed and declared              `polled`: the inbox is full; `refused`: it has refused one
SWITCHING   parked, for moments                 `switch`: the releaser, near the end of a backlog
(a home)    to a plain client's queue           `home`: the slots; stays so

A member    what is published to its inbox      becomes so by, on behalf of
(open)      as much as its last poll allows     `polled`: the inboxes
full        nothing new; its lanes wait         `polled`, `refused`: the inboxes
cautious    one message at a time               `refused`: the inboxes; stays so
closed      nothing: it is a donor              `begin_drain`, `end_drain`: handoffs
barred      nothing: it has no inbox            `bar`, `unbar`: the inboxes

A flow      what its segment has read           becomes so by, on behalf of
given out   to its partition's owner, or for    `give_out`: the releaser. To a client's queue by overflows, which have
            keyless messages to any member      lanes of their own kind (`Flow.give_to`)
held back   stays in the reader, unconfirmed    `hold_back`: a hold, the end of a release, a client that leaves; its
            ones are confirmed as ever          reader, when it is dropped
"""

from collections.abc import Callable, Iterator

from partymq.core.ledger import Ledger
from partymq.core.names import SPREAD
from partymq.message.stamp import read_stamp
from partymq.router.flow.lanes import Lane, Lanes, Member, Mode
from partymq.router.flow.segment_flow import Flow, NextSink
from partymq.router.publish.outlet import Refused, Sink
from partymq.router.signals import Signal


class LaneTable:
    """The lanes of a session, and the members that they lead to."""

    def __init__(self, epoch: int, *, plain: Callable[[str], Member] | None = None) -> None:
        """`plain` gives a plain client's queue, where there are such clients."""
        self.lanes = Lanes(epoch, self._parked, on_made=self._made)
        self.inboxes: dict[str, Member] = {}
        """The members whose inboxes exist, or are to: which ones is the inboxes' to say."""
        self._epoch = epoch
        self._plain = plain
        self._ledger: Ledger | None = None
        """The one that is followed."""
        self._held: frozenset[int] = frozenset()
        """Its partitions that are in a handoff."""
        self.waits = Signal[[Lane]]()
        """A lane that waits has parked arrivals: they need its backlog."""
        self.starves = Signal[[Member]]()
        """Something waits for this member's next poll."""
        self.credit = Signal[[]]()
        """A member may take more."""
        self.releasable = Signal[[]]()
        """There may be a partition that can be released now."""

    # --- the ledger

    def follow(self, ledger: Ledger) -> None:
        """Takes over who owns what; partitions that have changed hands are waiting."""
        self._ledger, self._held = ledger, frozenset(ledger.held)
        for p, partition in enumerate(ledger.partitions):
            if p not in self.lanes and (partition.owner is None or (partition.direct and p not in self._held)):
                continue  # its first message makes its lane
            lane = self.lanes[p]
            owner = self._member(partition.owner, ledger) if partition.owner is not None else None
            if lane.owner is not owner:
                assert lane.mode is Mode.WAITING, "an owner changes only while arrivals wait"
                lane.belong(owner)

    def _made(self, lane: Lane) -> None:
        """A lane begins where the releaser would have brought it: direct, where nothing stands before new messages."""
        if self._ledger is None or lane.index == SPREAD:
            return
        partition = self._ledger.partitions[lane.index]
        if partition.owner is None:
            return
        owner = self._member(partition.owner, self._ledger)
        lane.belong(owner)
        if partition.direct and lane.index not in self._held and not owner.full:
            self.go_direct(lane)
        else:
            self.releasable.emit()

    def _member(self, name: str, ledger: Ledger) -> Member:
        if self._plain is not None and name in ledger.plain:
            return self._plain(name)
        return self.inboxes[name]

    # --- lanes

    def _parked(self, lane: Lane) -> None:
        if lane.mode is Mode.WAITING:
            self.waits.emit(lane)
        elif lane.mode is Mode.DIRECT and lane.owner is not None:
            self._starve(lane, lane.owner)

    def _starve(self, lane: Lane, owner: Member) -> None:
        owner.starve(lane)
        self.starves.emit(owner)

    def wait(self, lane: Lane) -> None:
        """Arrivals go to the backlog, or wait until it is there."""
        lane.stop(Mode.WAITING)
        if lane.parked:
            self.waits.emit(lane)

    def switch(self, lane: Lane) -> None:
        """Arrivals are parked: the backlog is nearly empty."""
        lane.stop(Mode.SWITCHING)

    def go_direct(self, lane: Lane) -> None:
        """Nothing stands before arrivals any more: they go to the owner, if it may be given any."""
        owner = lane.owner
        if owner is None or owner.closed or owner.barred:  # keyless messages have none; a handoff has just begun
            self.wait(lane)
            return
        lane.stop(Mode.DIRECT)
        if not lane.resume(owner.sink):
            self._starve(lane, owner)

    def into_backlog(self, lane: Lane, backlog: Sink) -> None:
        """The backlog is listed and there, and all that was sent elsewhere is confirmed: what is parked goes there."""
        lane.resume(backlog)
        if lane.index == SPREAD or (lane.owner is not None and not lane.owner.full):
            self.releasable.emit()

    def home(self, partition: int, client: Member) -> Lane:
        """A lane for slots of a partition that are pinned to a plain client; nothing is ever parked in it."""
        lane = Lane(partition, self._epoch, self._parked, beside=self.lanes[partition])
        lane.belong(client)
        lane.stop(Mode.DIRECT)
        lane.resume(client.sink)
        return lane

    def drop_parked(self) -> None:
        """What is parked was not published: the broker takes it back, and delivers it again."""
        for lane in self.lanes.values():
            lane.drop_parked()

    # --- members

    def polled(self, member: Member, *, ready: int, consuming: bool, uncounted: int, now: float, room: int) -> None:
        """A member's credit is known anew: what starved goes on, or waits in backlogs."""
        member.polled(ready=ready, consuming=consuming, uncounted=uncounted, now=now, room=room)
        for lane in member.take_starved():
            if lane.mode is Mode.DIRECT and lane.owner is member and not lane.resume(member.sink):
                member.starve(lane)
        if member.full:
            member.take_starved()
            self._fill(member)
        elif not member.takes and not member.sink.unconfirmed:
            self.starves.emit(member)  # else the next confirm does
        self.credit.emit()
        if member.was_full and not member.full:
            self.releasable.emit()

    def refused(self, member: Member, message: Refused, *, now: float) -> None:
        """A member's inbox has refused a message: it waits, and before what comes after it."""
        member.refused(now)
        if (lane := self.take_back(message)) is not None:
            self.waits.emit(lane)
        self._fill(member)

    def _fill(self, member: Member) -> None:
        """The member's inbox has no room: what comes for it waits in backlogs."""
        for lane in self.lanes.values():
            if lane.owner is member and lane.mode is Mode.DIRECT:
                self.wait(lane)

    def take_back(self, message: Refused) -> Lane | None:
        """What was not taken waits in its place: an arrival in its lane, anything else in its segment.

        Returns the lane of an arrival; it has to be given a backlog (`waits`).
        """
        if not message.arrived:
            assert isinstance(message.origin, Flow)  # nothing else gives to members
            message.origin.take_back(message.tag, message.header, message.body)
            return None
        stamp = read_stamp(message.header)
        assert stamp is not None
        lane = self.lanes[stamp.partition]
        lane.take_back(message.tag, message.header, message.body)
        return lane

    def begin_drain(self, donor: Member) -> None:
        """Nothing is published to the inbox of a donor, for whatever reason."""
        donor.close()

    def end_drain(self, donor: Member) -> None:
        """Its handoff is over."""
        donor.reopen()

    def bar(self, member: Member) -> None:
        """Its inbox could not be declared: nothing is published to it or read from it."""
        member.bar()

    def unbar(self, member: Member) -> None:
        """Its inbox is there."""
        member.unbar()

    # --- flows

    def give_out(self, flow: Flow, *, anybody: NextSink) -> None:
        """What a segment has of a partition goes to its owner; keyless messages go to `anybody`."""
        flow.give_to(anybody if flow.partition == SPREAD else _owner_of(self.lanes[flow.partition]))
        flow.pump()

    def hold_back(self, flow: Flow) -> None:
        """Nothing more of it is published; what is published is confirmed and acknowledged as ever."""
        flow.hold_back()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self.lanes.values())


def _owner_of(lane: Lane) -> NextSink:
    return lambda: lane.owner.sink if lane.owner is not None and lane.owner.takes else None
