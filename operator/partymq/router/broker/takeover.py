"""Becoming the active consumer of a donor's inbox, and proving what that means.

Invariant: `collect` returns only when everything that was in the inbox is in our hands and no client holds any of it;
`settle` returns only when no acknowledged message can come back to the inbox (docs/design.md, "Handoff").

The broker enforces it: a consumer of higher priority quiesces the active one, and is activated once that holds nothing.
`consumer_count` counts consumers that are active or were cancelled while holding messages, so 1 means: us alone.

0, or silence, for longer than a moment may mean that the broker has forgotten to activate us: RabbitMQ 4.0 does so when
a quiesced consumer gives its last message back instead of acknowledging it (rabbitmq-server issue 14141). Any change of
the queue's consumers makes it look again, so one that comes last in line comes and goes, which is harmless otherwise.

And RabbitMQ 4.3 makes a zombie of a consumer that dies while it is quiesced and holds something (`rabbit_fifo`, 4.3.0
to 4.3.6): returning its last message puts it into the line of those who wait, after it was found dead. Once we leave,
it is served and keeps what it is given for ever; nothing in AMQP removes it but the end of the queue. What it had held
comes to us as redelivered, so where nothing does there is none.
"""

import asyncio
import contextlib
from functools import partial

from partymq.amqp.channel import MAX_PREFETCH, Channel
from partymq.amqp.topology import Topology, counted
from partymq.core.consumers import TAKEOVER_PRIORITY
from partymq.errors import BrokerError
from partymq.message.stamp import Stamp, fence_header, read_fence, read_stamp
from partymq.router.broker.data_connection import DataConnection
from partymq.router.broker.fences import Fences
from partymq.router.broker.holdings import weight
from partymq.router.broker.leaders import await_leader
from partymq.router.broker.stamp_order import Message

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


