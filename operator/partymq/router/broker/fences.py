"""The acknowledgements of one reader of a queue, which nothing confirms, and the fences that prove them.

Invariant: while a fence is unconfirmed, nothing is sent behind it to its queue; and it is proven only when it is
confirmed and back.

RabbitMQ hands a channel's acknowledgements to a quorum queue in their order, and a later publish behind them, but for
one thing: while 32 commands of the channel to the queue have had no effect, it holds acknowledgements back in the
channel, lets publishes pass them, and drops them when the channel is closed. It hands all of them over when the effect
of an earlier command leaves fewer than 32, before the channel hears of anything later. So how many acknowledgements
stand before a fence does not matter, but what stands behind it does: a fence may be back while they wait for that. And
that it is back may be another node's word, which overtakes the effects; its confirm is one of them.

Acknowledgements leave at the end of a chunk, as far as they have no gaps in one command.

A broker gives no more than was asked for, so what is not acknowledged is counted: more is no broker's doing. Twice as
much may come, for a node that was cut off for a while may have its part given to it again.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from partymq.amqp.channel import Channel
from partymq.amqp.frames import publish_frame
from partymq.amqp.replies import settle
from partymq.errors import NotAmqpError
from partymq.router.broker.data_connection import DataConnection

REFUSED_FOR = 0.05
"""Seconds until a fence that the queue refuses (it is full, by somebody's policy) is sent again."""
AGAIN = 2
"""So many times what was asked for may be with a reader."""


class Fence:
    """An empty marker message on its way through the queue."""

    __slots__ = ("back", "confirmed", "header", "name", "proven", "returns", "sent")

    def __init__(self, name: str, header: bytes, *, returns: bool) -> None:
        self.name = name
        self.header = header
        self.sent = False
        self.confirmed = False
        self.returns = returns
        """False where nobody waits until it was read."""
        self.back = not returns
        self.proven: list[Callable[[], None]] = []
        """Called when it proves what stood before it."""

    def prove(self) -> None:
        """Calls them, if it does."""
        if self.confirmed and self.back:
            self.over()

    def over(self) -> None:
        """Calls them: nothing is waited for any more."""
        for proven in self.proven:
            proven()


class Fences:
    """What one channel that reads one queue sends to it."""

    __slots__ = (
        "_acked",
        "_all",
        "_answered",
        "_channel",
        "_fences",
        "_frame",
        "_fresh",
        "_last",
        "_link",
        "_most",
        "_next",
        "_out",
        "_stopped",
        "_waiting",
    )

    def __init__(self, *, link: DataConnection, channel: Channel, queue: str, prefetch: int) -> None:
        self._link = link
        self._most = AGAIN * prefetch
        self._last = 0
        self._channel = channel
        self._frame = publish_frame(channel.number, "", queue)
        self._fresh: list[int] = []
        """Deliveries to be acknowledged."""
        self._next = 1
        """All deliveries before this one are acknowledged."""
        self._all = 0
        """The delivery up to which all are to be acknowledged."""
        self._acked: set[int] = set()
        """Of those behind it, the acknowledged ones."""
        self._waiting: deque[Fence] = deque()
        self._out: Fence | None = None
        """The one that is unconfirmed."""
        self._stopped = False
        self._answered: asyncio.Future[None] | None = None
        """Somebody waits until none is unconfirmed."""
        self._fences: dict[str, Fence] = {}
        """Those that are sent and not back."""
        channel.confirm(self._on_confirm, self._on_nack)

    @property
    def waiting(self) -> bool:
        """True while a fence waits to be sent until the one before it is confirmed."""
        return bool(self._waiting)

    def came(self, tag: int) -> None:
        """A delivery; raises NotAmqpError where it is not the next one, or one of more than anybody asked for."""
        if tag != self._last + 1:
            raise NotAmqpError("a delivery out of turn: the other side does not speak AMQP 0-9-1")
        self._last = tag
        if tag - self._next - len(self._acked) >= self._most:
            raise NotAmqpError(f"the broker delivers more than was asked for: {self._most} messages, unacknowledged")

    def ack(self, tag: int) -> None:
        """Acknowledges a delivery. Called while a chunk is read; a message's one step here."""
        fresh = self._fresh
        if not fresh:
            self._link.after_chunk(self._settle)
        fresh.append(tag)

    def ack_all(self, tag: int) -> None:
        """Acknowledges everything up to `tag`, which is not acknowledged yet, in one command."""
        self._fresh = [one for one in self._fresh if one > tag]
        self._acked = {one for one in self._acked if one > tag}
        self._next = tag + 1
        self._all = tag
        self._settle()

    def send(self, name: str, header: bytes, *, returns: bool = True) -> Fence:
        """Sends a fence, behind all acknowledgements so far, once the one before it is confirmed."""
        fence = Fence(name, header, returns=returns)
        self._waiting.append(fence)
        self._send()
        return fence

    def stop(self) -> None:
        """Sends no more fences, not even those that the queue has refused: it is about to be deleted, or left."""
        self._stopped = True
        self._waiting.clear()

    async def confirmed(self) -> None:
        """Returns when the last fence is confirmed, or refused, or its channel is closed; `stop` made it the last."""
        closed = self._channel.closed
        while self._out is not None and not closed.done():
            self._answered = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._answered, closed}, return_when=asyncio.FIRST_COMPLETED)

    def back(self, name: str) -> bool:
        """A fence was read; False if it is none of ours that is waited for."""
        if (fence := self._fences.pop(name, None)) is None:
            return False
        fence.back = True
        fence.prove()
        return True

    def flush(self) -> None:
        """Sends acknowledgements that wait, even behind a fence: nothing more will be proven."""
        fresh, self._fresh = self._fresh, []
        last, self._all = self._all, 0
        following = self._next
        sparse: list[int] = []
        for tag in fresh:
            if tag == following:
                following += 1
                last = tag
            else:
                sparse.append(tag)
        if sparse or self._acked:
            acked = self._acked
            acked.update(sparse)
            while following in acked:
                acked.remove(following)
                following += 1
            # The broker knows only tags that are not acknowledged: the one up to which it is told has to be fresh.
            last = max([last, *(tag for tag in sparse if tag < following)])
        self._next = following
        if last:
            self._channel.ack(last, multiple=True)
        for tag in sparse:
            if tag > last:
                self._channel.ack(tag)

    def _settle(self) -> None:
        if self._out is None:
            self.flush()

    def _send(self) -> None:
        if self._out is None and self._waiting:
            self.flush()
            self._out = fence = self._waiting.popleft()
            fence.sent = True
            if fence.returns:
                self._fences[fence.name] = fence
            self._channel.publish(self._frame, fence.header, b"")

    def _on_confirm(self, _tag: int, _multiple: bool) -> None:
        if (fence := self._take()) is not None:
            fence.confirmed = True
            fence.prove()
            self._send()

    def _on_nack(self, _tag: int, _multiple: bool) -> None:
        """The channel answers for a queue that refuses, which proves nothing; who leaves does not wait for better."""
        if (fence := self._take()) is not None:
            if fence.returns:
                asyncio.get_running_loop().call_later(REFUSED_FOR, self._again, fence)
            else:
                fence.confirmed = True
                fence.prove()
            self._send()

    def _take(self) -> Fence | None:
        fence, self._out = self._out, None
        self.flush()
        if self._answered is not None:
            settle(self._answered, None)
        return fence

    def _again(self, fence: Fence) -> None:
        if self._stopped:
            return
        self._waiting.append(fence)
        self._send()
