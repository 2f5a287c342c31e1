"""One stretch of watching the cluster: the controller, and kopf to wake it.

Invariant: kopf begins after the controller has listed everything once, and ends after it. Without the first list nobody
knows that the kind exists and may be read, and kopf would give up; and when it ends it cancels every task in its loop
that is younger than itself.
"""

import asyncio

import kopf
from kubernetes.aio import client

from partymq.aio import unless
from partymq.errors import PartyMQError
from partymq.kube import handlers
from partymq.kube.bridge import Bridge
from partymq.kube.client import Client
from partymq.kube.controller import Controller
from partymq.limits import Limits


class Watch:
    """Made, run and called on one loop."""

    def __init__(
        self, *, api: Client, router: Bridge, identity: str, namespaces: tuple[str, ...], limits: Limits
    ) -> None:
        self.controller = Controller(
            api=api,
            router=router,
            identity=identity,
            namespaces=namespaces,
            inherited=router.groups,
            limits=limits,
        )
        self._namespaces = namespaces
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Let `run` return."""
        self._stop.set()

    async def run(self, login: client.Configuration) -> None:
        """Watch until stopped; raises what kept it from going on."""
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            controlling = tasks.create_task(self.controller.run(), name="controller")
            if await unless(self._stop, self.controller.synced.wait()):
                tasks.create_task(self._kopf(login, enough), name="kopf")
                await self._stop.wait()
            controlling.cancel()
            await asyncio.wait({controlling})
            enough.set()

    async def _kopf(self, login: client.Configuration, enough: asyncio.Event) -> None:
        await kopf.operator(
            registry=handlers.registry(self.controller, login),
            settings=handlers.settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=enough,
        )
        if not enough.is_set():
            raise PartyMQError("kopf stopped although nobody asked it to; what it logged before says why.")
