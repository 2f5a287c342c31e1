"""The journal: the queue that holds the ledger, and by whose single active consumer a group has one router.

Invariant: nothing is done that depends on a ledger before that ledger came back from the journal; one write is in
flight at a time, and each is computed from the last one that came back. The last ledger is never acknowledged.

Whoever is the journal's active consumer is the router. A write that is confirmed but does not come back was given to
somebody else: this session has been replaced and stops.

Sessions that stand by show that they are there with marks, which the router reads and takes away. A mark may say that
its process should route the group; the router then decides whether to make way. A mark names the PartitionGroup, too:
one of another cluster, with the same names on the same virtual host, is told apart by that.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count

import orjson

from partymq.amqp.connection import body_payload
from partymq.amqp.frames import body_frames, plain_header, publish_frame
from partymq.core import codec
from partymq.core.consumers import SESSION_ARGUMENT
from partymq.core.ledger import Ledger, LedgerError, succeed
from partymq.errors import BrokerError, SessionOverError
from partymq.foreign import NAME, shown
from partymq.router.broker.holdings import Part, weight
from partymq.router.publish.outlet import UNLIMITED, Outlet, Refused, Sink
from partymq.router.signals import Signal

LOG = logging.getLogger(__name__)

Change = Callable[[Ledger], Ledger]

BACK_WITHIN = 2.0
"""Seconds from confirm to coming back; measured 0.7 ms."""
KEEPALIVE = 20.0
"""Seconds between writes at least: a router that was replaced notices."""
REFUSED_FIRST = 0.1
REFUSED_MOST = 5.0
"""Seconds between tries with a journal that refuses a ledger."""
MOST_WAITING = 10_000
"""Marks and ledgers that come before the first write, or are not looked at yet: after hours without a router one
every 5 s."""
MOST_EARLY = 64 * 1024**2
"""Bytes of those that come before the first write. A ledger has 2 MB at most."""
MARK_EVERY = 5.0
"""Seconds between marks while another session is the router: it swallows ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who we are to other sessions at the journal, and what their marks are to us."""

    uid: str = ""
    """Of our PartitionGroup."""
    identity: str = ""
    wants: Callable[[], str] = str
    """Asked for each mark: the identity that should route the group, if that is ours, or nothing."""
    on_wanted: Callable[[str], None] = lambda _identity: None
    """Told what a mark of another session says, while this one is the router."""
    on_rival: Callable[[str], None] = lambda _identity: None
    """Told the identity of one whose PartitionGroup is another one than ours."""


class Journal:
    """One session's hold on the journal."""

    def __init__(
        self,
        *,
        outlet: Outlet,
        queue: str,
        whole: Part,
        standing: Standing | None = None,
    ) -> None:
        """What waits to be looked at is counted in `whole`."""
        self._standing = standing or Standing()
        self._channel = outlet.channel
        self._outlet = outlet
        self._queue = queue
        self._sink = Sink(outlet, publish_frame(outlet.channel.number, "", queue), UNLIMITED, refused=self._on_refused)
        self._refused = False
        self._header = plain_header
        self.session = self._writer = secrets.token_hex(8)
        """What the broker's management shows of our consumer: nobody else's has it."""
        self._received: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._whole = whole
        self._changes: list[tuple[Change, asyncio.Future[Ledger]]] = []
        self._wake = asyncio.Event()
        self._tag = 0
        self._early = 0
        """Messages that came before the first ledger of this session."""
        self._early_bytes = 0
        self._ids = count(1)
        self._ledger: Ledger | None = None
        self.changed = Signal[[]]()
        """A write that changes the ledger is over."""

    @property
    def ledger(self) -> Ledger:
        """The last ledger that came back."""
        assert self._ledger is not None, "the journal is not ours yet"
        return self._ledger

    def new_id(self) -> str:
        """A name that no handoff, and no overflow, of any session has had."""
        return f"{self.ledger.epoch}.{next(self._ids)}"

    async def attach(self, on_cancel: Callable[[], None]) -> None:
        """Starts to consume the journal; other sessions may stand before us."""
        arguments = {SESSION_ARGUMENT: self.session}
        await self._channel.consume(self._queue, self._on_delivery, arguments=arguments, on_cancel=on_cancel)

    def _on_delivery(self, tag: int, _origin: bytes, _header: bytes, body: bytes) -> None:
        payload = body_payload(body)
        if self._ledger is None:
            self._early += 1
            self._early_bytes += len(payload)
        crowded = self._early > MOST_WAITING or self._received.qsize() >= MOST_WAITING
        if crowded or self._early_bytes > MOST_EARLY:
            raise BrokerError(
                f"{self._queue} holds more than {MOST_WAITING} messages, or {MOST_EARLY} bytes, that no router has "
                "written: purge it when no operator runs, or delete it"
            )
        self._whole.add(weight(b"", payload))
        self._received.put_nowait((tag, payload))
        if self._ledger is not None and _is_mark(payload):
            self._on_mark(_read_mark(payload))

    def _on_mark(self, mark: Mapping[str, str]) -> None:
        if identity := mark.get("wants"):
            self._standing.on_wanted(identity)
        if mark.get("of", self._standing.uid) != self._standing.uid:  # older versions do not say it
            self._standing.on_rival(shown(mark.get("who", ""), NAME))

    async def win(self, *, on_standby: Callable[[], None]) -> Ledger | None:
        """Waits until this session is the active consumer; returns the newest ledger there is, if there is one."""
        best: Ledger | None = None
        mark, active = self._mark(), False
        while True:
            try:
                async with asyncio.timeout(MARK_EVERY):
                    tag, payload = await self._next()
            except TimeoutError:
                on_standby()
                mark = self._mark()
                continue
            self._tag = tag
            if not active:
                # Only the active consumer receives anything. A mark from before may stand in front of a newer ledger
                # that the router before us wrote and acted on; what is published now stands behind everything.
                active, mark = True, self._mark()
            elif payload == mark:
                break
            if _is_mark(payload):
                continue
            found = codec.decode(payload)
            if best is None or found.stamp > best.stamp:
                best = found
        return best

    async def _next(self) -> tuple[int, bytes]:
        tag, payload = await self._received.get()
        self._whole.add(-weight(b"", payload))
        return tag, payload

    def _mark(self) -> bytes:
        names = {"by": self._writer, "who": self._standing.identity, "of": self._standing.uid}
        mark = orjson.dumps({"mark": secrets.token_hex(8), **names, "wants": self._standing.wants()})
        self._publish(mark)
        return mark

    async def begin(self, ledger: Ledger) -> Ledger:
        """Writes the first ledger of this session, the successor of `ledger`; only after it may anything be routed."""
        return await self._write(succeed(ledger, writer=self._writer))

    async def write(self, change: Change) -> Ledger:
        """Applies `change` to the ledger and returns once that is in the journal.

        Raises `LedgerError` where the protocol forbids the change (by then). Changes that are waiting are written
        together, in order. One that changes nothing costs no write, but waits for the write that is in flight: what it
        saw is what the journal holds.
        """
        done: asyncio.Future[Ledger] = asyncio.get_running_loop().create_future()
        self._changes.append((change, done))
        self._wake.set()
        return await done

    async def run(self) -> None:
        """Writes what `write` asks for, and something every 20 seconds; raises `SessionOverError` when replaced."""
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE):
                    await self._wake.wait()
            except TimeoutError:
                await self._write(self.ledger)
            self._wake.clear()
            changes, self._changes = self._changes, []
            ledger, written = self.ledger, []
            for change, done in changes:
                try:
                    ledger = change(ledger)
                except LedgerError as error:  # what it was computed from has changed meanwhile: its caller looks again
                    if not done.done():
                        done.set_exception(error)
                else:
                    written.append(done)
            if ledger != self.ledger:
                await self._write(ledger)
                self.changed.emit()
            for done in written:
                if not done.done():
                    done.set_result(self.ledger)

    async def _write(self, ledger: Ledger) -> Ledger:
        ledger = replace(ledger, version=ledger.version + 1)
        payload = codec.encode(ledger)
        await self._store(payload)
        try:
            async with asyncio.timeout(BACK_WITHIN):
                while True:
                    tag, received = await self._next()
                    self._tag = tag
                    if received == payload:
                        break
        except TimeoutError:
            raise SessionOverError(
                f"a write to {self._queue} did not come back: another router has taken over"
            ) from None
        # Everything before it: older ledgers, marks and notes of sessions that stand by.
        if tag > 1:
            self._channel.ack(tag - 1, multiple=True)
        self._ledger = ledger
        LOG.debug("%s holds %s", self._queue, payload)
        return ledger

    async def _store(self, payload: bytes) -> None:
        """Publishes a ledger until the journal has taken it."""
        pause = REFUSED_FIRST
        while True:
            self._refused = False
            self._publish(payload)
            await self._outlet.barrier()
            if not self._refused:
                return
            LOG.warning("%s refuses a ledger (basic.nack), which is published again", self._queue)
            await asyncio.sleep(pause)
            pause = min(2 * pause, REFUSED_MOST)

    def _on_refused(self, _message: Refused) -> None:
        self._refused = True

    def _publish(self, payload: bytes) -> None:
        self._sink.publish(self._header(len(payload)), body_frames(payload))


def _is_mark(payload: bytes) -> bool:
    return payload.startswith(b'{"mark"')


def _read_mark(payload: bytes) -> Mapping[str, str]:
    """What a mark says; nothing where somebody else wrote it."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}
