"""A plain client whose queue has no room waits alone, however much that is, and in order."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from aio_pika.abc import AbstractIncomingMessage

from partymq.router.failpoints import OF_CLIENTS, Point
from support.broker import QUORUM
from support.conditions import eventually
from support.serve import Served, disorder, serving

ROOM = 50
"""Messages that a full client's queue takes."""
MANY = 6_000
SOME, MORE = 2_400, 3_000
"""Published first; half of them are for the client without room, more than a source delivers unacknowledged. The other
one has some of them then, and more when a third as many have followed."""


async def _join_limited(s: Served, name: str, limit: int) -> None:
    """A client whose queue takes no more than so many messages."""
    queue = s.queues[name] = f"{s.group}.{name}"
    binding = await s.post(f"/clients/{name}/bind")
    arguments = {"x-max-length": limit, "x-overflow": "reject-publish"}
    declared = await s.channel.declare_queue(queue, durable=True, arguments=arguments)  # type: ignore[arg-type]
    await declared.bind(binding["exchange"], binding["routingKey"])
    await s.post(f"/clients/{name}/ready")


async def _take(
    s: Served,
    name: str,
    into: list[tuple[int, str]],
    until: Callable[[], bool | Awaitable[bool]],
    *,
    every: float = 0.02,
) -> None:
    """Takes messages out of a client's queue, as they come, until that is enough; some more may come meanwhile."""
    queue = await s.channel.get_queue(s.queues[name])

    async def on_message(message: AbstractIncomingMessage) -> None:
        number, key = message.body.decode().split()
        into.append((int(number), key))

    tag = await queue.consume(on_message, no_ack=True)
    try:
        await eventually(until, lambda: f"{len(into)} messages came", 60.0, every=every)
    finally:
        await queue.cancel(tag)


@pytest.mark.parametrize("source_arguments", [None, QUORUM], ids=["classic", "quorum"])
async def test_a_client_without_room_waits_alone_and_loses_nothing(source_arguments: dict[str, str] | None) -> None:
    async with serving(source_arguments) as s:
        await _join_limited(s, "small", 50)
        await s.join("large")
        await s.publish(f"k{n % 200}" for n in range(1_000))

        async def others_have_theirs() -> bool:
            state = (await s.channel.declare_queue(s.queues["large"], passive=True)).declaration_result
            return (state.message_count or 0) >= 450

        await eventually(others_have_theirs, "the other one waits, too", 30.0)

        async def named() -> bool:
            groups = (await s.call("GET", "/health"))[1]["groups"]
            return any("small has no room" in group["message"] and group["ready"] for group in groups.values())

        await eventually(named, "it is not named", 30.0)
        got: list[tuple[int, str]] = []
        await _take(s, "small", got, partial(_all_are_somewhere, s, got))

        async def over() -> bool:
            groups = (await s.call("GET", "/health"))[1]["groups"]
            return all(group["message"] == "messages are routed" for group in groups.values())

        await eventually(over, "it is still named", 30.0)
        queue = s.queues.pop("small")
        others = (await s.received())["large"]
        await s.channel.queue_delete(queue)
        assert sorted(number for number, _ in [*got, *others]) == list(range(1, 1_001)), "lost or repeated"
        late = disorder({"small": got[100:], "large": others})
        assert late == 0
        assert (await s.stop()) == 0


async def _others_have_all(s: Served, client: str, many: int) -> None:
    """Waits until another client has its part, and nothing is left in the source."""

    async def have() -> bool:
        state = (await s.channel.declare_queue(s.queues[client], passive=True)).declaration_result
        source = (await s.channel.declare_queue(s.source, passive=True)).declaration_result
        return (state.message_count or 0) >= many and not source.message_count

    await eventually(have, f"{client} waits, too", 60.0)


async def _fill(s: Served, *, keys: int) -> None:
    """A client without room, and another one that goes on."""
    await _join_limited(s, "small", ROOM)
    await s.join("large")
    await s.publish(f"k{n % keys}" for n in range(MANY))
    await _others_have_all(s, "large", SOME)


async def _all_are_somewhere(s: Served, got: list[tuple[int, str]]) -> bool:
    """Whether as many as were sent have come to the client without room, or stand in the other one's queue."""
    return len({number for number, _ in got}) + await _count(s, "large") >= s.sent


async def _count(s: Served, client: str) -> int:
    state = (await s.channel.declare_queue(s.queues[client], passive=True)).declaration_result
    return state.message_count or 0


async def _all_of_it(s: Served, *, repeats: bool) -> None:
    """Everything has reached one of the two clients, in order, and nothing else has."""
    got: list[tuple[int, str]] = []
    await _take(s, "small", got, partial(_all_are_somewhere, s, got))
    large = (await s.received())["large"]
    numbers = [number for number, _ in [*got, *large]]
    assert set(numbers) == set(range(1, s.sent + 1)), "lost"
    assert repeats or len(numbers) == s.sent, "repeated"
    # Of the first burst some were taken behind some that were refused: a limit of queues that refuse.
    assert disorder({"small": got[2 * ROOM :], "large": large}) == 0


