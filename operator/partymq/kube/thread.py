"""The thread in which kopf and the controller live.

Invariant: this thread and the router's never wait for each other; what crosses is immutable and goes by
call_soon_threadsafe. When this thread ends, for whatever reason, the main thread is told.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import kopf
from kubernetes.aio import client

from partymq.core.report import GroupReport, Notice
from partymq.core.spec import GroupId
from partymq.errors import PartyMQError
from partymq.kube import handlers
from partymq.kube.bridge import Bridge, Router
from partymq.kube.client import Client, configuration
from partymq.kube.controller import Controller

log = logging.getLogger(__name__)

_HEARTBEAT: Final = 1.0
SILENT: Final = 30.0
"""Seconds without a heartbeat after which the thread is called stuck."""
_STOP: Final = 10.0

_T = TypeVar("_T")


class KubernetesThread:
    """Watches the cluster for a router. All methods are for the thread that made it, in its running loop."""

    def __init__(
        self, router: Router, *, identity: str, namespaces: tuple[str, ...], kubeconfig: str | None = None
    ) -> None:
        self._home = asyncio.get_running_loop()
        self._router = Bridge(router, self._home)
        self._identity = identity
        self._namespaces = namespaces
        self._kubeconfig = kubeconfig
        self._thread = threading.Thread(target=self._run, name="kubernetes", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._controller: Controller | None = None
        self._stop: asyncio.Event | None = None
        self._beat = time.monotonic()
        self._watching = False
        self.ended: asyncio.Future[None] = self._home.create_future()
        """Done when the thread is over, with what ended it."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def report(self, group: GroupId, report: GroupReport) -> None:
        """What the router reports."""
        if self._loop and self._controller and not self.ended.done():
            self._loop.call_soon_threadsafe(self._controller.report, group, report)

    def notice(self, group: GroupId, notice: Notice) -> None:
        """What the router notices."""
        if self._loop and self._controller and not self.ended.done():
            self._loop.call_soon_threadsafe(self._controller.notice, group, notice)

    async def quiesce(self) -> None:
        """Call the router no more; what it says is still shown."""
        if self._controller:
            await self._there(self._controller.quiesce())

    async def stop(self) -> None:
        """Show the last words, stop watching and wait until the thread is over."""
        if self._loop and self._stop and not self.ended.done():
            if self._controller:
                await self._there(self._controller.flush())
            self._loop.call_soon_threadsafe(self._stop.set)
        done, _ = await asyncio.wait({self.ended}, timeout=_STOP)
        if not done:
            log.warning("kopf did not stop within %.0f seconds; the process ends without it.", _STOP)

    def stuck(self) -> str:
        """Why the thread is not alive; empty if it is."""
        if self.ended.done():
            return "The thread that watches Kubernetes has ended."
        silent = time.monotonic() - self._beat
        return f"The thread that watches Kubernetes has been stuck for {silent:.0f} seconds." if silent > SILENT else ""

    def unready(self) -> str:
        """Why the cluster is not known yet; empty once it is, whether or not the API server can be reached now."""
        if self._watching:
            return ""
        failing = self._controller.failing if self._controller else ""
        return f"The cluster has not been listed yet. {failing}".rstrip()

    async def _there(self, work: Coroutine[Any, Any, _T]) -> None:
        """Do something on the thread's loop and wait for it, unless the thread ends first."""
        assert self._loop is not None
        if self.ended.done():
            work.close()
            return
        done = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        either: set[asyncio.Future[Any]] = {done, self.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            await done

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, whatever it is
            failure = error
        with suppress(RuntimeError):  # the main loop is closed: nobody waits any more
            self._home.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: BaseException | None) -> None:
        if failure:
            self.ended.set_exception(failure)
        else:
            self.ended.set_result(None)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        login = await configuration(self._kubeconfig)
        async with Client.connect(login) as api:
            self._controller = Controller(
                api=api, router=self._router, identity=self._identity, namespaces=self._namespaces
            )
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(self._keep_beating(), name="heartbeat")
                controlling = tasks.create_task(self._controller.run(), name="controller")
                enough = asyncio.Event()
                # The first list proves that the kind exists and may be read; kopf would give up without it.
                if await _first(self._controller.synced, self._stop):
                    tasks.create_task(self._watch(self._controller, login, enough), name="kopf")
                    await self._stop.wait()
                # Before kopf: it cancels every task in its loop that is younger than itself.
                controlling.cancel()
                await asyncio.wait({controlling})
                enough.set()
                beating.cancel()

    async def _watch(self, controller: Controller, login: client.Configuration, enough: asyncio.Event) -> None:
        self._watching = True
        await kopf.operator(
            registry=handlers.registry(controller, login),
            settings=handlers.settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=enough,
        )
        if not enough.is_set():
            raise PartyMQError("kopf stopped watching the cluster although nobody asked it to; the log says why.")

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_HEARTBEAT)


async def _first(good: asyncio.Event, bad: asyncio.Event) -> bool:
    """Wait for either; True if the good one came."""
    waits = {asyncio.create_task(good.wait()), asyncio.create_task(bad.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return not bad.is_set()
