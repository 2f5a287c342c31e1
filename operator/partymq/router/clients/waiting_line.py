"""The one line in which plain clients' messages wait while a slot among them waits for its place.

Invariant: what was handed to plain clients' queues leaves here in the order in which it came, over all of them, so that
each queue has the order of the source, and not only each key.

It stands in for the outlet of the clients' sinks, and only while something waits: the per-message path knows nothing of
it.
"""

from collections import deque
from collections.abc import Callable

from partymq.router.flow.lanes import Lane, Member
from partymq.router.publish.outlet import Settled, Sink


class Unplaced(Lane):
    """The lane of a slot that waits for its place; its arrivals stand in the line."""

    __slots__ = ("_waiting_line", "place")

    def __init__(
        self, index: int, epoch: int, on_park: Callable[[Lane], None], *, beside: Lane, waiting_line: "WaitingLine"
    ) -> None:
        super().__init__(index, epoch, on_park, beside=beside)
        self._waiting_line = waiting_line
        self.place: Lane | None = None
        """Where its messages go from here on."""

    def settle(self, place: Lane) -> Lane:
        """The slot has a place."""
        self.place = place
        return place

    @property
    def orders(self) -> tuple[int | Member, ...]:
        """Those of its place, as soon as it has one."""
        return super().orders if self.place is None else self.place.orders

    def park(self, tag: int, header: bytes, body: bytes) -> None:
        """Keeps an arrival; the first one asks for a place."""
        self._waiting_line.park(self, tag, header, body)
        self._on_park(self)


class WaitingLine:
    """The line, and the sinks that are led through it while it is shut."""

    def __init__(self) -> None:
        self.holds = True
        """False while what waits may be overtaken: only the order of each key is kept."""
        self._sinks: list[Sink] = []
        self._shut = False
        self._line: deque[tuple[Sink | Unplaced, bytes, bytes, Settled | None, int, bool]] = deque()

    def cover(self, sink: Sink) -> None:
        """A plain client's queue: its messages keep their place among those of the others."""
        self._sinks.append(sink)
        if self._shut:
            sink.outlet = self

    def uncover(self, sink: Sink) -> None:
        """A client leaves: what stands here for it is sent, whatever is before it; its keys are in no other queue."""
        self._sinks = [other for other in self._sinks if other is not sink]
        sink.outlet = sink.way
        self._send_all(lambda target: target is sink or _home(target) is sink)

    def release(self, lane: Unplaced) -> None:
        """The slot's place is not behind this line: what waits for it goes there at once, before anything newer."""
        self._send_all(lambda target: target is lane)

    def park(self, lane: Unplaced, tag: int, header: bytes, body: bytes) -> None:
        """An arrival of a slot that has no place: it is sent when the slot has one, what comes after it later."""
        if not self._shut and self.holds:
            self._shut = True
            for sink in self._sinks:
                sink.outlet = self
        self._line.append((lane, header, body, None, tag, True))

    def arrival(self, sink: Sink, header: bytes, body: bytes, tag: int) -> None:
        """As an outlet does."""
        sink.unconfirmed += 1
        self._line.append((sink, header, body, None, tag, True))

    def publish(self, sink: Sink, header: bytes, body: bytes, origin: Settled | None, tag: int) -> None:
        """As an outlet does."""
        sink.unconfirmed += 1
        self._line.append((sink, header, body, origin, tag, False))

    def proceed(self) -> None:
        """Sends what stands before the first message that has no place yet; opens if there is none."""
        line = self._line
        while line and not _unplaced(line[0][0]):
            self._send(line.popleft())
        if not line:
            self._open()

    def disperse(self) -> None:
        """Sends all that has a place: what has none takes longer than the others can wait for."""
        self.holds = False
        self._send_all(lambda target: not _unplaced(target))
        self._open()

    def drop_arrivals(self) -> None:
        """The source takes back what it has delivered and nobody was sent."""
        waiting, self._line = self._line, deque()
        for entry in waiting:
            if not entry[5]:
                self._line.append(entry)
            elif isinstance(sink := entry[0], Sink):
                sink.unconfirmed -= 1
        self.proceed()

    def _send_all(self, goes: Callable[[Sink | Unplaced], bool]) -> None:
        waiting, self._line = self._line, deque()
        for entry in waiting:
            if goes(entry[0]):
                self._send(entry)
            else:
                self._line.append(entry)

    def _open(self) -> None:
        self._shut = False
        for sink in self._sinks:
            sink.outlet = sink.way

    def _send(self, entry: tuple[Sink | Unplaced, bytes, bytes, Settled | None, int, bool]) -> None:
        target, header, body, origin, tag, arrived = entry
        if isinstance(target, Sink):
            target.unconfirmed -= 1
            if arrived:
                target.way.arrival(target, header, body, tag)
            else:
                target.way.publish(target, header, body, origin, tag)
            return
        place = target.place
        assert place is not None
        sink = place.sink
        if sink is None or sink.left <= 0:
            place.park(tag, header, body)
        else:
            sink.left -= 1
            # Another client's queue, or an inbox or backlog that no line is before.
            sink.way.arrival(sink, header, body, tag)


def _home(target: Sink | Unplaced) -> Sink | None:
    return target.place.sink if isinstance(target, Unplaced) and target.place is not None else None


def _unplaced(target: Sink | Unplaced) -> bool:
    return isinstance(target, Unplaced) and target.place is None