class Takeover:
    """One takeover of one inbox."""

    def __init__(self, *, link: DataConnection, topology: Topology, channel: Channel, inbox: str, epoch: int) -> None:
        self._link = link
        self._cancelled = link.cancelled(inbox)
        self._topology = topology
        self._channel = channel
        self._inbox = inbox
        self._prefix = f"{epoch}.{channel.number}."
        self._fences = Fences(link=link, channel=channel, queue=inbox, prefetch=MAX_PREFETCH)
        self._part = link.whole.part()
        """What is in our hands weighs."""
        self._messages: list[tuple[int, Stamp | None, bytes, bytes]] = []
        self._collected = 0
        """The last delivery that was collected and is not acknowledged."""
        self._counting: set[str] = set()
        """The fences that prove what is to be proven now."""
        self._fence_back = False
        self._news = asyncio.Event()
        """A fence is back, or the first message has come: we are active."""
        self._sent = 0
        self._last = ""
        self._active = False
        self._last_back = asyncio.Event()
        self._back_at = 0.0
        self._last_back.set()
        channel.closed.add_done_callback(lambda _closed: self._over())
        self._deleting = False
        self.proven = False
        """True once it is proven that no client holds anything of the inbox."""
        self.waiting_for = "the donor's consumer to acknowledge what it holds"

    @classmethod
    async def attach(cls, *, link: DataConnection, topology: Topology, inbox: str, epoch: int) -> "Takeover":
        """Consumes the inbox, before its client and all of it: a fence stands behind everything (see core.window).

        When its leader answers: see `broker.leaders`.
        """
        await await_leader(topology, inbox)
        channel = await link.channel_in_turn()
        takeover = cls(link=link, topology=topology, channel=channel, inbox=inbox, epoch=epoch)
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
        return bool(self._messages or self._collected)

    @property
    def may_leave_a_zombie(self) -> bool:
        """Whether a dead consumer may be next in line when we leave."""
        return self._link.makes_zombies and self._channel.redelivered

    @property
    def late(self) -> list[Message]:
        """What was put into the inbox after it was collected, by somebody else, for we have stopped; it goes back."""
        return [message[1:] for message in self._messages]

    def _on_delivery(self, tag: int, _origin: bytes, header: bytes, body: bytes) -> None:
        self._fences.came(tag)
        stamp = read_stamp(header)
        if stamp is None and (fence := read_fence(header)) is not None:
            self._fences.ack(tag)
            self._active = True
            self._back_at = asyncio.get_running_loop().time()
            self._fences.back(fence)
            if fence == self._last:
                self._last_back.set()
            return
        if not self._messages:
            self._news.set()
        self._part.add(weight(header, body))
        self._messages.append((tag, stamp, header, body))

    def _over(self) -> None:
        """The channel is closed: what was given is somebody else's."""
        self._last_back.set()
        self._messages.clear()
        self._part.holds(0)

    def _on_cancel(self) -> None:
        if not self._deleting:
            self._cancelled()

    async def collect(self) -> list[Message]:
        """Everything that the inbox held, as it came: what had been given back stands behind what is older than it."""
        await self._prove()
        await self._nobody_else()
        await self._prove()  # the fence that counts: sent when nobody else could hold anything
        self.proven = True
        self.waiting_for = "the copy of what the donor's inbox held"
        found, self._messages = self._messages, []
        self._collected = found[-1][0] if found else 0
        return [message[1:] for message in found]

    async def _nobody_else(self) -> None:
        """Returns when we are the only consumer that is counted."""
        while await self._consumers() != 1:
            self.waiting_for = "a cancelled consumer of the donor to acknowledge what it holds, or to close its channel"
            await asyncio.sleep(COUNT_RETRY)

    async def _consumers(self) -> int | None:
        """How many are counted; None while nobody knows: zeros are no answer (see `amqp.topology`)."""
        state = await self._topology.poll(self._inbox)
        if state is None:
            raise BrokerError(f"{self._inbox} was deleted while it was being taken over")
        return counted(state)

    async def settle(self) -> None:
        """Acknowledges everything collected, at once, and proves that it took effect."""
        if self._collected:
            self._fences.ack_all(self._collected)
            self._collected = 0
            await self._prove_settled()

    async def _prove_settled(self) -> None:
        await self._prove()

    async def _prove(self) -> None:
        """Sends fences until one comes back; earlier ones do not count."""
        self._counting = set()
        self._fence_back = False
        now = asyncio.get_running_loop().time
        begun = now()
        while not self._fence_back:
            self._news.clear()
            if not (self._counting and self._fences.waiting):
                self._send_fence()
            wait = min(max(FENCE_RETRY, FENCE_RETRY_SHARE * (now() - begun)), FENCE_RETRY_MAX)
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                if not await self._consumers():
                    await self._remind()

    def _send_fence(self) -> None:
        self._sent += 1
        self._last = fence = self._name_fence()
        self._counting.add(fence)
        self._last_back.clear()
        self._fences.send(fence, fence_header(fence, expires=True)).proven.append(partial(self._on_proven, fence))

    def _name_fence(self) -> str:
        """None has had this name before."""
        return f"{self._prefix}{self._sent}"

    def _on_proven(self, fence: str) -> None:
        if fence in self._counting:
            self._fence_back = True
            self._news.set()

    async def _remind(self) -> None:
        """Makes the broker choose the active consumer again; a message that comes here goes back, sorted later."""
        await await_leader(self._topology, self._inbox)
        channel = await self._link.channel_in_turn()
        await channel.consume(self._inbox, _leave, prefetch=1, arguments={"x-priority": LAST_IN_LINE})
        await channel.close()

    async def expect_deletion(self) -> None:
        """Returns when nothing of ours is on its way to the inbox any more, so it can be deleted, which is no surprise.

        A fence that came after that would come back, and end the session.
        """
        self.waiting_for = "the broker to delete the inbox"
        self._deleting = True
        self._last_back.set()  # it goes with the queue
        self._fences.stop()
        await self._nothing_on_its_way()

    async def _nothing_on_its_way(self) -> None:
        await self._fences.confirmed()

    async def close(self) -> None:
        """Lets the donor's client go on, which must see no fence: the last one is back, or had time to vanish.

        One that is back is too old to be given to anybody should its acknowledgement be lost with the channel.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FENCE_BACK if self._active else FENCE_VANISHED):
                await self._last_back.wait()
        await asyncio.sleep(max(0.0, self._back_at + FENCE_LIFE - asyncio.get_running_loop().time()))
        self._fences.stop()
        self._fences.flush()
        await self._channel.close()


def _leave(_tag: int, _origin: bytes, _header: bytes, _body: bytes) -> None:
    """Not for us: it goes back when the channel is closed."""
