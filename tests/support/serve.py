"""`partymq serve` in a process of its own, plain clients' queues, and what ended up in them.

Invariant: the process is gone and all queues are deleted when the block is left; a plain client is nothing but a queue,
a binding and some POSTs. The exchange is one for all servers of a broker, so no two tests have clients of one name.
"""

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
from pamqp.encode import field_table

from partymq.amqp.connection import Connection, body_payload
from partymq.amqp.frames import HEADER_HEAD, body_frames, publish_frame
from partymq.amqp.topology import Topology
from partymq.core.spec import DeletionPolicy, GroupConfig, GroupId, GroupSpec
from partymq.router.maintenance.queue_removal import remove_group
from support.broker import amqp_url, management_url, unique
from support.conditions import eventually
from support.group import address
from support.killed_server import KILL_AT

TESTS = Path(__file__).parent.parent


@dataclass(slots=True, kw_only=True)
class Served:
    """One group of a server under test and its clients."""

    group: str
    source: str
    session: aiohttp.ClientSession
    connection: aio_pika.abc.AbstractConnection
    channel: aio_pika.abc.AbstractChannel
    environment: dict[str, str]
    port: int
    prefix: str = ""
    """Where the group's API is."""
    log: Path | None = None
    """Where what it logs goes; nowhere if there is none."""
    process: Process | None = None
    others: list["Served"] = field(default_factory=list)
    queues: dict[str, str] = field(default_factory=dict)
    """The queue of every plain client."""
    managed: set[str] = field(default_factory=set)
    """Who has an inbox."""
    sent: int = 0

    async def start(self, *, kill_at: str = "") -> None:
        """Starts the server, and returns once it routes or stands by; at `kill_at`, a named point, it kills itself."""
        environment = {**os.environ, **self.environment, "PARTYMQ_HTTP_PORT": str(self.port), KILL_AT: kill_at}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), environment.get("PYTHONPATH"))))
        with (self.log or Path(os.devnull)).open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "support.killed_server" if kill_at else "partymq", "serve",
                env=environment, stderr=log, start_new_session=True,  # Ctrl-C is for the test, which then ends it
            )  # fmt: skip
        await eventually(self._answers, lambda: f"the server does not route: {self._said()}", 30.0, every=0.02)

    async def _answers(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self._said()}")
        try:
            return (await self.call("GET", "/readyz"))[0] == 200
        except aiohttp.ClientError:
            return False

    def _said(self) -> str:
        """The last that it has logged."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log is not None else []
        return "\n".join(lines[-5:]) or "nothing is logged"

    async def died(self) -> None:
        """Waits until it has come to the point at which it kills itself."""
        assert self.process is not None
        async with asyncio.timeout(60):
            assert await self.process.wait() == -signal.SIGKILL

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return await self.process.wait()

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:  # noqa: ANN401 - JSON
        """A request's status, and its body as JSON; clients' names are made this group's own on the way."""
        if path.startswith(("/clients", "/keys", "/partitions")):
            path = self.prefix + path.replace("/clients/", f"/clients/{self.group}.")
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, **options) as answer:
            json = "json" in answer.content_type and await answer.read()
            body = await answer.json(content_type=None) if json else None
            return answer.status, self._short(body)

    def _short(self, body: Any) -> Any:  # noqa: ANN401 - JSON
        match body:
            case dict():
                return {name: self._short(value) for name, value in body.items()}
            case list():
                return [self._short(value) for value in body]
            case str():
                return body.removeprefix(f"{self.group}.")
            case _:
                return body

    async def post(self, path: str, expected: int = 200, **options: Any) -> Any:  # noqa: ANN401 - JSON
        """A POST that must end as expected."""
        status, body = await self.call("POST", path, **options)
        assert status == expected, (path, status, body)
        return body

    async def join(self, name: str) -> None:
        """What a client of the first version does."""
        queue = self.queues.setdefault(name, f"{self.group}.{name}")
        binding = await self.post(f"/clients/{name}/bind")
        declared = await self.channel.declare_queue(queue, durable=True)
        await declared.bind(binding["exchange"], binding["routingKey"])
        await self.post(f"/clients/{name}/ready")

    async def drained(self, deadline: float = 60.0) -> None:
        """Waits until everything has left the source."""

        async def empty() -> bool:
            state = (await self.channel.declare_queue(self.source, passive=True)).declaration_result
            return not state.message_count and (await self.total()) >= self.sent

        await eventually(empty, "the source is not drained", deadline=deadline, every=0.2)

    async def routed(self, messages: int) -> None:
        """Waits until this process has seen so many confirmed in their queues, and taken them from the source."""

        async def counted() -> bool:
            async with self.session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
                found = re.search(r"^partymq_messages_routed_total{.*} (\S+)$", await answer.text(), re.MULTILINE)
            return found is not None and float(found[1]) >= messages

        await eventually(counted, f"{messages} messages are not routed", 60.0)

    async def total(self) -> int:
        """Ready messages in all clients' queues."""
        counts = [
            (await self.channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0
            for queue in self.queues.values()
        ]
        return sum(counts)

    async def publish(self, keys: Iterable[str]) -> None:
        """Publishes a message for each key, numbered through, as fast as it goes."""
        connection = await Connection.open(address(), name="test")
        channel = await connection.channel()
        frame = publish_frame(channel.number, "", self.source)
        for key in keys:
            self.sent += 1
            body = f"{self.sent} {key}".encode()
            header = HEADER_HEAD.pack(60, 0, len(body)) + b"\x30\x00" + field_table({"partitionKey": key}) + b"\x02"
            channel.publish(frame, header, body_frames(body, channel.number))
            if self.sent % 1000 == 0:
                await asyncio.sleep(0)
        await channel.inspect(self.source)  # answered when all that was sent before is handled
        await connection.close()

    async def received(self) -> dict[str, list[tuple[int, str]]]:
        """What every client's queue holds, in order: numbers and keys."""
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        connection = await Connection.open(address(), name="test")
        try:
            for name, queue in self.queues.items():
                await _read(connection, queue, found[name])
        finally:
            connection.abort()
        return found


async def _read(connection: Connection, queue: str, into: list[tuple[int, str]]) -> None:
    channel = await connection.channel()
    ready, _ = await channel.inspect(queue)

    def take(_tag: int, _origin: bytes, _header: bytes, body: bytes) -> None:
        number, key = body_payload(body).decode().split()
        into.append((int(number), key))

    await channel.consume(queue, take)
    await eventually(
        lambda: len(into) >= ready,
        lambda: f"{len(into)} of the {ready} messages of {queue} are read; the connection: {connection.lost}",
        60.0,
    )


def owners(received: dict[str, list[tuple[int, str]]]) -> dict[str, set[str]]:
    """The clients that got messages of each key."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, messages in received.items():
        for _, key in messages:
            found[key].add(name)
    return found


def disorder(received: dict[str, list[tuple[int, str]]]) -> int:
    """First deliveries of a key that came after a newer one, in any queue."""
    count = 0
    for messages in received.values():
        newest: dict[str, int] = {}
        seen: set[int] = set()
        for number, key in messages:
            if number not in seen:
                count += number < newest.get(key, 0)
                newest[key] = max(newest.get(key, 0), number)
            seen.add(number)
    return count


@asynccontextmanager
async def serving(
    source_arguments: Mapping[str, object] | None = None,
    /,
    *,
    group: str | None = None,
    log: Path | None = None,
    **environment: str,
) -> AsyncIterator[Served]:
    """A server with a group and a source of its own, started."""
    group = group or unique("serve")
    async with await aio_pika.connect(amqp_url()) as connection, aiohttp.ClientSession() as session:
        channel = await connection.channel()
        source = f"{group}.source"
        variables = {
            "PARTYMQ_RABBIT_CS": amqp_url(),
            "PARTYMQ_MANAGEMENT_URI": management_url(),
            "PARTYMQ_SOURCE_QUEUE": source,
            "PARTYMQ_GROUP": group,
            "PARTYMQ_HTTP_HOST": "127.0.0.1",
            **environment,
        }
        served = Served(
            group=group,
            source=source,
            session=session,
            connection=connection,
            channel=channel,
            environment=variables,
            port=free_port(),
            log=log,
        )
        try:
            arguments = dict(source_arguments or {})
            await channel.declare_queue(source, durable=True, arguments=arguments)  # type: ignore[arg-type]
            await served.start()
            yield served
        finally:
            for server in (served, *served.others):
                if server.process is not None and server.process.returncode is None:
                    await server.kill()
            for server in (served, *served.others):
                await _delete_queues(server)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def _delete_queues(served: Served) -> None:
    """What the group's journal knows of, as when a PartitionGroup is deleted, and what is the clients' own."""
    group = GroupId(namespace="default", name=served.group)
    config = GroupConfig(group=group, spec=GroupSpec(source_queue=served.source), broker=address())
    inboxes_of = [f"{served.group}.{name}" for name in served.managed]
    await remove_group(config, title=f"remove {group}", members=inboxes_of, policy=DeletionPolicy.DELETE)
    topology = await Topology.open(address(), name="test")
    await asyncio.gather(*(topology.delete(queue) for queue in (served.source, *served.queues.values())))
    await topology.close()
