"""Lanes, in which the messages of a partition go, and members, to whom they go.

Invariant: a lane's arrivals leave it in the order in which they came. What changes a lane or a member is called by
`lane_table` alone, which says when that may be.

Parked arrivals are in memory, still unacknowledged at the source: parking is only for the milliseconds of a poll, a
journal write or a fence; whatever lasts longer goes to the backlog.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from operator import itemgetter
from typing import Final

from partymq.core.names import SPREAD
from partymq.core.taking import Taking
from partymq.core.window import Credit
from partymq.message.stamp import Stamper
from partymq.router.flow.statistics import InboxStatistics, LaneStatistics
from partymq.router.publish.outlet import UNLIMITED, Sink

REFUSED_FIRST: Final = 0.1
REFUSED_MOST: Final = 5.0
"""Seconds between tries with an inbox that refuses messages."""
UNWATCHED: Final = 5.0
"""Seconds without a poll after which nothing is known of what its client did meanwhile."""


class Member:
    """A member's inbox as a destination."""

    __slots__ = (
        "answered_at",
        "asked_at",
        "barred",
        "cautious",
        "closed",
        "consuming",
        "credit",
        "full",
        "low",
        "name",
        "news",
        "ordered",
        "pause",
        "polled_at",
        "ready",
        "refuses_until",
        "room",
        "silent_since",
        "sink",
        "starved",
        "taking",
        "was_full",
        "worked",
    )

    def __init__(self, name: str, sink: Sink, window: int) -> None:
        self.name = name
        self.credit = Credit(window)
        self.sink = sink
        self.low = 1
        """Credit below which a poll is due: half of what the last one gave."""
        self.room = UNLIMITED
        """Bytes that its inbox is to hold at most."""
        self.ordered = False
        """True where the queue as a whole keeps the source's order, and not only each partition."""
        self.closed = False
        """True while it is a donor: nothing is published to its inbox, for whatever reason."""
        self.barred = False
        """True while its inbox could not be declared: nothing is published to it or read from it."""
        self.cautious = False
        """True once its inbox has refused a message: it is given one at a time."""
        self.refuses_until = 0.0
        self.pause = 0.0
        """Seconds until the next try, when it refused the last time."""
        self.full = False
        """True from a poll that showed no room until one that shows half of it."""
        self.ready = 0
        self.was_full = False
        """`full` before the last poll."""
        self.consuming = False
        """Whether somebody consumes it, as far as was seen: `heard_since` says how old that is."""
        self.silent_since: float | None = None
        """When it was asked for the first of the looks that gave zeros, which prove nothing; None after an answer."""
        self.asked_at = self.answered_at = float("-inf")
        """When its leader was last asked to show that it answers, and when it did."""
        self.news = False
        """True when the last poll saw a consumer come or go."""
        self.worked = False
        """True when something had happened between the last two polls."""
        self.polled_at: float | None = None
        """When it was last known how it is."""
        self.starved: list[Lane] = []
        """Lanes that wait for the next poll."""
        self.taking = Taking()
        """Whether its client takes messages."""

    @classmethod
    def plain(cls, name: str, sink: Sink) -> "Member":
        """A plain client's queue: a destination without limits."""
        member = cls(name, sink, UNLIMITED)
        member.consuming = member.ordered = True
        return member

    def polled(self, *, ready: int, consuming: bool, uncounted: int, now: float, room: int | None = None) -> None:
        """Takes in what a poll saw; `uncounted` is what it may not have counted, `room` the bytes it may hold now."""
        if room is not None:
            self.room = room
        self.silent_since = None
        self.ready = ready
        self.news = consuming != self.consuming
        written = self.written
        self.worked = self.news or written
        self.consuming = consuming
        before = self.sink.left
        self._watch(ready=ready, uncounted=uncounted, now=now)
        self.credit.weigh(messages=self.credit.left - before, weight=self.sink.weight, room=self.room)
        self.sink.weight = 0
        self.credit.polled(ready=ready, uncounted=uncounted)
        if self.polled_at is not None and not self.cautious:
            self.credit.observe_rate(consumed=self.credit.left - before, seconds=now - self.polled_at)
        self.polled_at = now
        self.was_full = self.full
        self.full = ready >= self.credit.window or (self.full and not self.credit.may_release)
        if self.cautious:
            self._creep(now, accepted=written)
        self._lend()

    def _watch(self, *, ready: int, uncounted: int, now: float) -> None:
        # Another consumer; or it was not looked at for a while: its inbox was ours, or did not answer.
        if self.news or self.polled_at is None or now - self.polled_at > UNWATCHED:
            self.taking = Taking()
        self.taking.polled(
            published=max(0, self.credit.left - self.sink.left), ready=ready, uncounted=uncounted, now=now
        )

    def _lend(self) -> None:
        self.sink.left = self.credit.left
        self.low = max(1, self.credit.left // 2)

    def _creep(self, now: float, *, accepted: bool) -> None:
        """An inbox that has refused a message: it is given the next one when it has taken the one before."""
        if now < self.refuses_until:
            self.full = True
        elif accepted:
            self.pause = 0.0
        self.credit.left = 0 if self.full or self.sink.unconfirmed else min(1, self.credit.left)

    # --- what is known of its inbox

    def silent(self, at: float) -> float:
        """It was asked at that time, and gave zeros; returns when the first of these looks was."""
        if self.silent_since is None:
            self.silent_since = at
        return self.silent_since

    def asked(self, at: float) -> None:
        """Its leader is asked to show that it answers."""
        self.asked_at = at

    def answered(self, at: float) -> None:
        """Its leader has answered."""
        self.answered_at = at

    def heard_since(self, at: float) -> bool:
        """True when it was known at that time, or later, how its inbox is."""
        return self.polled_at is not None and self.polled_at >= at

    # --- what it may be given

    def starve(self, lane: "Lane") -> None:
        """A lane waits for the next poll."""
        self.starved.append(lane)

    def take_starved(self) -> "list[Lane]":
        """The lanes that have waited for a poll; it is there."""
        starved, self.starved = self.starved, []
        return starved

    def close(self) -> None:
        """It is a donor: nothing is published to its inbox."""
        self.closed = True
        self.sink.left = 0

    def reopen(self) -> None:
        """It is none any more; its next poll gives it credit."""
        self.closed = False
        self.starved.clear()

    def bar(self) -> None:
        """It has no inbox."""
        self.barred = self.full = True

    def unbar(self) -> None:
        """It has one."""
        self.barred = False

    def refused(self, now: float) -> None:
        """Its inbox refuses messages: there is no room for a while."""
        self.cautious = self.full = True
        if now >= self.refuses_until:
            self.pause = min(max(REFUSED_FIRST, 2 * self.pause), REFUSED_MOST)
            self.refuses_until = now + self.pause
        self.credit.left = 0
        self._lend()

    def statistics(self, now: float) -> InboxStatistics:
        """How it is."""
        # While it is a donor's, or could not be declared, its client cannot take anything.
        stuck = None if self.closed or self.barred else self.taking.stuck_since(now)
        return InboxStatistics(ready=self.ready, stuck_since=stuck)

    @property
    def written(self) -> bool:
        """True when something was published to its inbox since the last poll."""
        return self.sink.left != self.credit.left

    @property
    def idle(self) -> bool:
        """True while its inbox is empty, has a consumer that was there before, and gets nothing."""
        busy = self.closed or self.ready or self.worked or self.written
        return self.consuming and self.silent_since is None and not busy

    @property
    def takes(self) -> bool:
        """True while one more message may be published to its inbox."""
        return not self.closed and self.sink.left > 0


Arrival = tuple[int, bytes, bytes]

_NONE: Final[deque[Arrival]] = deque(maxlen=0)
"""What is parked in lanes in which nothing is: each of its own would be most of what a lane takes."""


class Mode(Enum):
    """What a lane does with arrivals."""

    DIRECT = auto()
    """To the owner's inbox; parked while its credit is being looked up."""
    WAITING = auto()
    """To the backlog; parked while that is being listed and declared."""
    SWITCHING = auto()
    """Parked, while a fence proves that the backlog is empty."""


class Lane:
    """One partition, or the keyless messages, in this session."""

    __slots__ = ("_on_park", "index", "mode", "owner", "parked", "partition", "sink", "stamp")

    def __init__(
        self, index: int, epoch: int, on_park: "Callable[[Lane], None]", *, beside: "Lane | None" = None
    ) -> None:
        self.index = index
        self.partition: int = index if beside is None else beside.partition
        self.stamp: Callable[[bytes, int, bytes], bytes] = (
            Stamper(index, epoch).stamp if beside is None else beside.stamp
        )
        """Of a lane beside another, for some keys of its partition, the same."""
        self.mode = Mode.WAITING
        self.owner: Member | None = None
        self.sink: Sink | None = None
        """Where arrivals go now; None parks them."""
        self.parked: deque[Arrival] = _NONE
        self._on_park = on_park

    @property
    def orders(self) -> "tuple[int | Member, ...]":
        """What keeps the source's order: its partition, unless it has no key, and the queue of a plain client."""
        partitions = (self.partition,) if self.partition != SPREAD else ()
        return (*partitions, self.owner) if self.owner is not None and self.owner.ordered else partitions

    def park(self, tag: int, header: bytes, body: bytes) -> None:
        """Keeps an arrival; the first one asks for help."""
        self.sink = None
        if self.parked is _NONE:
            self.parked = deque()
        self.parked.append((tag, header, body))
        if len(self.parked) == 1:
            self._on_park(self)

    def take_back(self, tag: int, header: bytes, body: bytes) -> None:
        """An arrival was refused by the queue that it went to: it keeps its place, and waits."""
        self.stop(Mode.WAITING)
        if self.parked is _NONE:
            self.parked = deque()
        insort(self.parked, (tag, header, body), key=itemgetter(0))

    def belong(self, owner: Member | None) -> None:
        """Its partition is that member's."""
        self.owner = owner

    def drop_parked(self) -> None:
        """What is parked comes again, from where it came."""
        self.parked.clear()

    def stop(self, mode: Mode) -> None:
        """Changes the mode; arrivals are parked until `resume`."""
        self.mode = mode
        self.sink = None

    def resume(self, sink: Sink) -> bool:
        """Publishes what is parked as far as `sink` takes it; True when arrivals flow again."""
        parked = self.parked
        while parked:
            if sink.left <= 0:
                return False
            tag, header, body = parked.popleft()
            sink.arrival(header, body, tag)
        self.sink = sink
        return True


class Lanes(dict[int, Lane]):
    """The lanes of a session by partition, each made when it is first asked for: most of a large group's never are."""

    def __init__(self, epoch: int, on_park: Callable[[Lane], None], *, on_made: Callable[[Lane], None]) -> None:
        """`on_made` says where a lane begins: nothing of its partition has come in this session."""
        super().__init__()
        self._epoch = epoch
        self._on_park = on_park
        self._on_made = on_made

    def __missing__(self, partition: int) -> Lane:
        lane = self[partition] = Lane(partition, self._epoch, self._on_park)
        self._on_made(lane)
        return lane

    @property
    def statistics(self) -> dict[int, LaneStatistics]:
        """Those whose arrivals wait, or would: of one that was never asked for, nothing does."""
        return {
            index: LaneStatistics(
                owner=lane.owner.name if lane.owner is not None else None,
                owner_full=lane.owner is not None and lane.owner.full,
            )
            for index, lane in self.items()
            if lane.mode is not Mode.DIRECT
        }