@pytest.mark.parametrize("source_arguments", [None, QUORUM], ids=["classic", "quorum"])
async def test_others_go_on_however_much_waits(source_arguments: dict[str, str] | None) -> None:
    async with serving(source_arguments) as s:
        await _fill(s, keys=200)
        await s.publish(f"k{n % 200}" for n in range(MANY // 3))
        await _others_have_all(s, "large", MORE)
        await _all_of_it(s, repeats=False)
        await s.publish(f"k{n % 200}" for n in range(20))
        await eventually(lambda: _has(s, "small", 5), "it is not given what is new", 30.0)
        assert (await s.stop()) == 0


async def _has(s: Served, client: str, many: int) -> bool:
    return await _count(s, client) >= many


async def test_a_server_that_stops_in_order_repeats_nothing_of_what_waits() -> None:
    async with serving() as s:
        await _fill(s, keys=200)
        got: list[tuple[int, str]] = []
        await _take(s, "small", got, lambda: len(got) >= 2 * ROOM)  # it is on its way while the server stops
        assert (await s.stop()) == 0
        await s.start()
        await _take(s, "small", got, partial(_all_are_somewhere, s, got))
        large = (await s.received())["large"]
        assert sorted(number for number, _ in [*got, *large]) == list(range(1, s.sent + 1)), "lost or repeated"
        assert disorder({"small": got[2 * ROOM :], "large": large}) == 0


@pytest.mark.parametrize("point", sorted(OF_CLIENTS))
async def test_killed_at(point: Point) -> None:
    async with serving() as s:
        assert await s.stop() == 0
        await s.start(kill_at=point)
        await _join_limited(s, "small", ROOM)
        await s.join("large")
        await s.publish(f"k{n % 200}" for n in range(MANY))
        got: list[tuple[int, str]] = []
        if point is Point.REJOINED:
            await _others_have_all(s, "large", SOME)
            await _take(s, "small", got, lambda: s.process is None or s.process.returncode is not None)
        await s.died()
        await s.start()
        await s.publish(f"k{n % 200}" for n in range(MANY // 3))
        await _others_have_all(s, "large", MORE)
        small = s.queues["small"]

        async def everything() -> bool:
            s.queues.pop("small", None)
            large = {number for number, _ in (await s.received())["large"]}
            s.queues["small"] = small
            return large.union(number for number, _ in got) == set(range(1, s.sent + 1))

        await _take(s, "small", got, everything, every=0.5)
        large = (await s.received())["large"]
        assert disorder({"small": got[2 * ROOM :], "large": large}) == 0


async def test_what_waits_for_a_client_that_is_unbound_goes_to_others_in_order() -> None:
    async with serving() as s:
        await _fill(s, keys=100)
        await s.post("/clients/small/unbind")
        await s.publish(f"k{n % 100}" for n in range(MANY // 3))
        await s.drained()
        received = await s.received()
    numbers = sorted(number for messages in received.values() for number, _ in messages)
    assert numbers == list(range(1, s.sent + 1)), "lost or repeated"
    assert disorder({"large": received["large"]}) == 0


@pytest.mark.parametrize("number", range(6))
async def test_one_is_unbound_at_the_moment_when_it_is_full(number: int) -> None:
    """It falls into all steps of its overflow."""
    async with serving() as s:
        await _join_limited(s, "small", ROOM)
        await s.join("large")
        await s.publish(f"k{n % 100}" for n in range(1_000))

        async def full() -> bool:
            groups = (await s.call("GET", "/health"))[1]["groups"]
            return any("small has no room" in group["message"] for group in groups.values())

        await eventually(full, "it has room", 30.0, every=0.002 * number)
        await s.post("/clients/small/unbind")
        await s.publish(f"k{n % 100}" for n in range(1_000))
        await s.drained()
        received = await s.received()
        groups = (await s.call("GET", "/health"))[1]["groups"]
    numbers = sorted(number for messages in received.values() for number, _ in messages)
    assert numbers == list(range(1, s.sent + 1)), "lost or repeated"
    assert disorder({"large": received["large"]}) == 0
    assert all(group["message"] == "messages are routed" for group in groups.values()), "somebody gone is named"


async def test_what_waits_for_a_client_whose_queue_is_deleted_goes_to_others_in_order() -> None:
    async with serving() as s:
        await _fill(s, keys=100)
        deleted = await s.channel.queue_delete(s.queues.pop("small"))
        # One may have been on its way into the queue: RabbitMQ confirms what a queue that is deleted has not taken.
        least = MANY - (deleted.message_count or 0) - 1

        async def everything() -> bool:
            return await _count(s, "large") >= least

        await eventually(everything, "what waited is lost", 60.0)
        await s.stop()  # in order: nothing is under way any more
        large = (await s.received())["large"]
        assert len({number for number, _ in large}) in (least, least + 1)
        assert disorder({"large": large}) == 0
