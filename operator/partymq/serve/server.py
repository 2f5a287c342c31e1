"""`partymq serve`: routers and the clients API in one process, without a cluster.

Invariant: the parts live and die together; asked to end, the process first answers nothing more, then every router
stops gracefully and repeats nothing.
"""

import asyncio
import logging
import signal

from partymq.core.report import GroupReport, Notice
from partymq.core.spec import GroupId
from partymq.http.clients import MAX_BODY, api, middlewares
from partymq.http.groups import Groups
from partymq.http.server import Views, probes, serve
from partymq.metrics import Metrics
from partymq.router.broker.memory_budget import Budget
from partymq.router.client_service import ClientService
from partymq.router.supervisor import Supervisor
from partymq.serve.settings import Serving
from partymq.settings import VERSION

log = logging.getLogger(__name__)


class Server:
    """One process's parts, for one run."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._groups = {config.group.name: config.group for config in serving.groups}
        self._default = serving.groups[0].group
        self._metrics = Metrics()
        self._reports: dict[str, GroupReport] = {}
        self._stopping = asyncio.Event()
        self._supervisor = Supervisor(
            identity=serving.settings.identity,
            on_report=self._reported,
            on_notice=self._noticed,
            budget=Budget(serving.settings.in_flight_bytes),
        )

    async def run(self) -> None:
        """Run until a signal comes; raises what ended it otherwise."""
        settings, loop = self._serving.settings, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        for config in self._serving.groups:
            self._supervisor.configure(config)
            self._supervisor.set_pods(config.group, ())
        routing = asyncio.create_task(self._supervisor.run(), name="router")
        stopping = asyncio.create_task(self._stopping.wait(), name="signals")
        try:
            views = Views(alive=lambda: "", ready=self._unready, metrics=self._metrics.text)
            groups = Groups(known=lambda: self._supervisor.groups, service=self._supervisor.clients)
            async with serve(
                settings.http_host,
                settings.http_port,
                [*probes(views), *api(groups, lambda: self._reports, default=lambda _: self._service(self._default))],
                middlewares=middlewares(
                    self._serving.token, host=settings.http_host, names=self._serving.allowed_hosts
                ),
                max_body=MAX_BODY,
                connections=settings.limits.connections,
            ):
                log.info("PartyMQ %s serves %s as %s", VERSION, ", ".join(self._groups), settings.identity)
                await asyncio.wait({routing, stopping}, return_when=asyncio.FIRST_COMPLETED)
                log.info("Stopping")
        finally:
            stopping.cancel()
            routing.cancel()
            await asyncio.wait({routing, stopping})
        if not routing.cancelled() and (failure := routing.exception()):
            raise failure

    def _service(self, group: GroupId) -> ClientService:
        service = self._supervisor.clients(group)
        assert service is not None, "every group of this server has clients"
        return service

    def _unready(self) -> str:
        for name in self._groups:
            report = self._reports.get(name)
            if report is None or not (report.routing or report.ready.reason == "Standby"):
                return f"The group {name} is not routed: {report.ready.message if report else 'not started yet'}"
        return ""

    def _reported(self, group: GroupId, report: GroupReport) -> None:
        self._metrics.report(group, report)
        self._reports[group.name] = report

    def _noticed(self, group: GroupId, notice: Notice) -> None:
        log.log(logging.WARNING if notice.warning else logging.INFO, "%s: %s: %s", group, notice.reason, notice.message)
