"""Events are told once, counted when repeated, and hold nobody up."""

import asyncio

from partymq.core.report import Notice
from partymq.kube.client import ApiError
from partymq.kube.events import Recorder
from support.fake_kubernetes import ORDERS, FakeApi, in_virtual_time

NOTICE = Notice(warning=True, reason="SourceShared", message="2 others consume the source.")
OTHER = Notice(warning=False, reason="MemberActive", message="a is active")


async def told(api: FakeApi, *notices: Notice, wait: float = 1.0) -> None:
    recorder = Recorder(api, "operator-a")
    running = asyncio.create_task(recorder.run())
    for notice in notices:
        recorder.tell(ORDERS, "uid-orders", notice)
    await asyncio.sleep(wait)
    running.cancel()
    await asyncio.wait({running})


@in_virtual_time
async def test_an_event_is_about_the_group() -> None:
    api = FakeApi()
    await told(api, NOTICE)
    (event,) = api.events.values()
    assert event["involvedObject"] == {
        "apiVersion": "partymq.io/v1alpha1",
        "kind": "PartitionGroup",
        "namespace": "shop",
        "name": "orders",
        "uid": "uid-orders",
    }
    assert (event["type"], event["reason"], event["message"], event["count"]) == (
        "Warning",
        "SourceShared",
        "2 others consume the source.",
        1,
    )


@in_virtual_time
async def test_a_repeated_event_is_counted_also_after_a_restart() -> None:
    api = FakeApi()
    await told(api, NOTICE, OTHER, NOTICE)
    await told(api, NOTICE)
    assert [event["count"] for event in api.events.values()] == [3, 1]


@in_virtual_time
async def test_events_wait_for_the_api_server_and_then_for_each_other() -> None:
    api = FakeApi()
    api.failure = ApiError("post", 0, "away")
    telling = asyncio.create_task(told(api, NOTICE, OTHER, wait=20.0))
    await asyncio.sleep(5.0)
    api.failure = None
    await telling
    assert api.reasons() == ["SourceShared", "MemberActive"]


@in_virtual_time
async def test_an_event_that_is_refused_does_not_hold_up_the_next() -> None:
    class Strict(FakeApi):
        async def create_event(self, namespace: str, event: object) -> None:
            if event["reason"] == "SourceShared":  # type: ignore[index]
                raise ApiError("post", 403, "namespace is being terminated")
            await super().create_event(namespace, event)  # type: ignore[arg-type]

    api = Strict()
    await told(api, NOTICE, OTHER)
    assert api.reasons() == ["MemberActive"]


@in_virtual_time
async def test_an_event_of_any_length_fits() -> None:
    api = FakeApi()
    await told(api, Notice(warning=False, reason="Long", message="x" * 5_000))
    assert len(next(iter(api.events.values()))["message"]) == 1_024
