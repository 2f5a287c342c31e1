"""The running operator: the router and the HTTP server in this thread, Kubernetes in another.

Invariant: the parts live and die together. When one ends unasked the process ends with its reason; when the process is
asked to end, clients are answered no more, Kubernetes hands nothing on any more, then the router stops gracefully, then
its last words are shown.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from partymq.core.membership import Pod
from partymq.core.names import Names
from partymq.core.report import GroupReport
from partymq.core.spec import ClientsSpec, DeletionPolicy, GroupConfig, GroupId, limited
from partymq.http.clients import MAX_BODY, api, middlewares
from partymq.http.groups import Groups
from partymq.http.server import Views, probes, serve
from partymq.http.tokens import NamespaceTokens
from partymq.kube.thread import KubernetesThread
from partymq.metrics import Metrics
from partymq.router.broker.memory_budget import Budget
from partymq.router.supervisor import Supervisor
from partymq.settings import VERSION, Settings

log = logging.getLogger(__name__)


class Operator:
    """One process's parts, for one run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._reports: dict[GroupId, GroupReport] = {}
        self._kubernetes = KubernetesThread(
            self,
            identity=settings.identity,
            namespaces=settings.namespaces,
            kubeconfig=settings.kubeconfig,
            secret_label=settings.secret_label,
            limits=settings.limits,
        )
        self._supervisor = Supervisor(
            identity=settings.identity,
            on_report=self._reported,
            on_notice=self._kubernetes.notice,
            budget=Budget(settings.in_flight_bytes),
        )
        self._stopping = asyncio.Event()

    def configure(self, config: GroupConfig) -> None:
        """Create or change a group."""
        if (clients := self._settings.clients) is not None:
            spec = ClientsSpec(
                exchange=Names(config.group).exchange,
                expires_after=clients.expires_after,
                check_every=clients.check_every,
            )
            config = replace(config, clients=spec)
        self._supervisor.configure(limited(config, self._settings.limits))

    def set_pods(self, group: GroupId, pods: tuple[Pod, ...]) -> None:
        """The whole current list of the group's pods."""
        self._supervisor.set_pods(group, pods)

    def prefer(self, group: GroupId, identity: str | None) -> None:
        """The replica that should route the group."""
        self._supervisor.prefer(group, identity)

    async def remove(self, group: GroupId, policy: DeletionPolicy) -> tuple[str, ...]:
        """Stop routing and delete the group's queues; the names of those that stay."""
        left = await self._supervisor.remove(group, policy)
        self._forget(group)
        return left

    async def release(self, group: GroupId) -> None:
        """Stop routing here and touch no queue."""
        await self._supervisor.release(group)
        self._forget(group)

    async def run(self) -> None:
        """Run until a signal comes; raises what ended it otherwise."""
        settings, loop = self._settings, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        views = Views(alive=self._kubernetes.stuck, ready=self._kubernetes.unready, metrics=self._metrics.text)
        most = settings.limits.connections
        async with serve(settings.http_host, settings.http_port, probes(views), connections=most):
            where = f"namespaces {', '.join(settings.namespaces)}" if settings.namespaces else "all namespaces"
            log.info("PartyMQ %s serves %s as %s", VERSION, where, settings.identity)
            routing = asyncio.create_task(self._supervisor.run(), name="router")
            self._kubernetes.start()
            stopping = asyncio.create_task(self._stopping.wait(), name="signals")
            parts: set[asyncio.Future[Any]] = {routing, self._kubernetes.ended, stopping}
            async with self._clients_api():
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            log.info("Stopping")
            await self._kubernetes.quiesce()
            routing.cancel()
            await asyncio.wait({routing})
            await self._kubernetes.stop()
        for part in (routing, self._kubernetes.ended):
            if part.done() and not part.cancelled() and (failure := part.exception()):
                raise failure

    @asynccontextmanager
    async def _clients_api(self) -> AsyncIterator[None]:
        clients = self._settings.clients
        if clients is None:
            yield
            return
        groups = Groups(
            known=lambda: self._supervisor.groups,
            service=self._supervisor.clients,
            unready=self._kubernetes.unready,
        )
        tokens = None
        if secret := clients.token_secret:
            tokens = NamespaceTokens(lambda namespace: self._kubernetes.secret(namespace, secret))
        served = serve(
            clients.host,
            clients.port,
            api(groups, lambda: {str(group): report for group, report in self._reports.items()}),
            what="the clients API",
            option="clients-port",
            middlewares=middlewares(
                clients.token,
                host=clients.host,
                names=clients.allowed_hosts,
                tokens=tokens,
                candidates=groups.namespaces,
            ),
            max_body=MAX_BODY,
            connections=self._settings.limits.connections,
        )
        async with served:
            yield
        if tokens is not None:
            await tokens.close()

    def _forget(self, group: GroupId) -> None:
        self._reports.pop(group, None)
        self._metrics.forget(group)
        self._kubernetes.forget(group)

    def _reported(self, group: GroupId, report: GroupReport) -> None:
        self._reports[group] = report
        self._metrics.report(group, report)
        self._kubernetes.report(group, report)
