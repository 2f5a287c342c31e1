"""The thread in which kopf and the controller live.

Invariant: this thread and the router's never wait for each other; what crosses is immutable and goes by
call_soon_threadsafe. Nothing that happens here ends routing: a stretch of watching that fails is followed by another,
and what the router reported before is shown again.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import kopf
from kubernetes.aio import client

from partymq.core.report import GroupReport, Notice
from partymq.core.spec import GroupId
from partymq.errors import PartyMQError
from partymq.kube.bridge import Bridge, Router
from partymq.kube.client import TIMEOUT, ApiError, Client, LoginError, configuration
from partymq.kube.watch import Watch
from partymq.limits import Limits

log = logging.getLogger(__name__)

SILENT: Final = 30.0
"""Seconds without a heartbeat after which the thread is called stuck."""
_HEARTBEAT: Final = 1.0
_PAUSES: Final = (1.0, 10.0)
"""The first and the longest pause before watching starts again, in seconds."""
_STEADY: Final = 60.0
"""Seconds of watching after which the next pause is the first one again."""
_STOP: Final = 10.0
_LINGER: Final = 0.1
"""Seconds between the last closed connection and the loop's end: TLS transports close a moment later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    loop: asyncio.AbstractEventLoop
    watch: Watch
    api: Client


class KubernetesThread:
    """Watches the cluster for a router. All methods are for the thread that made it, in its running loop."""

    def __init__(
        self,
        router: Router,
        *,
        identity: str,
        namespaces: tuple[str, ...],
        kubeconfig: str | None = None,
        secret_label: str = "",
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Only Secrets with `secret_label` (`name=value`, or a name) are read; empty for all that a group may name."""
        self._home = asyncio.get_running_loop()
        self._router = Bridge(router, self._home)
        self._identity = identity
        self._namespaces = namespaces
        self._kubeconfig = kubeconfig
        self._secret_label = secret_label
        self._limits = limits
        self._thread = threading.Thread(target=self._run, name="kubernetes", daemon=True)
        self._reports: dict[GroupId, GroupReport] = {}
        self._stretch: _Stretch | None = None
        self._enough = threading.Event()
        self._beat = time.monotonic()
        self._failed = ""
        self._known = False
        self.ended: asyncio.Future[None] = self._home.create_future()
        """Done when the thread is over, with what ended it."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def report(self, group: GroupId, report: GroupReport) -> None:
        """What the router reports."""
        self._reports[group] = report
        self._call(lambda watch: watch.controller.report(group, report))

    def notice(self, group: GroupId, notice: Notice) -> None:
        """What the router notices."""
        self._call(lambda watch: watch.controller.notice(group, notice))

    def forget(self, group: GroupId) -> None:
        """The router does not know this group any more."""
        self._reports.pop(group, None)

    async def quiesce(self) -> None:
        """Call the router no more; what it says is still shown."""
        self._enough.set()
        await self._there(lambda watch: watch.controller.quiesce())

    async def stop(self) -> None:
        """Say that nobody routes any more, stop watching and wait until the thread is over."""
        self._enough.set()
        await self._there(lambda watch: watch.controller.conclude())
        self._call(lambda watch: watch.stop())
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
        if self._known:
            return ""
        stretch = self._stretch
        failing = stretch.watch.controller.failing if stretch else self._failed
        return f"The cluster has not been listed yet. {failing}".rstrip()

    async def secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """A Secret's entries; None if there is none. InvalidSecretError if it is not for us, ApiError if not now."""
        stretch = self._stretch
        if stretch is None or self.ended.done():
            raise ApiError(
                f"read Secret {namespace}/{name}", 0, f"the API server is not followed. {self._failed}".rstrip()
            )
        reading = asyncio.run_coroutine_threadsafe(stretch.api.read_secret(namespace, name), stretch.loop)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await asyncio.wrap_future(reading)
        except TimeoutError:  # its loop has ended meanwhile
            raise ApiError(f"read Secret {namespace}/{name}", 0, "no answer in time") from None

    # --- from the main thread to this one

    def _call(self, call: Callable[[Watch], object]) -> None:
        if stretch := self._stretch:
            with suppress(RuntimeError):  # it ended at this moment
                stretch.loop.call_soon_threadsafe(call, stretch.watch)

    async def _there(self, work: Callable[[Watch], Coroutine[Any, Any, None]]) -> None:
        """Do something on the thread's loop and wait for it, unless the thread ends first."""
        stretch = self._stretch
        if stretch is None or self.ended.done():
            return
        done = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(stretch.watch), stretch.loop))
        either: set[asyncio.Future[Any]] = {done, self.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            await done

    def _replay(self) -> None:
        for group, report in self._reports.items():
            self.report(group, report)

    def _end(self, failure: BaseException | None) -> None:
        if failure:
            self.ended.set_exception(failure)
        else:
            self.ended.set_result(None)

    # --- on this thread

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            self._persist()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, whatever it is
            failure = error
        with suppress(RuntimeError):  # the main loop is closed: nobody waits any more
            self._home.call_soon_threadsafe(self._end, failure)

    def _persist(self) -> None:
        pause = _PAUSES[0]
        while not self._enough.is_set():
            began = time.monotonic()
            try:
                asyncio.run(self._watch())
            except LoginError as error:
                if not self._known:
                    raise
                self._complain(error, pause)
            except Exception as error:  # noqa: BLE001 - whatever kopf dies of: routing must not
                self._complain(error, pause)
            finally:
                self._stretch = None
            pause = _PAUSES[0] if time.monotonic() - began > _STEADY else min(pause * 2, _PAUSES[1])
            self._beat = time.monotonic()
            self._enough.wait(pause)

    def _complain(self, error: Exception, pause: float) -> None:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        self._failed = f"{error}"
        defect = None if isinstance(error, (PartyMQError, kopf.LoginError)) else error
        log.error("Watching Kubernetes failed and starts again in %.0f s: %s", pause, error, exc_info=defect)

    async def _watch(self) -> None:
        login = await configuration(self._kubeconfig)
        try:
            async with Client.connect(login, secret_label=self._secret_label) as api:
                await self._watch_with(api, login)
        finally:
            await asyncio.sleep(_LINGER)

    async def _watch_with(self, api: Client, login: client.Configuration) -> None:
        watch = Watch(
            api=api,
            router=self._router,
            identity=self._identity,
            namespaces=self._namespaces,
            limits=self._limits,
        )
        self._stretch = _Stretch(loop=asyncio.get_running_loop(), watch=watch, api=api)
        if self._enough.is_set():
            return  # `stop` came before there was anything to stop
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._keep_beating(), name="heartbeat")
            catching_up = tasks.create_task(self._catch_up(watch), name="reports")
            await watch.run(login)
            beating.cancel()
            catching_up.cancel()

    async def _catch_up(self, watch: Watch) -> None:
        """Once the groups are known, what was reported before can be shown."""
        await watch.controller.synced.wait()
        self._known = True
        self._home.call_soon_threadsafe(self._replay)

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_HEARTBEAT)
