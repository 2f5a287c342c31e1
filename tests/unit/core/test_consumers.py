from collections.abc import Mapping

import pytest

from partymq.core.consumers import OUR_TAG, TAKEOVER_PRIORITY, Consumer, weaknesses
from partymq.core.names import Names
from partymq.core.spec import GroupId

NAMES = Names(GroupId(namespace="shop", name="orders"))
INBOX = NAMES.inbox("worker-1")


def consumer(**changes: object) -> Consumer:
    values: dict[str, object] = {
        "connection": "10.0.0.5:40000 -> 10.0.0.1:5672",
        "client": "10.0.0.5:40000",
        "tag": "ctag1.5",
        "active": True,
        "acknowledges": True,
        "prefetch": 20,
    }
    return Consumer(**values | changes)  # type: ignore[arg-type]


def found(consumers: Mapping[str, tuple[Consumer, ...]]) -> list[tuple[str, str]]:
    return [(weakness.who, weakness.what) for weakness in weaknesses(NAMES, "orders", consumers)]


def test_careful_consumers_weaken_nothing() -> None:
    ours = consumer(tag=OUR_TAG, prefetch=0, priority=TAKEOVER_PRIORITY)
    assert not found(
        {
            INBOX: (consumer(prefetch=1, priority=10), ours),
            "orders": (ours,),
            NAMES.journal: (ours,),
            NAMES.backlog(3): (ours,),
            NAMES.dead: (consumer(prefetch=0),),
            "partymq.shop.other.inbox.x": (consumer(acknowledges=False),),
            "partymq.shop.orders2.backlog.1": (consumer(),),
            "something": (consumer(acknowledges=False, prefetch=0),),
        }
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"acknowledges": False, "prefetch": 0}, "automatic acknowledgement"),
        ({"prefetch": 0}, "prefetch limit"),
        ({"priority": TAKEOVER_PRIORITY}, "x-priority"),
    ],
)
def test_a_careless_pod_is_named_with_what_to_change(changes: dict[str, object], why: str) -> None:
    ((who, what),) = found({INBOX: (consumer(**changes),)})
    assert who == "worker-1"
    assert "pod worker-1" in what
    assert why in what


def test_another_consumer_of_the_source_is_named_even_while_it_waits() -> None:
    ((who, what),) = found({"orders": (consumer(tag=OUR_TAG), consumer(active=False))})
    assert who == "orders"
    assert "10.0.0.5:40000" in what


@pytest.mark.parametrize("queue", [NAMES.journal, NAMES.backlog(3), NAMES.transfer("4.1")])
def test_who_consumes_what_is_not_his_is_named(queue: str) -> None:
    ((who, what),) = found({queue: (consumer(),)})
    assert who == queue
    assert "10.0.0.5:40000" in what


def test_several_consumers_of_one_inbox_are_named_unless_all_but_one_are_ours() -> None:
    waiting = consumer(client="10.0.0.5:40001", active=False)
    assert not found({INBOX: (consumer(), consumer(tag=OUR_TAG))})
    (weakness,) = weaknesses(NAMES, "orders", {INBOX: (consumer(), waiting)})
    assert weakness.passing
    assert "10.0.0.5:40000, 10.0.0.5:40001" in weakness.what
    assert INBOX in weakness.what
