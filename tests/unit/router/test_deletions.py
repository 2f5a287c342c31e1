"""An inbox is gone when its deletion returns, and no deletion is left that could take its namesake."""

import pytest

from partymq.amqp.channel import Channel
from partymq.errors import (
    AccessRefusedError,
    BrokerError,
    ChannelClosedError,
    ConnectionClosedError,
    ConnectionLostError,
    LimitReachedError,
)
from partymq.router.broker import deletions
from partymq.router.broker.deletions import Deletions
from unit.router.doubles import FakeChannel, FakeConnection, FakeLink

ASKS = ["consume outlets", "delete inbox"]


class Asked(FakeChannel):
    """Keeps what it was asked, and answers as it was told."""

    def __init__(self, said: list[str], *, at_consume: BrokerError | None, at_delete: BrokerError | None) -> None:
        super().__init__()
        self._said = said
        self._at_consume = at_consume
        self._at_delete = at_delete

    async def consumed(self) -> None:
        self._said.append(f"consume {self.consumes}")
        if self._at_consume is not None:
            raise self._at_consume

    async def delete_queue(self, queue: str) -> int:
        self._said.append(f"delete {queue}")
        if self._at_delete is not None:
            raise self._at_delete
        return 0


class Beside(FakeConnection):
    """A connection with one channel."""

    def __init__(self, channel: Asked) -> None:
        super().__init__()
        self._only = channel
        self.closed = self.aborted = False

    async def channel(self) -> Channel:
        return self._only

    async def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Link(FakeLink):
    """Gives one connection after the other, or says why not."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.to_come: list[Beside | BrokerError] = []
        self.given: list[Beside] = []
        self.own = Asked(self.said, at_consume=None, at_delete=None)

    def will_fail(self, *, at_consume: BrokerError | None = None, at_delete: BrokerError | None = None) -> None:
        self.to_come.append(Beside(Asked(self.said, at_consume=at_consume, at_delete=at_delete)))

    async def beside(self, what: str) -> Beside:
        match self.to_come.pop(0):
            case BrokerError() as error:
                raise error
            case beside:
                self.given.append(beside)
                return beside

    async def channel(self) -> Channel:
        return self.own

    async def delete(self) -> None:
        await Deletions(self, outlets="outlets").delete("inbox")


@pytest.fixture
async def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(deletions, "AGAIN", 0.0)
    return Link()


async def test_a_successor_waits_for_it(link: Link) -> None:
    link.will_fail()
    await link.delete()
    assert link.said == ASKS
    assert link.given[0].closed
    assert link.failed == []


async def test_what_the_broker_says_that_it_has_failed_over_is_asked_again(link: Link) -> None:
    link.will_fail(at_delete=ConnectionClosedError(541, "INTERNAL_ERROR"))
    link.will_fail()
    await link.delete()
    assert link.said == ASKS + ASKS
    assert [each.aborted for each in link.given] == [True, True]
    assert link.failed == []


@pytest.mark.parametrize(
    "error",
    [
        ConnectionLostError("the broker's node was killed"),
        ConnectionClosedError(320, "CONNECTION_FORCED - broker forced connection closure"),
    ],
)
async def test_what_nobody_answers_is_not_asked_again(link: Link, error: BrokerError) -> None:
    """It may still take effect when the name is declared anew: the next session waits until it cannot."""
    link.will_fail(at_delete=error)
    with pytest.raises(BrokerError):
        await link.delete()
    assert link.said == ASKS
    assert link.given[0].aborted
    assert link.failed == [error]


async def test_what_was_not_asked_yet_is_asked_over_the_next_connection(link: Link) -> None:
    lost = ConnectionLostError("nobody is there")
    link.to_come.append(lost)
    link.will_fail(at_consume=lost)
    link.will_fail()
    await link.delete()
    assert link.said == ["consume outlets", *ASKS]
    assert link.failed == []


async def test_where_there_are_no_more_connections_that_of_the_session_serves(link: Link) -> None:
    link.to_come.append(LimitReachedError("connection limit (3) is reached"))
    await link.delete()
    assert link.said == ASKS
    assert link.own.closed.done()


async def test_what_the_broker_refuses_is_the_affair_of_who_asks(link: Link) -> None:
    link.to_come.append(AccessRefusedError("no permissions"))
    link.will_fail(at_delete=ChannelClosedError(403, "ACCESS_REFUSED"))
    for error in (AccessRefusedError, ChannelClosedError):
        with pytest.raises(error):
            await link.delete()
    assert link.said == ASKS
    assert link.failed == []
