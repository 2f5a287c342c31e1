"""The way to a queue that has refused a message (basic.nack): one message at a time.

Invariant: what the queue refused and what comes after it stays in order. Nothing newer is sent before the broker has
taken the older; only what was on its way when the first refusal came may have been taken before what was refused.

It stands in for the outlet of that queue's sink from the first refusal on, for as long as the session lasts: a queue
that is full now and then would otherwise refuse something in the middle of every burst. What it keeps is in memory and
unacknowledged where it came from. Where that becomes much, it may be led through another queue (`clients.overflow`).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from partymq.router.publish.outlet import Outlet, Refused, Settled, Sink

FIRST: Final = 0.1
MOST: Final = 5.0
"""Seconds between tries; each pause is twice as long as the one before."""
MUCH: Final = 32
"""Messages of one queue that wait here before somebody is told: the source delivers no more than 2000 in all."""


class RefusingQueue:
    """What stands before one queue."""

    def __init__(self, sink: Sink, outlet: Outlet, *, on_change: Callable[["RefusingQueue"], None]) -> None:
        self.sink = sink
        self._outlet = outlet
        self._on_change = on_change
        self._refused: list[Refused] = []
        """Of what was on its way together."""
        self._waiting: deque[Refused] = deque()
        self._sent: Refused | None = None
        self._tries = 0
        self._stayed: dict[int, Refused] = {}
        """What fits nowhere, by the try that showed it."""
        self._forgotten = False
        """The source takes back what is on its way, should it be refused."""
        self._pause = FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._aside: Sink | None = None
        """Another queue, through which everything goes that comes for this one."""
        self._from_aside: Settled | None = None
        """The origin of what has been there."""
        self._parks = False
        self._parked: deque[Refused] = deque()
        """What has come while it parks, behind all else."""
        self._on_room: Callable[[], None] = _nothing

    @property
    def kept(self) -> int:
        """Messages that the queue has not taken."""
        return len(self._refused) + len(self._waiting) + len(self._parked) + (self._sent is not None)

    @property
    def arrivals(self) -> int:
        """Of these, what the source has delivered."""
        sent = self._sent is not None and self._sent.arrived
        return sent + sum(message.arrived for message in (*self._refused, *self._waiting, *self._parked))

    @property
    def under_way(self) -> int:
        """Messages that are published and not confirmed."""
        copies = sum(message.origin is None for message in self._stayed.values())
        return self.sink.unconfirmed - len(self._refused) - len(self._waiting) - len(self._parked) - copies

    @property
    def has_room(self) -> bool:
        """Whether it waits for nothing but what comes next."""
        return not (self._refused or self._waiting or self._sent)

    # --- as an outlet

    def arrival(self, sink: Sink, header: bytes, body: bytes, tag: int) -> None:
        """Keeps what the source delivered until it is its turn."""
        origin = self._outlet.source
        self._append(sink, Refused(place=0, header=header, body=body, origin=origin, tag=tag, arrived=True))

    def publish(self, sink: Sink, header: bytes, body: bytes, origin: Settled | None, tag: int) -> None:
        """Keeps anything else likewise."""
        self._append(sink, Refused(place=0, header=header, body=body, origin=origin, tag=tag, arrived=False))

    def _append(self, sink: Sink, message: Refused) -> None:
        been_aside = message.origin is not None and message.origin is self._from_aside
        if self._aside is not None and not been_aside:
            _pass(message, self._aside)
            return
        sink.unconfirmed += 1
        if self._parks and not been_aside:
            self._parked.append(message)
            return
        self._waiting.append(message)
        if len(self._waiting) == MUCH:
            self._on_change(self)
        if self._sent is None and self._timer is None:
            self._next()

    # --- led through another queue

    def divert(self, aside: Sink, returning: Settled, *, on_room: Callable[[], None]) -> None:
        """What it keeps goes to another queue, in order, and so does all that comes, until `park`.

        What comes back from there has `returning` for its origin; `on_room` is called when all that this queue was
        given has been taken. Nothing else is under way.
        """
        self._on_room = on_room
        self._sort()
        moves = [message for message in self._waiting if message.origin is not returning]
        self._waiting = deque(message for message in self._waiting if message.origin is returning)
        moves += self._parked
        self._parked.clear()
        self.sink.unconfirmed -= len(moves)
        self._parks = False
        self._aside, self._from_aside = aside, returning
        for message in moves:
            _pass(message, aside)

    def park(self) -> None:
        """What comes from here on waits in memory: the other queue is nearly empty, or not there yet."""
        self._aside = None
        self._parks = True

    def rejoin(self) -> None:
        """Nothing is in the other queue, or on its way there or back: what is parked is next."""
        self._parks = False
        self._aside = self._from_aside = None
        self._on_room = _nothing
        self._waiting.extend(self._parked)
        self._parked.clear()
        self._on_change(self)
        if self._sent is None and self._timer is None:
            self._next()

    # --- as an origin

    def confirmed(self, _tag: int) -> None:
        """The queue has taken the one that was sent."""
        message, self._sent, self._forgotten = self._sent, None, False
        self._pause = FIRST
        if message is not None and message.origin is not None:
            message.origin.confirmed(message.tag)
        if not self.kept:
            self._on_change(self)
        self._next()

    def stays(self, tag: int) -> None:
        """No queue takes the one that was sent: it stays where it came from. A copy stays on its way to the sink."""
        message, self._sent, self._forgotten = self._sent, None, False
        if message is not None:
            self._stayed[tag] = message
            if message.origin is not None:
                message.origin.stays(message.tag)
            else:
                self.sink.unconfirmed += 1
        if not self.kept:
            self._on_change(self)
        self._next()

    def keeps(self, tag: int) -> bool:
        """Whether it is still there."""
        message = self._stayed.get(tag)
        return message is not None and (message.origin is None or message.origin.keeps(message.tag))

    def leaves(self, tag: int) -> None:
        """What stayed is in the dead queue now."""
        message = self._stayed.pop(tag, None)
        if message is None:
            return
        if message.origin is not None:
            message.origin.leaves(message.tag)
        else:
            self.sink.unconfirmed -= 1

    def refuse(self, message: Refused) -> None:
        """The queue has refused this one."""
        if message.origin is self:
            message, self._sent = self._sent, None  # type: ignore[assignment] # it is the one that was sent
            if self._forgotten or message is None:
                self._forgotten = False
                self._next()
                return
            self._waiting.appendleft(message)
            self._pause = min(2 * self._pause, MOST)
        else:
            self._refused.append(message)
        self.sink.unconfirmed += 1
        self._later()
        self._on_change(self)

    def _later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._outlet.channel.closed.done():
            return
        if self.under_way:  # more of it may be refused, and stands before what waits
            self._later()
            return
        self._sort()
        self._next()

    def _sort(self) -> None:
        self._waiting.extendleft(sorted(self._refused, key=lambda message: -message.place))
        self._refused.clear()

    def _next(self) -> None:
        if self._sent is not None or self._paused:
            return
        if not self._waiting:
            self._on_room()
        else:
            message = self._sent = self._waiting.popleft()
            self.sink.unconfirmed -= 1
            self._tries += 1
            self._outlet.publish(self.sink, message.header, message.body, self, self._tries)

    # --- taking back

    def pause(self) -> None:
        """Sends nothing more, until `go_on`."""
        self._paused = True

    def go_on(self) -> None:
        """Sends again."""
        self._paused = False
        if self._timer is None:
            self._next()

    def take(self) -> list[Refused]:
        """Gives up what it keeps, in order, but for what stands in the other queue; nothing is under way."""
        assert not self.under_way
        self._sort()
        kept = [*self._waiting, *self._parked]
        self._waiting.clear()
        self._parked.clear()
        self.sink.unconfirmed -= len(kept)
        if kept:
            self._on_change(self)
        return [message for message in kept if message.origin is None or message.origin is not self._from_aside]

    def drop_arrivals(self) -> None:
        """The source takes back what it has delivered."""
        self._sort()
        before = len(self._waiting) + len(self._parked)
        self._waiting = deque(message for message in self._waiting if not message.arrived)
        self._parked = deque(message for message in self._parked if not message.arrived)
        self.sink.unconfirmed -= before - len(self._waiting) - len(self._parked)
        self._forgotten = self._sent is not None and self._sent.arrived

    def forget_arrival(self, tag: int) -> bool:
        """The message that is on its way, of that tag, came back: its confirm means nothing."""
        if self._sent is None or not self._sent.arrived or self._sent.tag != tag:
            return False
        self._sent = None
        return True

    def close(self) -> None:
        """The session is over."""
        self._paused = True
        if self._timer is not None:
            self._timer.cancel()


def _nothing() -> None: ...


def _pass(message: Refused, aside: Sink) -> None:
    if message.arrived:
        aside.arrival(message.header, message.body, message.tag)
    else:
        aside.publish(message.header, message.body, origin=message.origin, tag=message.tag)
