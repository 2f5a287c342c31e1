"""Becoming the active consumer of a donor's inbox, and proving what that means.

Invariant: `collect` returns only when everything that was in the inbox is in our hands and no client holds any of it;
`settle` returns only when no acknowledged message can come back to the inbox (design, section 5).

The broker enforces it: a consumer of higher priority quiesces the active one, and is activated once that holds nothing.
`consumer_count` counts consumers that are active or were cancelled while holding messages, so 1 means: us alone.

0 for longer than a moment means that the broker has forgotten to activate us: RabbitMQ 4.0 does so when a quiesced
consumer gives its last message back instead of acknowledging it (rabbitmq-server issue 14141). Any change of the
queue's consumers makes it look again, so one that comes last in line comes and goes.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from partymq.amqp.channel import MAX_PREFETCH, Channel
from partymq.amqp.frames import publish_frame
from partymq.amqp.stamp import Stamp, fence_header, read_fence, read_stamp
from partymq.core.consumers import TAKEOVER_PRIORITY
from partymq.router.link import Link

FENCE_RETRY = 0.01
FENCE_RETRY_MAX = 0.25
FENCE_RETRY_SHARE = 0.25
"""Seconds between fences, and their share of the time waited so far: one that meets no active takeover vanishes, on
purpose, so this is what a handoff takes longer than its donor."""
FENCE_LIFE = 0.002
"""Seconds, with some to spare, for which the broker keeps a fence that nobody takes."""
FENCE_BACK = 5.0
FENCE_VANISHED = 0.25
"""Most seconds to wait for the last fence before leaving: active, all come back; before that, they vanish."""
COUNT_RETRY = 0.05
LAST_IN_LINE = -1
"""Below the priority of every client that sets none."""

Message = tuple[int, Stamp | None, bytes, bytes]
ConsumerCount = Callable[[], Awaitable[int]]


class Takeover:
    """One takeover of one inbox."""

    def __init__(self, *, link: Link, channel: Channel, inbox: str, epoch: int, consumer_count: ConsumerCount) -> None:
        self._link = link
        self._cancelled = link.cancelled(inbox)
        self._consumer_count = consumer_count
        self._channel = channel
        self._inbox = inbox
        self._prefix = f"{epoch}.{channel.number}."
        self._frame = publish_frame(channel.number, "", inbox)
        self._messages: list[Message] = []
        self._fences: set[str] = set()
        self._fence_back = False
        self._news = asyncio.Event()
        """A fence is back, or the first message has come: we are active."""
        self._sent = 0
        self._last = ""
        self._active = False
        self._last_back = asyncio.Event()
        self._back_at = 0.0
        self._last_back.set()
        channel.closed.add_done_callback(lambda _closed: self._last_back.set())
        self._deleting = False
        self.proven = False
        """True once it is proven that no client holds anything of the inbox."""
        self.waiting_for = "the donor's consumer to acknowledge what it holds"

    @classmethod
    async def attach(cls, *, link: Link, inbox: str, epoch: int, consumer_count: ConsumerCount) -> "Takeover":
        """Consumes the inbox, before its client and all of it: a fence stands behind everything (see core.window)."""
        channel = await link.channel()
        takeover = cls(link=link, channel=channel, inbox=inbox, epoch=epoch, consumer_count=consumer_count)
        await channel.consume(
            inbox,
            takeover._on_delivery,
            prefetch=MAX_PREFETCH,
            arguments={"x-priority": TAKEOVER_PRIORITY},
            on_cancel=takeover._on_cancel,
        )
        return takeover

    @property
    def holds(self) -> bool:
        """True while messages of the inbox are in our hands, unacknowledged."""
        return bool(self._messages)

    def _on_delivery(self, tag: int, _origin: bytes, header: bytes, body: bytes) -> None:
        stamp = read_stamp(header)
        if stamp is None and (fence := read_fence(header)) is not None:
            self._channel.ack(tag)
            self._active = True
            self._back_at = asyncio.get_running_loop().time()
            if fence in self._fences:
                self._fence_back = True
                self._news.set()
            if fence == self._last:
                self._last_back.set()
            return
        if not self._messages:
            self._news.set()
        self._messages.append((tag, stamp, header, body))

    def _on_cancel(self) -> None:
        if not self._deleting:
            self._cancelled()

    async def collect(self) -> list[tuple[Stamp | None, bytes, bytes]]:
        """Everything that the inbox held, by stamp, each stamp once; unstamped messages first."""
        await self._prove()
        while await self._consumer_count() != 1:
            self.waiting_for = "a cancelled consumer of the donor to acknowledge what it holds, or to close its channel"
            await asyncio.sleep(COUNT_RETRY)
        await self._prove()  # the fence that counts: sent when nobody else could hold anything
        self.proven = True
        self.waiting_for = "the copy of what the donor's inbox held"
        found: dict[tuple[int, int, int, int], tuple[Stamp | None, bytes, bytes]] = {}
        for tag, stamp, header, body in self._messages:
            key = (0, tag, 0, 0) if stamp is None else (1, stamp.epoch, stamp.seq, stamp.partition)
            found.setdefault(key, (stamp, header, body))
        return [found[key] for key in sorted(found)]

    async def settle(self) -> None:
        """Acknowledges everything collected, at once, and proves that it took effect."""
        if self._messages:
            self._channel.ack(self._messages[-1][0], multiple=True)
            self._messages.clear()
            await self._prove()

    async def _prove(self) -> None:
        """Sends fences until one comes back; earlier ones do not count."""
        self._fences = set()
        self._fence_back = False
        now = asyncio.get_running_loop().time
        begun = now()
        while not self._fence_back:
            self._news.clear()
            self._send_fence()
            wait = min(max(FENCE_RETRY, FENCE_RETRY_SHARE * (now() - begun)), FENCE_RETRY_MAX)
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                if not await self._consumer_count():
                    await self._remind()

    def _send_fence(self) -> None:
        self._sent += 1
        self._last = fence = f"{self._prefix}{self._sent}"
        self._fences.add(fence)
        self._last_back.clear()
        self._channel.publish(self._frame, fence_header(fence, expires=True), b"")

    async def _remind(self) -> None:
        """Makes the broker choose the active consumer again; a message that comes here goes back, sorted later."""
        channel = await self._link.channel()
        await channel.consume(self._inbox, _leave, prefetch=1, arguments={"x-priority": LAST_IN_LINE})
        await channel.close()

    async def delete_inbox(self) -> None:
        """Deletes the inbox, on the connection that publishes to it; the broker cancels us for it."""
        self._deleting = True
        await self._channel.delete_queue(self._inbox)

    async def close(self) -> None:
        """Lets the donor's client go on, which must see no fence: the last one is back, or had time to vanish.

        One that is back is too old to be given to anybody should its acknowledgement be lost with the channel.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FENCE_BACK if self._active else FENCE_VANISHED):
                await self._last_back.wait()
        await asyncio.sleep(max(0.0, self._back_at + FENCE_LIFE - asyncio.get_running_loop().time()))
        await self._channel.close()


def _leave(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """Not for us: it goes back when the channel is closed."""
