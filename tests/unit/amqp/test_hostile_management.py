"""What a tenant's `management-uri` may answer: one question fails with one sentence, in bounded memory and time."""

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.amqp import answers
from partymq.amqp.management import Management
from partymq.core.spec import BrokerAddress
from partymq.errors import BrokerError, ConnectionLostError
from partymq.limits import Limits
from support.hostile_management import (
    ESCAPES,
    MIB,
    Answer,
    HostileManagement,
    banner,
    consumers,
    endless,
    gzip_bomb,
    json,
    whole,
)

Ask = Callable[[Management], Awaitable[object]]

QUESTIONS: list[Ask] = [
    lambda api: api.consumers("q"),
    lambda api: api.all_consumers(),
    lambda api: api.lost_nodes("q"),
    lambda api: api.queues(),
    lambda api: api.queue("q"),
    lambda api: api.has_policy("q"),
    lambda api: api.queues_like("^q"),
    lambda api: api.routing_keys("x"),
    lambda api: api.close_connection("c", reason="late"),
]


async def failure(sent: Answer, ask: Ask = QUESTIONS[0], **limits: int) -> str:
    """What is said of an answer that cannot be used; it is a sentence, of our own words."""
    async with HostileManagement(sent).serving() as server, Management(server.address(Limits(**limits))) as api:
        with pytest.raises(BrokerError) as caught:
            await ask(api)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 500
    assert "hush" not in text
    return text


def sentence(error: Exception) -> None:
    assert str(error).isprintable()


async def peak(work: Awaitable[str]) -> tuple[str, float]:
    tracemalloc.start()
    try:
        said = await work
        return said, tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ask", QUESTIONS[:-1])
async def test_gigabytes_in_kilobytes_are_not_unpacked(ask: Ask) -> None:
    bomb = gzip_bomb(64 * MIB)
    said, used = await peak(failure(bomb, ask))
    assert "compressed" in said
    assert used < 4


@pytest.mark.parametrize("ask", [QUESTIONS[0], QUESTIONS[3]])
async def test_a_body_without_end_is_read_to_the_limit(ask: Ask) -> None:
    began = time.monotonic()
    said, used = await peak(failure(endless, ask))
    assert "more than 8388608 bytes" in said
    assert used < 20
    assert time.monotonic() - began < 8


async def test_the_limit_is_a_setting() -> None:
    assert "more than 70000 bytes" in await failure(json(["x" * 80_000]), QUESTIONS[3], answer=70_000)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
@pytest.mark.parametrize("ask", QUESTIONS)
async def test_nothing_is_asked_of_another_address(status: str, ask: Ask) -> None:
    async with HostileManagement(json([])).serving() as other:
        there = whole(b"", status, Location=f"http://127.0.0.1:{other.port}/{ESCAPES[:1]}admin")
        if ask is QUESTIONS[1]:
            assert await api_of(whole(b"[]")) == {}
        else:
            assert "redirects are not followed" in await failure(there, ask)
    assert other.asked == []


async def api_of(answer: Answer) -> object:
    async with HostileManagement(answer).serving() as server, Management(server.address()) as api:
        return await api.all_consumers()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6 secret-banner\r\n",
        b"+OK secret-banner\r\n" * 4000,
        b"HTTP/1.1 200 secret-banner\x1b[31m\r\nsecret-banner\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"secret-banner" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret-banner\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"",
    ],
)
async def test_what_else_answers_there_is_not_told(data: bytes) -> None:
    said = await failure(banner(data))
    assert "banner" not in said
    assert "does not answer" in said


async def test_a_port_that_nobody_has_is_one_sentence() -> None:
    async with Management(BrokerAddress(host="h", management_uri="http://127.0.0.1:1")) as api:
        with pytest.raises(ConnectionLostError, match="Connection refused"):
            await api.consumers("q")


VALUES: list[object] = [
    None,
    0,
    True,
    "x",
    [],
    {},
    [0],
    ["x"],
    [[]],
    [{}],
    {"items": 1},
    {"items": [1], "page_count": "x"},
]
VALUES += [[{"queue": 1}], [{"queue": {"name": {}}}], [{"name": 1, "running": 0}], [{"destination_type": "queue"}]]
VALUES += [{"consumer_details": {"a": 1}}, {"consumer_details": [1]}, {"items": [{"name": []}], "page_count": 2**60}]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("ask", QUESTIONS)
async def test_json_of_any_shape_is_an_answer_or_a_sentence(ask: Ask, value: object) -> None:
    async with (
        HostileManagement(json(value)).serving() as server,
        Management(server.address(Limits(listed=1000))) as api,
    ):
        try:
            await ask(api)
        except BrokerError as error:
            sentence(error)
    assert len(server.asked) < 20


