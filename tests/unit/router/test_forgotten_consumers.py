"""A consumer that the broker shows and does not count is cut, and no other."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

import pytest

from partymq.amqp.topology import QueueState
from partymq.core.consumers import OUR_TAG, Consumer
from partymq.core.ledger import empty
from partymq.core.membership import PodState
from partymq.core.names import Names
from partymq.core.report import Notice
from partymq.core.spec import BrokerAddress
from partymq.errors import AccessRefusedError, PartyMQError
from partymq.router.flow import inboxes
from partymq.router.flow.inboxes import Inboxes
from partymq.router.flow.lane_table import LaneTable
from partymq.router.rebalance import forgotten_consumers
from partymq.router.rebalance.forgotten_consumers import ForgottenConsumers
from support.fake_kubernetes import VirtualLoop
from unit.router.doubles import GROUP, FakeJournal, FakeTopology, context, quiet_listener

FORGOTTEN = Consumer(connection="pod -> broker", client="pod", tag="t", active=False, acknowledges=True)
OURS = Consumer(connection="router", client="router", tag=OUR_TAG, active=True, acknowledges=True, session="s")
INBOX = Names(GROUP).inbox("a")


class Api:
    """The management API."""

    def __init__(self) -> None:
        self.listed: list[Consumer] = []
        self.asked: list[float] = []
        self.closed: list[str] = []
        self.refusal: PartyMQError | None = None

    def __call__(self, _address: BrokerAddress) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def consumers(self, queue: str) -> list[Consumer]:
        if queue == Names(GROUP).journal:
            return [OURS]
        self.asked.append(asyncio.get_running_loop().time())
        return self.listed

    async def close_connection(self, name: str, *, reason: str) -> bool:
        if self.refusal is not None:
            raise self.refusal
        self.closed.append(name)
        return True


class Clock:
    """Stands in for the module `time`."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Stage:
    """The inbox of one pod, polled each second, and what people are told."""

    def __init__(self) -> None:
        self.state, self.consumers = PodState.READY, 0
        self.notices: list[Notice] = []
        self.topology = FakeTopology()
        parts = context(
            topology=self.topology,
            journal=FakeJournal(empty(1)),
            listener=replace(quiet_listener(), notice=self.notices.append),
        )
        self.inboxes = Inboxes(parts, LaneTable(1))
        self.forgotten = ForgottenConsumers(parts, inboxes=self.inboxes, pods=lambda: {"a": self.state})

    async def run(self, *, seconds: float, each: Callable[[int], None] = lambda _second: None) -> None:
        """For so long; `each` is called each second."""
        await self.inboxes.ensure("a")
        running = asyncio.create_task(self.forgotten.run())
        for second in range(int(seconds)):
            each(second)
            self.topology.states[INBOX] = QueueState(ready=1, consumers=self.consumers)
            await self.inboxes._poll(self.inboxes.members["a"])
            await asyncio.sleep(1.0)
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()
    monkeypatch.setattr(forgotten_consumers, "Management", api)
    for module in (forgotten_consumers, inboxes):
        monkeypatch.setattr(module, "time", Clock())
    return api


def play(seconds: float, *, set_up: Callable[[Stage], None], each: Callable[[int], None] | None = None) -> Stage:
    async def run() -> Stage:
        stage = Stage()
        set_up(stage)
        await stage.run(seconds=seconds, each=each or (lambda _second: None))
        return stage

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def test_one_that_is_shown_and_not_counted_is_closed_after_the_second_look(api: Api) -> None:
    api.listed = [OURS, FORGOTTEN]
    stage = play(45, set_up=lambda _: None)
    assert api.closed == ["pod -> broker"]
    (notice,) = stage.notices
    assert notice.reason == "ConsumerForgotten"
    assert "pod -> broker of a" in notice.message


def test_one_that_is_counted_is_not(api: Api) -> None:
    api.listed = [FORGOTTEN]
    play(200, set_up=lambda stage: setattr(stage, "consumers", 1))
    assert not api.asked


def test_one_that_comes_and_goes_is_not(api: Api) -> None:
    api.listed = [FORGOTTEN]
    stages: list[Stage] = []

    def each(second: int) -> None:
        stages[0].consumers = int(second % 15 < 2)

    play(300, set_up=stages.append, each=each)
    assert not api.closed


def test_a_pod_that_is_not_ready_is_not_asked_about(api: Api) -> None:
    api.listed = [FORGOTTEN]
    play(100, set_up=lambda stage: setattr(stage, "state", PodState.STARTING))
    assert not api.asked


def test_who_never_consumes_is_asked_about_ever_more_rarely(api: Api) -> None:
    play(1300, set_up=lambda _: None)
    assert 5 <= len(api.asked) <= 10
    assert not api.closed


def test_where_connections_may_not_be_closed_people_are_told_what_to_do(api: Api) -> None:
    api.listed, api.refusal = [FORGOTTEN], AccessRefusedError("Not administrator user")
    stage = play(45, set_up=lambda _: None)
    (notice,) = stage.notices
    assert "Not administrator user. Delete the pod" in notice.message


def test_an_api_of_another_broker_closes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.listed = [FORGOTTEN]
    monkeypatch.setattr(f"{__name__}.OURS", replace(OURS, session="another"))
    play(60, set_up=lambda _: None)
    assert not api.closed
