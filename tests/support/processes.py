"""Starts and stops client processes for a test.

Invariant: no process outlives the `async with` block that started it; a kill is reported to the auditor before the
signal is sent.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from support.events import KILLED, Kind
from support.options import ConsumerOptions, Leave, Library, ProducerOptions, to_argument
from support.spool import Spool

STARTS = 3
"""How often a pod's container is started before its failure counts."""

_ROOT = Path(__file__).parent.parent


class Client:
    """A running client."""

    def __init__(self, name: str, process: Process, spool: Spool, log: Path, *, url: str) -> None:
        self.name = name
        self.url = url
        """The node that it is connected to."""
        self._process = process
        self._spool = spool
        self._log = log

    @property
    def pid(self) -> int:
        """The process's id, for signals of a test's own."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.returncode is None

    async def started(self, deadline: float = 60.0) -> Self:
        """Wait until it produces or consumes; a consumer waits for its queue to be declared."""
        async with asyncio.timeout(deadline):
            if not await self.up():
                await self._process.wait()
                raise AssertionError(f"{self.name} did not start: {self._log.read_text()}")
        return self

    async def up(self) -> bool:
        """Wait until it produces or consumes (True), or ends before it does (False)."""
        assert self._process.stdout is not None
        return bool(await self._process.stdout.readline())

    def terminate(self) -> None:
        """Ask it to leave as its options say, and do not wait."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    async def ended(self, deadline: float = 30.0) -> None:
        """Wait until it has ended by itself; it is an error if it failed."""
        async with asyncio.timeout(deadline):
            code = await self._process.wait()
        if code:
            raise AssertionError(f"{self.name} ended with {code}: {self._log.read_text()}")

    async def stop(self, deadline: float = 30.0) -> None:
        """Ask it to leave, and wait until it has."""
        self.terminate()
        await self.ended(deadline)

    async def over(self) -> int:
        """Wait until it has ended, however it does; its exit code."""
        return await self._process.wait()

    async def kill(self) -> None:
        """Kill it without grace."""
        if self.running:
            self._spool.note(self.name, Kind.GONE, KILLED)
            self._process.kill()
        await self._process.wait()


class Clients:
    """The clients of one test: `async with Clients(spool, url) as clients`."""

    def __init__(self, spool: Spool, url: str | Callable[[str], str]) -> None:
        """`url` may be chosen for each client by its name."""
        self._spool = spool
        self._url = url if callable(url) else lambda _: url
        self._clients: list[Client] = []
        self._in_pods: dict[str, list[Client]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.gather(*(client.kill() for client in self._clients)))

    async def consumer(
        self,
        queue: str,
        *,
        name: str,
        library: Library = Library.AIO_PIKA,
        prefetch: int = 20,
        work: float = 0.0,
        leave: Leave = Leave.FINISH,
        linger: float = 0.2,
        hold_after: int | None = None,
        report_queue: str = "",
    ) -> Client:
        """Start a consumer; `name` must be new, also for a client that comes back."""
        options = ConsumerOptions(
            url=self._url(name),
            queue=queue,
            name=name,
            spool=str(self._spool.directory),
            library=library,
            prefetch=prefetch,
            work=work,
            leave=leave,
            linger=linger,
            hold_after=hold_after,
            report_queue=report_queue,
        )
        return await self._start("consume", options)

    async def in_pod(self, queue: str, *, name: str, **options: object) -> Client:
        """Start a consumer as a pod's container, and wait until it consumes; options as for `consumer`.

        It may be called again for the same pod: its second client is named `<name>.2`. RabbitMQ 4.0 refuses a queue
        that is just being declared with 541: the container starts again then, as the kubelet sees to.
        """
        clients = self._in_pods.setdefault(name, [])
        last = len(clients) + STARTS
        while True:
            actor = f"{name}.{len(clients) + 1}" if clients else name
            client = await self.consumer(queue, name=actor, **options)  # type: ignore[arg-type]
            clients.append(client)
            try:
                return await client.started()
            except AssertionError as error:
                if "INTERNAL_ERROR" not in str(error) or len(clients) == last:
                    raise

    def latest(self, name: str) -> Client:
        """The client that was started last in a pod."""
        return self._in_pods[name][-1]

    async def producer(
        self,
        queue: str,
        *,
        name: str = "p",
        rate: float = 500.0,
        keys: int = 100,
        count: int | None = None,
        size: int = 200,
        in_header: bool = True,
        keyless: float = 0.0,
        first_keyless: int = 0,
        in_flight: int = 500,
    ) -> Client:
        """Start a producer; its keys are named `<name>-<number>`."""
        options = ProducerOptions(
            url=self._url(name),
            queue=queue,
            name=name,
            spool=str(self._spool.directory),
            rate=rate,
            keys=keys,
            count=count,
            size=size,
            in_header=in_header,
            keyless=keyless,
            first_keyless=first_keyless,
            in_flight=in_flight,
        )
        return await self._start("produce", options)

    async def _start(self, role: str, options: ConsumerOptions | ProducerOptions) -> Client:
        if any(client.name == options.name for client in self._clients):
            raise ValueError(f"there was a client {options.name} before: names are not used twice")
        log = self._spool.directory / f"{options.name}.log"
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "support.client",
                role,
                to_argument(options),
                stdout=PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
                # Ctrl-C at the terminal is for the test, which then stops its clients.
                start_new_session=True,
            )
        client = Client(options.name, process, self._spool, log, url=options.url)
        self._clients.append(client)
        return client