READERS: list[Callable[[object], object]] = [
    answers.details,
    lambda found: answers.consumers(found, 10),
    answers.queue_names,
    answers.queue_facts,
    answers.page,
    answers.keys,
    answers.tags,
    answers.stopped,
    answers.offline,
    answers.members,
]
NAMES = st.sampled_from(
    [
        *("name", "queue", "consumer_details", "consumer_tag", "arguments", "x-priority", "channel_details"),
        *("peer_host", "peer_port", "items", "page_count", "tags", "running", "members", "online", "policy"),
        *("effective_policy_definition", "destination_type", "routing_key", "prefetch_count"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=6),
    max_leaves=20,
)


@pytest.mark.fuzz
@given(JSON, st.sampled_from(READERS))
async def test_whatever_json_comes_is_read_or_refused(value: object, read: Callable[[object], object]) -> None:
    try:
        await answers.understood(orjson.dumps(value), read)
    except answers.UnreadableError as error:
        sentence(error)


@pytest.mark.fuzz
@given(st.binary(max_size=200), st.sampled_from(READERS))
async def test_whatever_bytes_come_are_read_or_refused(data: bytes, read: Callable[[object], object]) -> None:
    try:
        await answers.understood(data, read)
    except answers.UnreadableError as error:
        sentence(error)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[" + b"[]," * 300_000 + b"0]", b"1" * 100_000])
async def test_depth_and_numbers_of_values_are_limited(body: bytes) -> None:
    began = time.process_time()
    await failure(whole(body), QUESTIONS[3])
    assert time.process_time() - began < 1


async def test_no_more_consumers_are_taken_in_than_the_limit() -> None:
    said = await failure(json(consumers(1001)), QUESTIONS[1], listed=1000)
    assert "1001 consumers, which is more than 1000 (the limit `listed`)" in said


async def test_of_a_queue_with_many_consumers_some_are_enough() -> None:
    found = await api_of(json(consumers(500, queue="q")))
    assert isinstance(found, dict)
    assert len(found["q"]) == answers.MANY


async def test_no_more_queues_are_taken_in_than_the_limit() -> None:
    page = {"items": [{"name": f"q{n}"} for n in range(500)], "page_count": 10**9}
    async with (
        HostileManagement(json(page)).serving() as server,
        Management(server.address(Limits(listed=1000))) as api,
    ):
        with pytest.raises(BrokerError, match="more than 1000 queues"):
            await api.queues_like("^q")
    assert len(server.asked) <= 3


async def test_what_is_shown_of_a_consumer_is_printable() -> None:
    rows = consumers(1, queue="q")
    rows[0]["channel_details"] = {"peer_host": ESCAPES + "x" * 1000, "peer_port": ESCAPES, "node": ESCAPES}
    found = await api_of(json(rows))
    assert isinstance(found, dict)
    (one,) = found["q"]
    assert one.client.isprintable()
    assert one.node.isprintable()
    assert len(one.client) < 100


async def test_the_loop_goes_on_while_a_large_answer_is_read() -> None:
    rows = orjson.dumps(consumers(20_000))
    late, running = 0.0, True

    async def beat() -> None:
        nonlocal late
        while running:
            at = time.perf_counter()
            await asyncio.sleep(0.001)
            late = max(late, time.perf_counter() - at)

    def read(found: object) -> list[object]:
        readers.append(threading.current_thread())
        return list(answers.consumers(found, 20_000))

    readers: list[threading.Thread] = []
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    began = time.perf_counter()
    found = await answers.understood(rows, read)
    took = time.perf_counter() - began
    running = False
    await beating
    assert len(found) == 20_000
    assert readers != [threading.current_thread()], "it is the loop's"
    assert late < max(0.25, took * 0.9)


async def test_answers_that_come_together_have_a_limit_together() -> None:
    arriving = answers.Arriving(1024 * 1024)
    one, other = _Response(600_000), _Response(300_000)
    with pytest.raises(answers.UnreadableError, match="room"):
        await arriving.read(one, 10 * MIB)  # type: ignore[arg-type]
    assert len(await arriving.read(other, 10 * MIB)) == 300_000  # type: ignore[arg-type]
    assert arriving.free == 1024 * 1024


class _Response:
    def __init__(self, size: int) -> None:
        self._size = size
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for _ in range(self._size // 1000):
            yield b"x" * 1000


@pytest.mark.parametrize("online", ["", None, 5, {"n1": 1}])
def test_members_of_which_nothing_is_said_are_not_taken_for_lost(online: object) -> None:
    assert not answers.offline({"members": ["n1", "n2"], "online": online})
    assert answers.offline({"members": ["n1", "n2"], "online": ["n1"]}) == {"n2"}
