"""Messages that the broker may refuse go over probes, one at a time over each."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from partymq.amqp.channel import Returned
from partymq.amqp.connection import Connection
from partymq.amqp.topology import Look, QueueState
from partymq.core.names import Names
from partymq.errors import BrokerError, ConnectionClosedError, ConnectionLostError
from partymq.router.poison.probe import Probe
from partymq.router.poison.probes import MOST, Probes
from support.conditions import eventually
from unit.router import doubles

OUTLETS = Names(doubles.GROUP).outlets


class _Probe(Probe):
    """Keeps what is on its way over it, until the test answers."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone = False

    async def publish(self, frame: bytes, header: bytes, body: bytes, *, patience: float) -> None:
        assert not self.gone
        self.bodies.append(body)
        self.answer = asyncio.get_running_loop().create_future()
        await self.answer

    def confirm(self) -> None:
        self.answer.set_result(None)

    def refuse(self, error: BrokerError) -> None:
        self.answer.set_exception(error)

    @property
    def blocked(self) -> bool:
        return False

    async def close(self) -> None:
        self.gone = True

    def abort(self) -> None:
        self.gone = True


class _Broker:
    """Gives out so many probes at once, and takes a consumer of `outlets` away when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int) -> None:
        self.most = most
        self.probes: list[_Probe] = []
        self.topology = doubles.FakeTopology()
        self.topology.states[OUTLETS] = QueueState(0, 0)
        self.made = Probes(doubles.context(topology=self.topology), _no_dial)
        monkeypatch.setattr(Probe, "open", self._open)

    async def _open(
        self, dial: Callable[[], Awaitable[Connection]], *, outlets: str, on_return: Callable[[Returned], None]
    ) -> Probe:
        if sum(not probe.gone for probe in self.probes) >= self.most:
            raise ConnectionClosedError(530, "connection limit")
        self.probes.append(_Probe())
        return self.probes[-1]

    def offer(self, body: bytes) -> "asyncio.Task[None]":
        return asyncio.ensure_future(self.made.offer(b"", b"", body))

    def counted(self, consumers: int) -> None:
        """So many consume `outlets`."""
        state: Look = QueueState(0, consumers)
        self.topology.states[OUTLETS] = state

    async def on_their_way(self, *bodies: bytes) -> None:
        def seen() -> list[bytes]:
            return sorted(probe.bodies[-1] for probe in self.probes if probe.bodies and not probe.answer.done())

        await eventually(lambda: seen() == sorted(bodies), lambda: f"{seen()}")


async def _no_dial() -> Connection:
    raise NotImplementedError


async def test_as_many_go_side_by_side_as_there_are_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = _Broker(monkeypatch, most=100)
    offers = [broker.offer(b"%d" % n) for n in range(MOST + 1)]
    await broker.on_their_way(*(b"%d" % n for n in range(MOST)))
    assert len(broker.probes) == MOST
    broker.probes[0].confirm()
    await broker.on_their_way(*(b"%d" % n for n in range(1, MOST + 1)))
    assert len(broker.probes) == MOST
    for probe in broker.probes:
        probe.confirm()
    await asyncio.gather(*offers)
    await broker.made.close()
    assert all(probe.gone for probe in broker.probes)


async def test_where_the_broker_gives_but_one_it_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = _Broker(monkeypatch, most=1)
    offers = [broker.offer(b"%d" % n) for n in range(3)]
    for n in range(3):
        await broker.on_their_way(b"%d" % n)
        broker.probes[0].confirm()
    await asyncio.gather(*offers)
    assert len(broker.probes) == 1


async def test_after_a_break_nothing_is_offered_while_what_was_sent_may_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = _Broker(monkeypatch, most=100)
    lost, other = broker.offer(b"lost"), broker.offer(b"other")
    await broker.on_their_way(b"lost", b"other")
    first, second = broker.probes
    broker.counted(2)
    first.refuse(ConnectionLostError("cut"))
    later = broker.offer(b"later")
    await broker.on_their_way(b"other")
    second.confirm()
    await other
    await eventually(lambda: second.gone, "it is counted together with the one that broke")
    broker.counted(1)
    assert len(broker.probes) == 2
    broker.counted(0)
    await broker.on_their_way(b"lost", b"later")
    for probe in broker.probes[2:]:
        probe.confirm()
    await asyncio.gather(lost, later)


async def test_one_over_which_two_connections_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = _Broker(monkeypatch, most=100)
    offered = broker.offer(b"poison")
    for n in range(2):
        await broker.on_their_way(b"poison")
        broker.probes[n].refuse(ConnectionClosedError(541, "INTERNAL_ERROR"))
    with pytest.raises(ConnectionClosedError, match="541"):
        await offered
    assert len(broker.probes) == 2
