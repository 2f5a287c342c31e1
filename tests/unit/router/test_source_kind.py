"""A source that the broker deletes by itself is refused by whoever knows it, and seldom asked about."""

import pytest

from partymq.amqp.queue_facts import UnaskableError
from partymq.core.hazards import QueueFacts
from partymq.router.flow import source_kind
from partymq.router.flow.source_kind import SourceKind

FINE = QueueFacts(name="orders")
GOING = QueueFacts(name="orders", auto_delete=True)


class _Known:
    """What the two that are asked say, and how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.declared: QueueFacts | Exception | None = FINE
        self.managed: QueueFacts | None = FINE
        self.asked = [0, 0]
        monkeypatch.setattr(source_kind, "ask", self._ask)
        self.kind = SourceKind(queue="orders", topology=None, management=self._manage)  # type: ignore[arg-type]

    async def _ask(self, _topology: object, _queue: str) -> QueueFacts | None:
        self.asked[0] += 1
        if isinstance(self.declared, Exception):
            raise self.declared
        return self.declared

    async def _manage(self, _queue: str) -> QueueFacts | None:
        self.asked[1] += 1
        return self.managed


@pytest.fixture
async def known(monkeypatch: pytest.MonkeyPatch) -> _Known:
    return _Known(monkeypatch)


@pytest.mark.parametrize(("declared", "managed"), [(GOING, FINE), (GOING, None), (FINE, GOING), (None, GOING)])
async def test_one_who_knows_is_enough(known: _Known, declared: QueueFacts | None, managed: QueueFacts | None) -> None:
    known.declared, known.managed = declared, managed
    refusal = await known.kind.refusal(opening=True)
    assert refusal is not None
    assert refusal.reason == "SourceTransient"


async def test_what_was_found_fine_is_asked_again_only_to_open_and_after_a_while(
    known: _Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    for opening in (False, True, False, True):
        assert await known.kind.refusal(opening=opening) is None
    assert known.asked == [1, 1]
    monkeypatch.setattr(source_kind, "AGAIN", -1.0)
    assert await known.kind.refusal(opening=False) is None
    assert known.asked == [1, 1]
    known.managed = GOING
    assert await known.kind.refusal(opening=True) is not None
    known.managed = FINE
    assert await known.kind.refusal(opening=False) is None


async def test_another_queue_in_its_place_is_asked_about_at_once(known: _Known) -> None:
    known.declared = GOING
    assert await known.kind.refusal(opening=True) is not None
    known.declared = FINE
    assert await known.kind.refusal(opening=True) is not None
    known.kind.forget()
    assert await known.kind.refusal(opening=True) is None


async def test_the_broker_is_not_asked_again_after_it_has_refused(known: _Known) -> None:
    known.declared = UnaskableError("no")
    assert known.kind.may_ask
    for _ in range(3):
        assert await known.kind.refusal(opening=True) is None
        known.kind.forget()
    assert known.asked == [1, 3]
    assert not known.kind.may_ask
