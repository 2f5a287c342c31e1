"""What a queue is, as the broker's refusals tell it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from partymq.amqp.queue_facts import UnaskableError, ask
from partymq.core.hazards import QueueFacts
from partymq.errors import AccessRefusedError, BrokerError, ChannelClosedError

Properties = Mapping[str, Any]


class _Broker:
    """Checks a declaration in RabbitMQ's order, and refuses each."""

    def __init__(self, queue: Properties | None, refused: BrokerError | None = None) -> None:
        self._queue = queue
        self._refused = refused
        self.asked = 0

    async def errand(self, _thing: str, work: Callable[[Any], Awaitable[object]]) -> object:
        return await work(self)

    async def declare_queue(self, name: str, arguments: Properties, *, durable: bool) -> None:
        self.asked += 1
        if self._refused is not None:
            raise self._refused
        if self._queue is None:
            raise ChannelClosedError(
                406, f"PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue '{name}' in vhost '/': ..."
            )
        asked = {"durable": durable, "auto_delete": False, **arguments}
        keys = ["durable", "auto_delete", "x-dead-letter-exchange", "x-expires", "x-max-length", "x-queue-type"]
        for key in keys:
            if (is_so := self._queue.get(key)) != asked.get(key):
                raise ChannelClosedError(
                    406,
                    f"PRECONDITION_FAILED - inequivalent arg '{key}' for queue '{name}' in vhost '/': received "
                    f"{_value(asked.get(key), own=True)} but current is {_value(is_so, own=key in asked)}",
                )
        raise AssertionError("a question was answered by a queue")


def _value(value: object, *, own: bool) -> str:
    if value is None:
        return "none"
    said = str(value).lower() if isinstance(value, bool) else value
    return (
        f"'{said}'" if own else f"the value '{said}' of type '{'signedint' if isinstance(value, int) else 'longstr'}'"
    )


PLAIN = {"durable": True, "auto_delete": False, "x-queue-type": "classic"}


@pytest.mark.parametrize(
    ("queue", "expected", "questions"),
    [
        (None, None, 1),
        (PLAIN, QueueFacts(name="q"), 1),
        ({**PLAIN, "x-queue-type": "stream"}, QueueFacts(name="q", kind="stream"), 1),
        ({**PLAIN, "auto_delete": True}, QueueFacts(name="q", auto_delete=True), 1),
        ({**PLAIN, "durable": False, "auto_delete": True}, QueueFacts(name="q", durable=False, auto_delete=True), 2),
        ({**PLAIN, "x-expires": 5}, QueueFacts(name="q", arguments={"x-expires": 5}), 1),
        (
            {**PLAIN, "x-dead-letter-exchange": "it's", "x-expires": 5},
            QueueFacts(name="q", arguments={"x-dead-letter-exchange": "it's", "x-expires": 5}),
            2,
        ),
        ({**PLAIN, "x-max-length": 9}, QueueFacts(name="q", arguments={"x-max-length": 9}), 2),
    ],
)
async def test_each_answer_takes_the_question_further(
    queue: Properties | None, expected: QueueFacts | None, questions: int
) -> None:
    broker = _Broker(queue)
    assert await ask(broker, "q") == expected  # type: ignore[arg-type]
    assert broker.asked == questions


async def test_one_in_use_by_another_connection_is_exclusive() -> None:
    broker = _Broker(PLAIN, ChannelClosedError(405, "RESOURCE_LOCKED - cannot obtain exclusive access"))
    assert await ask(broker, "q") == QueueFacts(name="q", exclusive=True)  # type: ignore[arg-type]


async def test_who_may_not_configure_it_cannot_ask() -> None:
    with pytest.raises(UnaskableError):
        await ask(_Broker(PLAIN, AccessRefusedError("no")), "q")  # type: ignore[arg-type]


async def test_an_answer_that_is_cut_off_is_none() -> None:
    broker = _Broker(PLAIN, ChannelClosedError(406, "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for que"))
    assert await ask(broker, "q") is None  # type: ignore[arg-type]
