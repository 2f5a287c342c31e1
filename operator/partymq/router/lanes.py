"""Where the messages of a partition go at this moment.

Invariant: a lane's arrivals leave it in the order in which they came, and its destination changes only while arrivals
are parked and everything sent to the old destination is confirmed.

Parked arrivals are in memory, still unacknowledged at the source: parking is only for the milliseconds of a poll, a
journal write or a fence; whatever lasts longer goes to the backlog.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from partymq.amqp.stamp import Stamper
from partymq.core.window import Credit
from partymq.router.publisher import Sink


class Member:
    """A member's inbox as a destination."""

    __slots__ = (
        "closed",
        "consuming",
        "credit",
        "full",
        "name",
        "news",
        "polled_at",
        "ready",
        "sink",
        "starved",
        "was_full",
        "worked",
    )

    def __init__(self, name: str, sink: Sink, window: int) -> None:
        self.name = name
        self.credit = Credit(window)
        self.sink = sink
        self.closed = False
        """True while it is a donor: nothing is published to its inbox, for whatever reason."""
        self.full = False
        """True from a poll that showed no room until one that shows half of it."""
        self.ready = 0
        self.was_full = False
        """`full` before the last poll."""
        self.consuming = False
        self.news = False
        """True when the last poll saw a consumer come or go."""
        self.worked = False
        """True when something had happened between the last two polls."""
        self.polled_at: float | None = None
        self.starved: list[Lane] = []
        """Lanes that wait for the next poll."""

    @property
    def low(self) -> int:
        """Credit below which a poll is due: half of what the last one gave."""
        return max(1, self.credit.left // 2)

    def polled(self, *, ready: int, consuming: bool, uncounted: int, now: float) -> None:
        """Takes in what a poll saw; `uncounted` is what it may not have counted."""
        self.ready = ready
        self.news = consuming != self.consuming
        self.worked = self.news or self.written
        self.consuming = consuming
        before = self.sink.left
        self.credit.polled(ready=ready, uncounted=uncounted)
        if self.polled_at is not None:
            self.credit.observe_rate(consumed=self.credit.left - before, seconds=now - self.polled_at)
        self.polled_at = now
        self.sink.left = self.credit.left
        self.was_full = self.full
        self.full = ready >= self.credit.window or (self.full and not self.credit.may_release)

    @property
    def written(self) -> bool:
        """True when something was published to its inbox since the last poll."""
        return self.sink.left != self.credit.left

    @property
    def idle(self) -> bool:
        """True while its inbox is empty, has a consumer that was there before, and gets nothing."""
        return self.consuming and not (self.closed or self.ready or self.worked or self.written)

    @property
    def takes(self) -> bool:
        """True while one more message may be published to its inbox."""
        return not self.closed and self.sink.left > 0


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

    __slots__ = ("_on_park", "index", "mode", "owner", "parked", "sink", "stamp")

    def __init__(
        self, index: int, epoch: int, on_park: "Callable[[Lane], None]", *, beside: "Lane | None" = None
    ) -> None:
        self.index = index
        self.stamp: Callable[[bytes, int, bytes], bytes] = (
            Stamper(index, epoch).stamp if beside is None else beside.stamp
        )
        """Of a lane beside another, for some keys of its partition, the same."""
        self.mode = Mode.WAITING
        self.owner: Member | None = None
        self.sink: Sink | None = None
        """Where arrivals go now; None parks them."""
        self.parked: deque[tuple[int, bytes, bytes]] = deque()
        self._on_park = on_park

    def park(self, tag: int, header: bytes, body: bytes) -> None:
        """Keeps an arrival; the first one asks for help."""
        self.sink = None
        self.parked.append((tag, header, body))
        if len(self.parked) == 1:
            self._on_park(self)

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
